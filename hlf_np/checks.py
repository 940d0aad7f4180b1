"""Checks of what users hand in, each with one clear sentence."""

import copy
import math
import numbers
import operator
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.errors import UserError


def check_images(images: Floats, image_shape: tuple[int, int, int] | None = None) -> Floats:
    """Images as this package computes with them: float32, (N, H, W, C), in [0, 1], rows side by side in memory.

    Any floating-point type is taken and converted. Whole numbers are not: whether they go up to 1, 255 or 65535 only
    the caller knows.

    Raises
    ------
    UserError : for anything but a NumPy array, other numbers or shapes than `image_shape` if that is given.

    Examples
    --------
    >>> check_images(np.full((2, 28, 28, 1), 0.5)).dtype
    dtype('float32')
    >>> check_images(np.zeros((2, 28, 28, 1), np.uint8))
    Traceback (most recent call last):
    hlf_np.errors.UserError: images must be ... in [0, 1], not uint8: use images.astype(numpy.float32) / 255
    """
    if not isinstance(images, np.ndarray):
        raise UserError(f"images must be a NumPy array, not {type(images).__name__}: use numpy.array(images)")
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != image_shape):
        expected = "(N, H, W, C)" if image_shape is None else "(N, {}, {}, {})".format(*image_shape)
        raise UserError(f"images must have shape {expected}, not {images.shape}{_reshaping(images.shape, image_shape)}")
    if images.dtype.kind != "f":
        mending = {"uint8": "use images.astype(numpy.float32) / 255", "bool": "use images.astype(numpy.float32)"}
        todo = mending.get(images.dtype.name, "scale them to [0, 1] as numpy.float32")
        raise UserError(f"images must be floating-point numbers in [0, 1], not {images.dtype}: {todo}")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN compares false
        found = f"(from {images.min()!s} to {images.max()!s})"  # in all digits: the largest may be 1.0000001
        if not np.isfinite(images).all():
            raise UserError(f"images hold NaN or infinite values {found}: remove them")
        todo = "scale them, or clip mere rounding with images.clip(0, 1)"
        raise UserError(f"images hold values outside [0, 1] {found}: {todo}")
    return np.ascontiguousarray(images, np.float32)


def _reshaping(shape: tuple[int, ...], wanted: tuple[int, int, int] | None) -> str:
    """How to make images of the right shape, in two cases that are often met."""
    if len(shape) == 3 and (wanted is None or (*shape[1:], 1) == wanted):
        return ": use images[..., None]"
    if len(shape) == 4 and wanted == (*shape[2:], shape[1]):
        return ": use images.transpose(0, 2, 3, 1)"
    return ""


def check_labels(labels: Integers, classes: int, count: int) -> Integers:
    """Labels as this package computes with them: int64, (count,), from 0 to classes - 1.

    Whole numbers of any width are taken and converted.

    Raises
    ------
    UserError : for anything but a NumPy array, one-hot rows, and other numbers or shapes.

    Examples
    --------
    >>> check_labels(np.array([3, 7], np.uint8), classes=10, count=2).dtype
    dtype('int64')
    """
    if not isinstance(labels, np.ndarray):
        raise UserError(f"labels must be a NumPy array, not {type(labels).__name__}: use numpy.array(labels)")
    if labels.shape != (count,):
        todo = ""
        if labels.ndim == 2:
            todo = ": use labels[:, 0]" if labels.shape[1] == 1 else ": use labels.argmax(axis=1)"
        raise UserError(f"labels must have shape ({count},), one class number per image, not {labels.shape}{todo}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels must be whole numbers, not {labels.dtype}: use labels.astype(numpy.int64)")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(f"labels must lie between 0 and {classes - 1}, found {labels.min()} to {labels.max()}")
    return np.ascontiguousarray(labels, np.int64)


def check_batches(network: Callable[[Tensor, bool], Tensor], images: Floats, batch_size: int) -> None:
    """UserError for a batch of training, often the last, that is too small for batch norm: one of a single image."""
    if 1 not in (batch_size, len(images) % batch_size):
        return
    try:
        copy.deepcopy(network)(Tensor(images[:1]), True)  # a copy, as running statistics change
    except UserError as error:
        raise UserError(
            f"{error}: {len(images)} images in batches of {batch_size} leave a batch of one, use another batch_size"
        ) from None


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
