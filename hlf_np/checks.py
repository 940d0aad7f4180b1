"""Checks of what users hand in, each with one clear sentence."""

import math
import numbers
import operator
from enum import StrEnum
from typing import TypeVar

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.errors import UserError


def check_images(images: Floats, image_shape: tuple[int, int, int] | None = None) -> None:
    """Images must be float32, (N, H, W, C), in [0, 1], and of `image_shape` if that is given."""
    if not isinstance(images, np.ndarray):
        raise UserError(f"images must be a NumPy array, not {type(images).__name__}")
    expected = "(N, H, W, C)" if image_shape is None else "(N, {}, {}, {})".format(*image_shape)
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != image_shape):
        raise UserError(f"images must have shape {expected}, not {images.shape}")
    if images.dtype != np.float32:
        raise UserError(f"images must be float32 in [0, 1], not {images.dtype}: divide and convert them first")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN compares false
        problem = "NaN or infinite values" if not np.isfinite(images).all() else "values outside [0, 1]"
        raise UserError(f"images hold {problem} (from {images.min():.4g} to {images.max():.4g}): scale them to [0, 1]")


def check_labels(labels: Integers, classes: int, count: int) -> None:
    """Labels must be int64, (count,), from 0 to classes - 1."""
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise UserError(f"labels must be a NumPy array of int64, not {kind}: use labels.astype(numpy.int64)")
    if labels.shape != (count,):
        raise UserError(f"labels must have shape ({count},), one per image, not {labels.shape}")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(f"labels must lie between 0 and {classes - 1}, found {labels.min()} to {labels.max()}")


def check_count(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """A whole number within bounds."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, not {value!r}") from None
    if number < least or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise UserError(f"{name} must be {bounds}, not {number}")
    return number


Choice = TypeVar("Choice", bound=StrEnum)


def check_choice(name: str, value: str, choices: type[Choice]) -> Choice:
    """One of an enumeration's names."""
    try:
        return choices(value)
    except ValueError:
        raise UserError(f"unknown {name} {str(value)!r}: use one of {', '.join(choices)}") from None


def check_positive(name: str, value: float) -> float:
    """A finite number above 0."""
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise UserError(f"{name} must be a positive number, not {value!r}")
    return float(value)
