"""Checks of arguments; each raises a `UserError` with one clear sentence."""

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import StrEnum
from types import MemberDescriptorType
from typing import Any, TypeVar

import numpy as np

from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.errors import UserError


def check_images(images: Floats, image_shape: tuple[int, int, int] | None = None) -> Floats:
    """Check images and convert them to contiguous float32.

    Any floating-point type is converted. Integers are not supported, as their scale is unknown: the largest value may
    be 1, 255 or 65535.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
        Images in [0, 1].
    image_shape : tuple of int, optional
        Required (H, W, C).

    Returns
    -------
    ndarray of float32, shape (N, H, W, C)
        The images, not copied if they have this type and layout already.

    Raises
    ------
    UserError
        If the images are not a NumPy array, or have another shape, an unsupported type, or values outside [0, 1].

    Examples
    --------
    >>> check_images(np.full((2, 28, 28, 1), 0.5)).dtype
    dtype('float32')
    >>> check_images(np.zeros((2, 28, 28, 1), np.uint8))
    Traceback (most recent call last):
    hlf_np.support.errors.UserError: images must be ... in [0, 1], not uint8: use images.astype(numpy.float32) / 255
    """
    if not isinstance(images, np.ndarray) or isinstance(images, np.ma.MaskedArray):  # a mask would be ignored
        raise UserError(f"images must be a NumPy array, not {type(images).__name__}: use numpy.array(images)")
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != image_shape):
        expected = "(N, H, W, C)" if image_shape is None else "(N, {}, {}, {})".format(*image_shape)
        hint = _shape_hint(images.shape, image_shape)
        raise UserError(f"images must have shape {expected}, not {images.shape}{hint}")
    if images.dtype.kind != "f":
        conversions = {"uint8": "use images.astype(numpy.float32) / 255", "bool": "use images.astype(numpy.float32)"}
        hint = conversions.get(images.dtype.name, "scale them to [0, 1] as numpy.float32")
        raise UserError(f"images must be floating-point numbers in [0, 1], not {images.dtype}: {hint}")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # also true for NaN
        value_range = f"(from {images.min()!s} to {images.max()!s})"  # all digits, as in 1.0000001
        if not np.isfinite(images).all():
            raise UserError(f"images hold NaN or infinite values {value_range}: remove them")
        hint = "scale them, or remove rounding errors with images.clip(0, 1)"
        raise UserError(f"images hold values outside [0, 1] {value_range}: {hint}")
    return np.ascontiguousarray(images, np.float32)


def _shape_hint(shape: tuple[int, ...], expected: tuple[int, int, int] | None) -> str:
    """Return how to correct the shape of images in two frequent cases."""
    if len(shape) == 3 and (expected is None or (*shape[1:], 1) == expected):
        return ": use images[..., None]"
    if len(shape) == 4 and expected == (*shape[2:], shape[1]):
        return ": use images.transpose(0, 2, 3, 1)"
    return ""


def check_labels(labels: Integers, classes: int, count: int) -> Integers:
    """Check labels and convert them to contiguous int64.

    Parameters
    ----------
    labels : ndarray of any integer type, shape (count,)
        Labels from 0 to classes - 1.
    classes : int
        Number of classes.
    count : int
        Number of images.

    Returns
    -------
    ndarray of int64, shape (count,)
        The labels, not copied if they have this type and layout already.

    Raises
    ------
    UserError
        If the labels are not a NumPy array, not integers, one-hot or of another shape, or out of range.

    Examples
    --------
    >>> check_labels(np.array([3, 7], np.uint8), classes=10, count=2).dtype
    dtype('int64')
    """
    if not isinstance(labels, np.ndarray) or isinstance(labels, np.ma.MaskedArray):
        raise UserError(f"labels must be a NumPy array, not {type(labels).__name__}: use numpy.array(labels)")
    if labels.shape != (count,):
        hint = ""
        if labels.ndim == 2:
            hint = ": use labels[:, 0]" if labels.shape[1] == 1 else ": use labels.argmax(axis=1)"
        raise UserError(f"labels must have shape ({count},), one label per image, not {labels.shape}{hint}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels must be integers, not {labels.dtype}: use labels.astype(numpy.int64)")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(f"labels must lie between 0 and {classes - 1}, found {labels.min()} to {labels.max()}")
    return np.ascontiguousarray(labels, np.int64)


