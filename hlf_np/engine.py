"""What computes: the compiled programs, or the readable autodiff."""

from enum import StrEnum


class Engine(StrEnum):
    """Compiled or readable; they agree to rounding."""

    PROGRAM = "program"
    AUTODIFF = "autodiff"
