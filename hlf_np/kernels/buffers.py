"""Memory that is used again.

Training asks for arrays of the same sizes in every step. Fresh ones of more than some hundred kilobytes come from the
operating system page by page, each page zeroed first, which takes about as long as computing what goes into it. So
large arrays are views of buffers that are kept, and a buffer is lent out again once no array uses it: nobody has to
give anything back.
"""

import sys
from collections import defaultdict

import numba
import numpy as np

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


def empty(shape: tuple[int, ...]) -> Floats:
    """An array of float32 with arbitrary contents, as `numpy.empty`."""
    size = int(np.prod(shape, dtype=np.int64)) * np.float32().itemsize
    if size < SMALLEST:
        return np.empty(shape, np.float32)
    buffers = _kept[size]
    buffer = _unused(buffers)
    if buffer is None:
        if sum(each * len(same) for each, same in _kept.items()) > MOST:
            _kept.clear()  # what is in use lives on without the list
        buffer = np.empty(size, np.uint8)
        _kept[size].append(buffer)
    return buffer.view(np.float32).reshape(shape)


def aligned(shape: tuple[int, ...]) -> Floats:
    """Zeros, float32, from a whole cache line on: a vector that straddles two lines takes two loads."""
    size = int(np.prod(shape, dtype=np.int64))
    buffer = np.zeros(size + LANES, np.float32)
    first = -(buffer.ctypes.data // buffer.itemsize) % LANES
    return buffer[first : first + size].reshape(shape)


class Scratch:
    """Arrays to work in, a row for each thread, for one use alone: the zeros around images stay as they are."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int], Floats] = {}

    def arrays(self, *sizes: int) -> list[Floats]:
        """For each size an array (threads, size), float32, zero when it is new."""
        threads = numba.get_num_threads()
        keys = [(position, threads, size) for position, size in enumerate(sizes)]
        for key in keys:
            if key not in self._kept:
                self._kept[key] = np.zeros(key[1:], np.float32)
        return [self._kept[key] for key in keys]