def check_count(name: str, value: int, minimum: int = 1, maximum: int | None = None) -> int:
    """Check that a value is an integer within bounds, and return it.

    Parameters
    ----------
    name : str
        What the message calls the value.
    value : int
        The value; NumPy's integers are converted.
    minimum : int
        Smallest allowed value.
    maximum : int, optional
        Largest allowed value.

    Returns
    -------
    int
        The value.

    Raises
    ------
    UserError
        If the value is not an integer or out of bounds.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be an integer, not {value!r}") from None
    if count < minimum or (maximum is not None and count > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise UserError(f"{name} must be {bounds}, not {count}")
    return count


def check_sizes(name: str, sizes: Iterable[int]) -> tuple[int, ...]:
    """Return sizes as a tuple of positive integers; raise UserError if they are something else."""
    if not isinstance(sizes, Iterable):
        raise UserError(f"{name} must be a tuple of integers such as (16, 32), not {sizes!r}")
    return tuple(check_count(f"each of {name}", size) for size in sizes)


def check_image_shape(shape: Iterable[int]) -> tuple[int, int, int]:
    """Return the shape of an image as (H, W, C); raise UserError if it is something else."""
    sizes = check_sizes("image_shape", shape)
    if len(sizes) != 3:
        raise UserError(f"the shape of an image must be (H, W, C), not {sizes}")
    return sizes


def check_fields(settings: Any) -> None:
    """Check that a subclass of a dataclass does not set fields in a way that has no effect.

    The constructor is inherited with its defaults. After `class Strong(PGD): steps = 200`, it still sets 40 steps.

    Parameters
    ----------
    settings : dataclass instance
        The instance of the subclass, in its `__post_init__`.

    Raises
    ------
    UserError
        If a field is set in the body of the class, but is no default of its constructor.
    """
    for field in fields(settings):
        value = getattr(type(settings), field.name, MISSING)
        if value is not field.default and not isinstance(value, MemberDescriptorType):  # the latter with slots=True
            raise UserError(
                f"class {type(settings).__name__} sets {field.name!r} without effect: decorate it with"
                f" @dataclass(frozen=True), and annotate the type, as in `{field.name}: {field.type} = ...`"
            )


def store_counts(settings: Any, **minima: int) -> None:
    """Check integer fields of a frozen dataclass in its `__post_init__`, and convert them to `int`.

    Parameters
    ----------
    settings : dataclass instance
        The instance.
    **minima : int
        The smallest allowed value of each field.

    Raises
    ------
    UserError
        If a value is not an integer or too small.
    """
    for name, minimum in minima.items():
        object.__setattr__(settings, name, check_count(name, getattr(settings, name), minimum))


Named = TypeVar("Named")


def choose(kind: str, name: str, choices: Mapping[str, Named]) -> Named:
    """Return the choice of the given name; raise UserError if there is none."""
    if name not in choices:
        raise UserError(f"unknown {kind} {name!r}: use one of {', '.join(choices)}")
    return choices[name]


Choice = TypeVar("Choice", bound=StrEnum)


def check_choice(name: str, value: str, choices: type[Choice]) -> Choice:
    """Check that a value is one of the choices, and return it.

    Parameters
    ----------
    name : str
        What the message calls the value.
    value : str
        The value.
    choices : StrEnum class
        The enumeration of all choices.

    Returns
    -------
    StrEnum
        The member of the enumeration that has this value.

    Raises
    ------
    UserError
        If there is none.
    """
    try:
        return choices(value)
    except ValueError:
        raise UserError(f"unknown {name} {str(value)!r}: use one of {', '.join(choices)}") from None


def check_positive(name: str, value: float) -> float:
    """Return a value as a float; raise UserError if it is not a finite number above 0."""
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise UserError(f"{name} must be a positive number, not {value!r}")
    return float(value)


def check_range(name: str, value: float, maximum: float = math.inf) -> None:
    """Raise UserError if a value is not a finite number from 0 to `maximum`."""
    if not isinstance(value, numbers.Real) or not 0 <= value <= maximum or value == math.inf:
        limits = "of at least 0" if maximum == math.inf else f"from 0 to {maximum}"
        raise UserError(f"{name} must be a number {limits}, not {value!r}")


def same_objects(first: Sequence[object], second: Sequence[object]) -> bool:
    """Return whether two sequences consist of the same objects, whatever these make of `==`."""
    return len(first) == len(second) and all(map(operator.is_, first, second))


def redefines(instance: object, base: type, method: str) -> bool:
    """Return whether an instance of a class has another method of this name, from a subclass or of its own."""
    return getattr(type(instance), method) is not getattr(base, method) or method in vars(instance)
