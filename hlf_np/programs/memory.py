"""Where the buffers, tables and weights of a compiled network lie: three rows of numbers that grow while it is built.

The *work* is what operations read and write, every thread has its own; *tables* say where in it; *weights* are those of
the layers, arranged as the kernels read them.

How the weights of the layers are arranged is found out by arranging their numbers 1, 2, ... instead of them: `sources`
then says for each place which weight belongs there, and 0 for none. So everything here depends on the architecture
alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hlf_np.arrays import Integers, filled
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import LANES, padded
from hlf_np.kernels.winograd import scratch
from hlf_np.programs.graph import Graph
from hlf_np.programs.nodes import Affine, Value


class Memory:
    """Gives places away, one after another.

    images : how many a thread's work holds.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._tables: list[Integers] = []
        self._reserved = {"tables": 0, "weights": 0, "work": 0}
        self._placed: list[tuple[int, Integers]] = []
        self._zeros: dict[int, int] = {}
        self._filters = [np.zeros((0, 6), np.int64)]
        self.room = 0  # numbers that Winograd's convolutions need to work in

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
        """For each place among the weights the number of the weight that belongs there, 0 for none."""
        result = np.zeros(self.weights, np.int64)
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

    def transform(self, vectors: Integers) -> None:
        """Add to `filters`."""
        self._filters.append(vectors)

    def place(self, numbers: Integers) -> int:
        """Where the weights of these numbers have been put."""
        at = self.reserve("weights", numbers.size)
        self._placed.append((at, numbers))
        return at

    def place_rows(self, numbers: Integers, width: int) -> int:
        """Where rows (M, C) of weights have been put, each filled up to `width`."""
        return self.place(filled((len(numbers), padded(width)), numbers))

    def zeros(self, columns: int) -> int:
        """Where there are as many zeros among the weights."""
        if columns not in self._zeros:
            self._zeros[columns] = self.reserve("weights", columns)
        return self._zeros[columns]

    def repeated(self, starts: int, times: int, columns: int) -> int:
        """Where a bias of few channels has been put for every pixel of a block."""
        (bias,) = (numbers for at, numbers in self._placed if at == starts)
        numbers = np.zeros(columns, np.int64)
        repeated = np.tile(bias[bias > 0], times)
        numbers[: repeated.size] = repeated
        return self.place(numbers)

    def buffers(self, graph: Graph) -> None:
        """Lay out all values and their gradients."""
        graph.share_gradients()
        reduced = [node for node in graph.nodes if isinstance(node, Affine) and node.winograd]
        rooms = [scratch(n.forms[0], n.big.stride, n.small.stride) for n in reduced]
        rooms += [scratch(n.forms[1], n.small.stride, n.big.stride) for n in reduced]
        self.room = max(rooms, default=0)
        for value in graph.values:
            value.buffer = self.buffer(value, value.frame)
        for value in reversed(graph.values):  # a shared buffer is that of a later value
            shared = value.same_gradient
            value.gradient = shared.gradient if shared else self.buffer(value, value.gradient_frame)

    def buffer(self, value: Value, frame: int = 0) -> Layout:
        """Room for a value of every image."""
        layout = Layout(self.images, value.height, value.width, value.stride, frame)
        return replace(layout, base=self.reserve("work", layout.size))


def slot(value: Value) -> Integers:
    """Where a kernel finds a value: rows, numbers per row, origin, and the distances of rows and of images."""
    layout = value.buffer
    return np.array([value.height, value.width * value.channels, layout.origin, layout.row, layout.image])
