"""Laying a network out in memory: where its buffers, tables and weights lie, and its operations as rows of numbers.

- Each *value* (an activation) has a buffer for itself and one for its gradient, both framed with as many zeros as the
  operations that read them reach beyond the image, so nothing is ever padded or copied.
- Channels are rounded up to whole vectors; the weights for the extra ones are zero, and so they stay zero.
- A gradient is gated (zero where the ReLU was) when it is stored.

Everything here depends on the architecture alone. How the weights of the layers are arranged is found out by arranging
their numbers 1, 2, ... instead of them: `sources` then says for each place which weight belongs there, and 0 for none.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hlf_np.arrays import Array, Integers
from hlf_np.kernels import executor
from hlf_np.kernels.convolution import panels
from hlf_np.kernels.layout import Layout, taps, windows
from hlf_np.kernels.tile import ADD, GATE, LANES, PANEL, PLAIN, padded
from hlf_np.programs.graph import Affine, Graph, Join, Pool, Value

Operation = tuple[int, ...]  # a row for the executor
Pixels = tuple[Integers, Integers]  # some rows and columns of an image


class Builder:
    """Collects what a compiled network consists of.

    images : how many a workspace holds.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._tables: list[Integers] = []
        self._reserved = {"tables": 0, "weights": 0, "work": 0}
        self._placed: list[tuple[int, Integers]] = []
        self._zeros: dict[int, int] = {}

    # --- memory -------------------------------------------------------------------------------------------------------

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

    def place(self, numbers: Integers) -> int:
        """Where the weights of these numbers have been put."""
        at = self.reserve("weights", numbers.size)
        self._placed.append((at, numbers))
        return at

    def zeros(self, columns: int) -> int:
        """Where there are as many zeros among the weights."""
        if columns not in self._zeros:
            self._zeros[columns] = self.reserve("weights", columns)
        return self._zeros[columns]

    def buffers(self, graph: Graph) -> None:
        """Lay out all values and their gradients."""
        for value in graph.values:
            value.buffer = self.buffer(value, value.frame)
        for value in reversed(graph.values):  # a shared buffer is that of a later value
            shared = value.same_gradient
            value.gradient = shared.gradient if shared else self.buffer(value, value.gradient_frame)

    def buffer(self, value: Value, frame: int = 0) -> Layout:
        """Room for a value of every image."""
        layout = Layout(self.images, value.height, value.width, value.stride, frame)
        return replace(layout, base=self.reserve("work", layout.size))

    # --- products -----------------------------------------------------------------------------------------------------

    def matrix(self, node: Affine, numbers: Integers) -> Integers:
        """The weights (O, C, kh, kw) as the matrix of the forward product, in `panels`."""
        channels, columns = node.source.stride, padded(node.target.channels)
        shape = (*node.kernel, channels, columns)
        return panels(_fill(shape, numbers.transpose(2, 3, 1, 0)).reshape(-1, columns))

    def forward(self, node: Affine, weights: int, start: int, finish: int) -> Operation:
        """The layer itself: one row for each output pixel."""
        layout, to = node.source.buffer, node.target.buffer
        segments, length = np.arange(node.kernel[0]) * layout.row, node.kernel[1] * layout.channels
        if length == layout.row:  # whole rows of the image: one segment
            segments, length = segments[:1], node.kernel[0] * length
        targets = self.table(to.all_pixels())
        rows = self.table(windows(layout, node.kernel, node.stride, node.padding))
        product = (rows, to.height * to.width, self.table(segments), segments.size, length, weights, start)
        return (executor.PRODUCT, *product, to.channels, targets, PANEL, finish, targets)

    def gradient(self, node: Affine, numbers: Integers) -> list[Operation]:
        """The gradient to the source: one product for each phase; a layer that covers the image has one per pixel."""
        finish = node.source.next_finish()
        if node.pairs and finish == GATE:
            return self._paired_gradient(node, numbers)
        height, width = node.source.height, node.source.width
        stride = max(height, width) if node.covers else node.stride
        operations: list[Operation] = []
        for rows in taps(height, node.kernel[0], stride, node.padding):
            for columns in taps(width, node.kernel[1], stride, node.padding):
                seen = numbers[:, :, rows.phase :: stride, columns.phase :: stride][:, :, ::-1, ::-1]
                shape = (rows.count, columns.count, node.target.gradient.channels, node.source.stride)
                matrix = _fill(shape, seen.transpose(2, 3, 0, 1))
                places = (rows.pixels, columns.pixels)
                operations.append(self._gradient_product(node, matrix, (rows.first, columns.first), places, finish))
        return operations

    def _paired_gradient(self, node: Affine, numbers: Integers) -> list[Operation]:
        """The gradient to pixels whose channels are a single vector, two pixels at a time: as wide as the larger tile.

        With stride 2 and an even kernel, pixels 2 q and 2 q + 1 of the padded image meet the same outputs along their
        row: q - kernel / 2 + 1 to q. The first and the last pair may reach one pixel beyond the image; what is
        computed there is gated to zero, as the source is zero in its frame.
        """
        reach = node.kernel[1] // 2
        first = np.arange(node.padding // 2, (node.source.width + node.padding - 1) // 2 + 1)  # q of each pair
        operations: list[Operation] = []
        for rows in taps(node.source.height, node.kernel[0], node.stride, node.padding):
            channels = node.target.gradient.channels
            matrix: Array = np.zeros((rows.count, reach, channels, 2, node.source.stride), np.int64)
            seen = numbers[:, :, rows.phase :: 2][:, :, ::-1].transpose(2, 3, 0, 1)  # (taps, kw, O, C)
            for output in range(reach):
                for pixel in range(2):
                    part = seen[:, pixel + 2 * (reach - 1 - output)]
                    matrix[:, output, : part.shape[1], pixel, : part.shape[2]] = part
            matrix = matrix.reshape(rows.count, reach, channels, 2 * node.source.stride)
            places = (rows.pixels, 2 * first - node.padding)
            operations.append(self._gradient_product(node, matrix, (rows.first, first - reach + 1), places, GATE))
        return operations

    def _gradient_product(
        self, node: Affine, matrix: Integers, windows: Pixels, places: Pixels, finish: int
    ) -> Operation:
        """One product of a gradient to the source.

        matrix : (rows and columns of a window, channels, columns); windows : where the windows begin in the gradient,
        rows and columns of pixels; places : where the results go, likewise.
        """
        gradient, source = node.target.gradient, node.source
        *window, columns = matrix.shape
        return (
            executor.PRODUCT,
            self.table(gradient.pixels(*windows)),
            len(windows[0]) * len(windows[1]),
            self.table(np.arange(window[0]) * gradient.row),
            window[0],
            window[1] * window[2],
            self.place(panels(matrix.reshape(-1, columns) if matrix.size else matrix.reshape(0, columns))),
            self.zeros(columns),
            columns,
            self.table(source.gradient.pixels(*places)),
            PANEL,
            finish,
            self.table(source.buffer.pixels(*places)),
        )

    def blocks(self, node: Affine, numbers: Integers) -> tuple[Operation, Layout, Integers]:
        """The gradient to an image of few channels, whose pixels alone would leave most lanes of a vector empty.

        Along an axis, input pixel R of the padded image meets weight a at output pixel (R - a) / stride. A *block* of b
        pixels, b a multiple of the stride, meets the same few output pixels, relative to where it begins: from
        R / stride - (kernel - 1) // stride on, b / stride + (kernel - 1) // stride of them. So a block of b x b pixels
        is one row of a product with that window of the output gradient. Its weights are zero where pixel and output
        pixel do not meet. That is more arithmetic than needed, but in full vectors, and stored once.

        Returns
        -------
        The operation, where it puts the blocks, and where each number of the image finds its gradient among them.
        """
        gradient, (height, width) = node.target.gradient, node.kernel
        block, window = node.block, node.block_window
        image = (node.source.height, node.source.width, node.source.channels)
        columns = padded(block[0] * block[1] * image[2])
        ranges = [
            range(node.padding // b, (n + node.padding - 1) // b + 1) for b, n in zip(block, image[:2], strict=True)
        ]  # the blocks that have pixels of the image
        stride = block if node.covers else (node.stride, node.stride)
        reach = [(k - 1) // s for k, s in zip(node.kernel, stride, strict=True)]
        starts = [np.array(r) * (b // s) - n for r, b, s, n in zip(ranges, block, stride, reach, strict=True)]
        matrix = np.zeros((*window, gradient.channels, *block, image[2]), np.int64)
        for i, j, r, c in np.ndindex(*window, *block):
            a, b = r - stride[0] * (i - reach[0]), c - stride[1] * (j - reach[1])
            if 0 <= a < height and 0 <= b < width:
                matrix[i, j, : len(numbers), r, c] = numbers[:, :, a, b]
        layout = Layout(self.images, len(ranges[0]), len(ranges[1]), columns)
        layout = replace(layout, base=self.reserve("work", layout.size))
        targets = self.table(layout.all_pixels())
        operation = (
            executor.PRODUCT,
            self.table(gradient.pixels(*starts)),
            layout.height * layout.width,
            self.table(np.arange(window[0]) * gradient.row),
            window[0],
            window[1] * gradient.channels,
            self.place(panels(matrix.reshape(-1, math.prod(block) * image[2]))),
            self.zeros(columns),
            columns,
            targets,
            PANEL,
            PLAIN,
            targets,
        )
        row, column, channel = np.indices(image)
        row, column = row + node.padding, column + node.padding
        within = ((row % block[0]) * block[1] + column % block[1]) * image[2] + channel
        of_block = (row // block[0] - ranges[0][0]) * len(ranges[1]) + column // block[1] - ranges[1][0]
        return operation, layout, (of_block * columns + within).ravel()

    # --- pooling and joins --------------------------------------------------------------------------------------------

    def pool(self, node: Pool) -> Operation:
        """Pooling itself."""
        layout, to = node.source.buffer, node.target.buffer
        starts = self.table(windows(layout, (node.kernel, node.kernel), node.stride, 0))
        positions = self.table(_positions(layout, node.kernel))
        kind = executor.MAX_POOL if node.largest else executor.AVERAGE_POOL
        return (
            kind, starts, to.height * to.width, positions, node.kernel**2, self.table(to.all_pixels()), to.channels
        )  # fmt: skip

    def pool_gradient(self, node: Pool) -> Operation:
        """The gradient to what is pooled."""
        source, gradient = node.source, node.target.gradient
        finish = source.next_finish()
        assert not finish & ADD, "a pooled value is read by the pooling alone"
        kind = executor.MAX_POOL_GRADIENT if node.largest else executor.AVERAGE_POOL_GRADIENT
        starts = windows(source.gradient, (node.kernel, node.kernel), node.stride, 0)
        positions = _positions(source.gradient, node.kernel)
        gates = self.table(source.buffer.all_pixels()) if finish & GATE else -1
        own = (self.table(gradient.all_pixels()), self.table(starts), self.table(positions))
        cleared = (self.table(source.gradient.all_pixels()), source.height * source.width)
        return (kind, *self.pool(node)[1:], *own, *cleared, gates)

    def join(self, node: Join) -> Operation:
        """relu(body + shortcut)."""
        to = node.target.buffer
        tables = [self.table(value.buffer.all_pixels()) for value in (node.body, node.shortcut, node.target)]
        return (executor.JOIN, tables[0], to.height * to.width, tables[1], tables[2], to.channels)

    def join_gradient(self, node: Join) -> list[Operation]:
        """Copies of the gradient to the branches that do not share its buffer."""
        gradient = node.target.gradient
        copies: list[Operation] = []
        for value in (node.body, node.shortcut):
            if value.same_gradient is None:
                finish = value.next_finish()
                assert finish == PLAIN, "a shortcut is the first to write its gradient, and not the last"
                tables = (self.table(gradient.all_pixels()), self.table(value.gradient.all_pixels()))
                pixels = gradient.height * gradient.width
                copies.append((executor.COPY, tables[0], pixels, tables[1], gradient.channels))
        return copies


def slot(layout: Layout) -> Integers:
    """Where a kernel finds a value: rows, numbers per row, origin, and the distances of rows and of images."""
    return np.array([layout.height, layout.width * layout.channels, layout.origin, layout.row, layout.image])


def as_rows(operations: list[Operation], fields: int) -> Integers:
    """Operations as rows of equal length, the unused fields zero."""
    rows = np.zeros((len(operations), fields), np.int64)
    for row, operation in zip(rows, operations, strict=True):
        row[: len(operation)] = operation
    return rows


def _positions(layout: Layout, kernel: int) -> Integers:
    """Where the pixels of a pooling window lie, relative to its first."""
    return (np.arange(kernel)[:, None] * layout.row + np.arange(kernel) * layout.channels).ravel()


def _fill(shape: tuple[int, ...], values: Integers) -> Integers:
    """An array of a shape with `values` in its first corner, zeros elsewhere."""
    result = np.zeros(shape, np.int64)
    result[tuple(slice(size) for size in values.shape)] = values
    return result
