"""Names for the array types that annotations use."""

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


def flat_rows(array: Floats) -> Floats:
    """(N, ...) as (N, D), a view where possible; N may be 0."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def batches(count: int, size: int) -> Iterator[Integers]:
    """The numbers from 0 to before `count` in order, up to `size` of them at a time."""
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def plain(array: Array) -> Array:
    """The same numbers as compiled functions take them, side by side, aligned and not read-only; copied if need be."""
    return np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED", "WRITEABLE"])


def filled(shape: tuple[int, ...], values: Array) -> Array:
    """An array of a shape with `values` in its first corner, zeros elsewhere."""
    result = np.zeros(shape, values.dtype)
    result[tuple(slice(size) for size in values.shape)] = values
    return result
