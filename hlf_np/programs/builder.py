"""Allocation: where everything of a compiled network lies in three flat arrays.

The arrays grow while the nodes of the network write their instructions.

work
    What instructions read and write; every thread has its own. Each value has a buffer for itself and one for its
    gradient. A buffer includes a halo of as many zeros as its readers need beyond the image, so that nothing is padded
    or copied at run time. Channels are rounded up to whole vectors; the weights of the extra channels are zero, and so
    they stay zero.
tables
    Positions in the work.
weights
    The parameters of the layers, packed in the order in which the kernels read them, and constants. The builder lays
    out symbolic indices instead of values, see `symbolic`.
"""

import itertools
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from hlf_np.kernels.instructions.training import Totals, WeightGradientPanel
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.products.product import panels
from hlf_np.kernels.products.tile import LANES, padded
from hlf_np.programs.symbolic import INDEX_OF_ONE, INDEX_OF_ZERO
from hlf_np.support.arrays import Array, Floats, Integers, zero_padded


class Builder:
    """Allocates buffers, tables and weights, one after another.

    Parameters
    ----------
    images : int
        The number of images that a workspace holds.
    indices_of : callable
        Gives the symbolic indices of a layer's array, in its shape.
    training : bool
        Whether gradients with respect to parameters are computed.

    Attributes
    ----------
    scratch_size : int
        Elements of scratch memory that Winograd's convolutions need.
    input_gradient : Layout
        Where `blocks` leaves the gradient with respect to an input of few channels.
    input_offsets : ndarray of int64
        Where each element of that gradient is, relative to the first block of its image.
    weight_gradients : list of WeightGradientPanel
        The parts of weight gradients that are computed at the end of a training step.
    totals : list of Totals
        The reductions of gradients that are first summed in each part of a batch.
    constants : list of (int, float)
        Positions in the weights, and the constants that belong there.
    """

    def __init__(self, images: int, indices_of: Callable[[Array], Integers], training: bool = False) -> None:
        self.images, self.indices_of, self.training = images, indices_of, training
        self._tables = [np.zeros(0, np.int64)]
        self._sizes = {"tables": 0, "weights": 0, "work": 0}
        self._packed: list[tuple[int, Integers]] = []
        self._shared: dict[Hashable, int] = {}
        self._filters = [np.zeros((0, 6), np.int64)]
        self.scratch_size = 0
        self.input_gradient, self.input_offsets = Layout(0, 0, 0, 0), np.zeros(0, np.int64)
        self.weight_gradients: list[WeightGradientPanel] = []
        self.totals: list[Totals] = []
        self.constants: list[tuple[int, float]] = []

    @property
    def work_size(self) -> int:
        """Elements of a workspace; a tile may read a few elements beyond the last buffer."""
        return self._sizes["work"] + LANES

    @property
    def weights_size(self) -> int:
        """Elements of the packed weights."""
        return self._sizes["weights"]

    @property
    def tables(self) -> Integers:
        """All tables, one after another."""
        return np.concatenate(self._tables)

    @property
    def weight_indices(self) -> Integers:
        """The symbolic index of each element of the packed weights."""
        result = np.full(self.weights_size, INDEX_OF_ZERO)
        for position, indices in self._packed:
            result[position : position + indices.size] = indices.ravel()
        return result

    @property
    def filters(self) -> Integers:
        """The filters to transform whenever weights have been packed.

        See `kernels.winograd.filters.filter_transform_block`.
        """
        return np.concatenate(self._filters)

    def reserve(self, array: str, size: int) -> int:
        """Reserve `size` elements of "work" or "weights" that start at a whole vector; return their position."""
        position = self._sizes[array]
        self._sizes[array] = position + padded(size)
        return position

    def allocate(self, layout: Layout) -> Layout:
        """Return the layout at a position of its own in the work."""
        return replace(layout, base=self.reserve("work", layout.size))

    def table(self, positions: Integers) -> int:
        """Add a table; return where it begins."""
        position = self._sizes["tables"]
        self._tables.append(np.asarray(positions, np.int64))
        self._sizes["tables"] = position + positions.size
        return position

    def row_table(self, layout: Layout) -> int:
        """Add a table of where each row of pixels begins; return where the table begins."""
        return self.table(layout.pixels(np.arange(layout.height), 0))

    def add_filters(self, vectors: Integers) -> None:
        """Add vectors (V, 6) to `filters`."""
        self._filters.append(vectors)

    # -- weights: each method packs symbolic indices, and returns the position of the first

    def pack(self, indices: Integers) -> int:
        """Pack indices in the order in which they are."""
        position = self.reserve("weights", indices.size)
        self._packed.append((position, indices))
        return position

    def pack_rows(self, indices: Integers, width: int) -> int:
        """Pack rows (M, C), each padded with zeros to `width` rounded up to whole vectors."""
        return self.pack(zero_padded((len(indices), padded(width)), indices))

    def pack_panels(self, matrix: Integers) -> int:
        """Pack a matrix (K, N) in the order of `panels`."""
        return self.pack(panels(matrix))

    def pack_filters(self, indices: Integers, channels: int, columns: int) -> int:
        """Pack filters (kh, kw, C, O) as a matrix of panels, C and O padded with zeros to `channels` and `columns`."""
        shape = (*indices.shape[:2], channels, columns)
        return self.pack_panels(zero_padded(shape, indices).reshape(-1, columns))

    def pack_shared(self, array: Floats) -> int:
        """Pack a vector that all layers with this array share, such as a running mean."""
        return self._once(("array", id(array)), lambda: self.pack_rows(self.indices_of(array)[None], array.size))

    def zeros(self, columns: int) -> int:
        """Pack zeros; equal requests share them."""
        return self._once(("zeros", columns), lambda: self.reserve("weights", columns))

    def ones(self, columns: int) -> int:
        """Pack ones; equal requests share them."""
        return self._once(("ones", columns), lambda: self.pack(np.full(columns, INDEX_OF_ONE)))

    def _once(self, key: Hashable, pack: Callable[[], int]) -> int:
        if key not in self._shared:
            self._shared[key] = pack()
        return self._shared[key]

    def unread_pixel(self, channels: int) -> int:
        """Reserve a pixel of the work for results that are not needed; equal requests share it."""
        return self._once(("unread", channels), lambda: self.reserve("work", channels))

    def constant(self, *values: float) -> int:
        """Pack constants."""
        position = self.reserve("weights", len(values))
        self.constants += zip(itertools.count(position), values, strict=False)
        return position

    def repeated(self, bias: int, channels: int, times: int, columns: int) -> int:
        """Pack a bias of few channels that is at `bias` again, `times` times in a row, padded to `columns`."""
        (indices,) = (indices for position, indices in self._packed if position == bias)
        return self.pack(zero_padded((columns,), np.tile(indices.ravel()[:channels], times)))
