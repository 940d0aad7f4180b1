"""Memory that is reused.

Each training step needs arrays of the same sizes as the step before. New arrays of more than a few hundred kilobytes
come from the operating system page by page, each filled with zeros first, which takes about as long as computing their
contents. So large arrays are views of buffers that are kept, and a buffer is used again as soon as no array refers to
it: nothing is released explicitly.
"""

import sys
from collections import defaultdict

import numba
import numpy as np

from hlf_np.kernels.numba_internals.processor import LANES
from hlf_np.support.arrays import Floats

MAX_KEPT_BYTES = 1 << 28  # in all buffers
MIN_BUFFER_BYTES = 1 << 16  # for smaller arrays, the allocator itself keeps freed memory

_buffers: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # by size in bytes


def _unused(buffers: list[np.ndarray]) -> np.ndarray | None:
    """Return a buffer that only the list refers to, or None; an array that uses a buffer refers to it as its `base`."""
    for index in range(len(buffers)):
        if sys.getrefcount(buffers[index]) <= _UNUSED_REFERENCES:
            return buffers[index]
    return None


def _count_unused_references() -> int:
    """Return the reference count of an unused buffer in the function above; it depends on the Python version."""
    buffers = [np.empty(1, np.uint8)]
    return max(sys.getrefcount(buffers[index]) for index in range(len(buffers)))


_UNUSED_REFERENCES = _count_unused_references()


def empty(shape: tuple[int, ...]) -> Floats:
    """Return a float32 array with arbitrary contents, like `numpy.empty`."""
    size = int(np.prod(shape, dtype=np.int64)) * np.float32().itemsize
    if size < MIN_BUFFER_BYTES:
        return np.empty(shape, np.float32)
    buffer = _unused(_buffers[size])
    if buffer is None:
        if sum(size * len(buffers) for size, buffers in _buffers.items()) > MAX_KEPT_BYTES:
            _buffers.clear()  # those in use are kept alive by their arrays
        buffer = np.empty(size, np.uint8)
        _buffers[size].append(buffer)
    return buffer.view(np.float32).reshape(shape)


def aligned_zeros(shape: tuple[int, ...]) -> Floats:
    """Return float32 zeros aligned to vectors: a vector that straddles two cache lines takes two loads."""
    size = int(np.prod(shape, dtype=np.int64))
    buffer = np.zeros(size + LANES, np.float32)
    first = -(buffer.ctypes.data // buffer.itemsize) % LANES
    return buffer[first : first + size].reshape(shape)


class Scratch:
    """Work arrays with a row for each thread, kept between calls for a single purpose.

    As every call writes the same places, what is zero at first stays zero: the halos around images.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, int, int], Floats] = {}

    def arrays(self, *sizes: int) -> list[Floats]:
        """Return for each size a float32 array (threads, size), filled with zeros when it is new."""
        threads = numba.get_num_threads()
        keys = [(position, threads, size) for position, size in enumerate(sizes)]
        for key in keys:
            if key not in self._arrays:
                self._arrays[key] = np.zeros(key[1:], np.float32)
        return [self._arrays[key] for key in keys]
