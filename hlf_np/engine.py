"""The two ways to compute a network: compiled programs, and the readable autodiff."""

from enum import StrEnum


class Engine(StrEnum):
    """How gradients are computed; the results agree up to rounding."""

    PROGRAM = "program"
    AUTODIFF = "autodiff"
