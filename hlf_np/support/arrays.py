"""Array types for annotations, and small functions on arrays."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, Any]
Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

IMAGES_PER_BATCH = 200  # computed together by autodiff; results do not depend on it


def flat_rows(array: Floats) -> Floats:
    """Reshape (N, ...) to (N, D), as a view if possible; N may be 0."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def per_row(values: Floats, like: Floats) -> Floats:
    """Reshape values (N,) so that they broadcast against an array `like` of shape (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def batches(count: int, size: int) -> Iterator[Integers]:
    """Yield the indices from 0 to count - 1 in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def as_contiguous(array: Array) -> Array:
    """Return the array in a layout that compiled functions accept: C-contiguous, aligned and writeable.

    The array is copied only if necessary.
    """
    return np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED", "WRITEABLE"])


def zero_padded(shape: tuple[int, ...], values: Array) -> Array:
    """Return an array of this shape that begins with `values` along every axis and is zero elsewhere."""
    result = np.zeros(shape, values.dtype)
    result[tuple(slice(size) for size in values.shape)] = values
    return result
