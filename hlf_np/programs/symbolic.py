"""Symbolic indices: they determine once where each weight belongs, whatever values the weights have.

Kernels read weights in an order of their own: folded, transposed, cut into panels, padded with zeros, repeated. All of
this depends on the architecture alone. So the compiler does not lay out the weights themselves, but integers that stand
for them: 0 for the constant 0, 1 for the constant 1, and `FIRST_INDEX`, `FIRST_INDEX` + 1, ... for the entries of the
layers' arrays, one array after another. The laid-out integers are indices into the pool of all values, so packing new
weights is a single `numpy.take`.

Examples
--------
>>> weight, bias = np.array([[0.5, 0.6], [0.7, 0.8]], np.float32), np.array([0.9], np.float32)
>>> indices_of = SymbolicIndices()
>>> layout = np.append(indices_of(weight).T, [INDEX_OF_ZERO, *indices_of(bias)])  # transposed, a zero, the bias
>>> layout.tolist()
[2, 4, 3, 5, 0, 6]
>>> value_pool([weight, bias])[layout].tolist() == np.float32([0.5, 0.7, 0.6, 0.8, 0, 0.9]).tolist()
True
"""

import numpy as np

from hlf_np.support.arrays import Array, Floats, Integers

INDEX_OF_ZERO = 0
INDEX_OF_ONE = 1
FIRST_INDEX = 2  # of the first entry of the first array


class SymbolicIndices:
    """Gives the entries of arrays consecutive indices, one array after another."""

    def __init__(self) -> None:
        self._next = FIRST_INDEX

    def __call__(self, array: Array) -> Integers:
        """Return the indices of an array's entries, in its shape."""
        first, self._next = self._next, self._next + array.size
        return np.arange(first, self._next).reshape(array.shape)


def value_pool(arrays: list[Floats]) -> Floats:
    """Return the values that indices stand for: 0, 1, and the entries of the arrays in the order of their indexing."""
    return np.concatenate([np.array([0, 1], np.float32), *(array.ravel() for array in arrays)])
