"""Where everything of a compiled network lies, in three flat arrays that grow while its nodes write their instructions.

- *work*: what instructions read and write; every thread has its own. Each value has a buffer for itself and one for its
  gradient, both in a frame of as many zeros as its readers reach beyond the image, so nothing is ever padded or copied.
  Channels are rounded up to whole vectors; the weights for the extra ones are zero, and so they stay zero.
- *tables*: positions in the work.
- *weights*: those of the layers, arranged as the kernels read them.

How the weights are arranged is found out by arranging their *numbers* instead of them, integers that stand for the
entries of the layers' arrays. `sources` then says for each place which entry belongs there. So everything here depends
on the architecture alone, and new weights take one `numpy.take`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hlf_np.arrays import Array, Floats, Integers, filled
from hlf_np.kernels.convolution import panels
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import LANES, padded
from hlf_np.programs.values import Value

if TYPE_CHECKING:
    from hlf_np.programs.graph import Graph

ZERO, ONE, FIRST = 0, 1, 2  # numbers that stand for 0 and 1, and the first that stands for an entry of an array


class Counter:
    """Numbers the entries of arrays, one array after another."""

    def __init__(self) -> None:
        self._next = FIRST

    def __call__(self, array: Array) -> Integers:
        first, self._next = self._next, self._next + array.size
        return np.arange(first, self._next).reshape(array.shape)


def numbered(arrays: list[Floats]) -> Floats:
    """What the numbers stand for: 0, 1, and the entries of the arrays that `Counter` was given."""
    return np.concatenate([np.array([0, 1], np.float32), *(array.ravel() for array in arrays)])


class Builder:
    """Gives places away, one after another.

    images : how many a workspace holds.
    number : numbers the entries of a layer's array.
    training : whether there are gradients with respect to parameters; see `tasks` and `totals`.
    room : numbers that Winograd's convolutions need to work in.
    input_gradient, input_order : where `blocks` left the gradient with respect to a narrow input, and its order there.
    tasks : parts of the gradients with respect to weights; totals : gradients that are summed up in the parts first.
    constants : places among the weights, and what belongs there.
    """

    def __init__(self, images: int, number: Callable[[Array], Integers], training: bool = False) -> None:
        self.images, self.number, self.training = images, number, training
        self._tables = [np.zeros(0, np.int64)]
        self._reserved = {"tables": 0, "weights": 0, "work": 0}
        self._placed: list[tuple[int, Integers]] = []
        self._shared: dict[Any, int] = {}
        self._filters = [np.zeros((0, 6), np.int64)]
        self.room = 0
        self.input_gradient, self.input_order = Layout(0, 0, 0, 0), np.zeros(0, np.int64)
        self.tasks: list[Any] = []
        self.totals: list[Any] = []
        self.constants: list[tuple[int, float]] = []

    @property
    def work(self) -> int:
        """Numbers in a workspace; a tile may read a few numbers beyond the last buffer."""
        return self._reserved["work"] + LANES

    @property
    def weights(self) -> int:
        """Numbers in the arranged weights."""
        return self._reserved["weights"]

    @property
    def tables(self) -> Integers:
        """All tables, one after another."""
        return np.concatenate(self._tables)

    @property
    def sources(self) -> Integers:
        """For each place among the weights the number of the entry that belongs there."""
        result = np.full(self.weights, ZERO)
        for at, numbers in self._placed:
            result[at : at + numbers.size] = numbers.ravel()
        return result

    @property
    def filters(self) -> Integers:
        """What has to be transformed when the weights are there, see `winograd_filters`."""
        return np.concatenate(self._filters)

    def reserve(self, what: str, size: int) -> int:
        """Where there is room for `size` numbers, from a whole cache line on."""
        at = self._reserved[what]
        self._reserved[what] = at + padded(size)
        return at

    def table(self, rows: Integers) -> int:
        """Where a table has been put."""
        at = self._reserved["tables"]
        self._tables.append(np.asarray(rows, np.int64))
        self._reserved["tables"] = at + rows.size
        return at

    def row_table(self, layout: Layout) -> int:
        """Where a table of the beginnings of all rows of pixels has been put."""
        return self.table(layout.pixels(np.arange(layout.height), 0))

    def transform(self, vectors: Integers) -> None:
        """Add to `filters`."""
        self._filters.append(vectors)

    def place(self, numbers: Integers) -> int:
        """Where the weights of these numbers have been put."""
        at = self.reserve("weights", numbers.size)
        self._placed.append((at, numbers))
        return at

    def place_rows(self, numbers: Integers, width: int) -> int:
        """Where rows (M, C) of weights have been put, each filled up to whole vectors of `width`."""
        return self.place(filled((len(numbers), padded(width)), numbers))

    def place_panels(self, matrix: Integers) -> int:
        """Where a matrix (K, N) has been put, in `panels`."""
        return self.place(panels(matrix))

    def place_matrix(self, numbers: Integers, channels: int, columns: int) -> int:
        """Where weights (kh, kw, C, O) have been put as a matrix, C and O filled up to `channels` and `columns`."""
        shape = (*numbers.shape[:2], channels, columns)
        return self.place_panels(filled(shape, numbers).reshape(-1, columns))

    def place_once(self, array: Floats) -> int:
        """Where a vector is that all who ask for it share, such as a running mean."""
        return self._once(("array", id(array)), lambda: self.place_rows(self.number(array)[None], array.size))

    def zeros(self, columns: int) -> int:
        """Where there are as many zeros among the weights."""
        return self._once(("zeros", columns), lambda: self.reserve("weights", columns))

    def ones(self, columns: int) -> int:
        """Where there are as many ones among the weights."""
        return self._once(("ones", columns), lambda: self.place(np.full(columns, ONE)))

    def _once(self, key: Any, place: Callable[[], int]) -> int:
        if key not in self._shared:
            self._shared[key] = place()
        return self._shared[key]

    def constant(self, *values: float) -> int:
        """Where these values have been put among the weights."""
        at = self.reserve("weights", len(values))
        self.constants += zip(itertools.count(at), values, strict=False)
        return at

    def repeated(self, bias: int, channels: int, times: int, columns: int) -> int:
        """Where a bias of few channels has been put for every pixel of a block."""
        (numbers,) = (numbers for at, numbers in self._placed if at == bias)
        return self.place(filled((columns,), np.tile(numbers.ravel()[:channels], times)))

    def buffers(self, graph: Graph) -> None:
        """Lay out all values and their gradients."""
        self.room = max(node.room for node in graph.nodes) if graph.nodes else 0
        for value in graph.values:
            value.buffer = self.buffer(value, value.frame)
        for value in reversed(graph.values):  # a shared buffer is that of a later value
            shared = value.same_gradient
            value.gradient = shared.gradient if shared else self.buffer(value, value.gradient_frame)

    def buffer(self, value: Value, frame: int = 0) -> Layout:
        """Room for a value of every image."""
        return self.room_for(Layout(self.images, value.height, value.width, value.stride, frame))

    def room_for(self, layout: Layout) -> Layout:
        """The layout in a place of its own in the work."""
        return replace(layout, base=self.reserve("work", layout.size))


def slot(value: Value) -> Integers:
    """Where a kernel finds a value, run after run of contiguous numbers.

    Rows of pixels, runs in a row, numbers in a run, where the first begins, and the distances of rows, runs and images.
    """
    layout = value.buffer
    runs, run = (1, value.width) if layout.channels == value.channels else (value.width, 1)
    steps = (layout.row, layout.channels, layout.image)
    return np.array([value.height, runs, run * value.channels, layout.origin, *steps])
