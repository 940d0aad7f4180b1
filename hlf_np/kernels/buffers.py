"""Memory that is used again.

Training asks for arrays of the same sizes in every step. Fresh ones of more than some hundred kilobytes come from the
operating system page by page, each page zeroed first, which takes about as long as computing what goes into it. So
large arrays are views of buffers that are kept, and a buffer is lent out again once no array uses it: nobody has to
give anything back.
"""

import sys
from collections import defaultdict

import numpy as np
from numpy.typing import DTypeLike

from hlf_np.arrays import Floats
from hlf_np.kernels.tile import LANES

MOST = 1 << 28  # bytes kept in all
SMALLEST = 1 << 16  # bytes; below, the allocator itself keeps what is freed

_kept: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # by size in bytes


def _unused(buffers: list[np.ndarray]) -> np.ndarray | None:
    """A buffer that only the list refers to; every array that uses it refers to it as its `base`."""
    for index in range(len(buffers)):
        if sys.getrefcount(buffers[index]) <= _REFERENCES:
            return buffers[index]
    return None


def _references_of_an_unused_one() -> int:
    buffers = [np.empty(1, np.uint8)]
    return max(sys.getrefcount(buffers[index]) for index in range(len(buffers)))


_REFERENCES = _references_of_an_unused_one()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Floats:
    """An array with arbitrary contents, as `numpy.empty`."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if count * kind.itemsize < SMALLEST:
        return np.empty(shape, kind)
    buffers = _kept[count * kind.itemsize]
    buffer = _unused(buffers)
    if buffer is None:
        if sum(size * len(same) for size, same in _kept.items()) > MOST:
            _kept.clear()  # what is in use lives on without the list
        buffer = np.empty(count * kind.itemsize, np.uint8)
        _kept[buffer.nbytes].append(buffer)
    return buffer.view(kind).reshape(shape)


def aligned(shape: tuple[int, ...]) -> Floats:
    """Zeros, float32, from a whole cache line on: a vector that straddles two lines takes two loads."""
    size = int(np.prod(shape, dtype=np.int64))
    buffer = np.zeros(size + LANES, np.float32)
    first = -(buffer.ctypes.data // buffer.itemsize) % LANES
    return buffer[first : first + size].reshape(shape)
