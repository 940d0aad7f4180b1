"""Compiling a network into a list of operations that run a whole attack in cache.

In evaluation mode little is left of a network (see `graph`): products of gathered rows (`kernels.convolution` explains
how a convolution and its gradient are such products), pooling, and the joins of residual blocks. A `Program` holds
these as rows of numbers for `kernels.executor`, with one flat workspace:

- each *value* (an activation) has a buffer for itself and one for its gradient, both framed with as many zeros as the
  operations that read them reach beyond the image, so nothing is ever padded or copied;
- channels are rounded up to whole vectors; the weights for the extra ones are zero, and so they stay zero;
- a gradient is gated (zero where the ReLU was) when it is stored.

Everything but the weights depends on the architecture alone; `pack` collects the weights anew after each training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numba
import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, flat_rows
from hlf_np.graph import Affine, Folded, Graph, Join, Node, Pool, Value
from hlf_np.kernels import executor
from hlf_np.kernels.convolution import panels
from hlf_np.kernels.layout import Layout, taps, windows
from hlf_np.kernels.tile import ADD, GATE, LANES, PLAIN, RELU, padded
from hlf_np.layers import Layer

IMAGES = 12  # lanes of a workspace: whole tiles, even where an image is a single row, and everything fits the cache

Operation = tuple[int, ...]  # a row for the executor
Arrange = Callable[[Floats, Floats], Floats]  # from them to a matrix of a product


# What `Program.ascend` takes, all float32 and flat per task:
Settings = tuple[int, np.float32, int, int, np.float32, bool]  # steps, step size, rule, norm, epsilon, stop early
Box = tuple[Floats, Floats]  # lower, upper (D,)
Tasks = tuple[Floats, Integers, Floats, Integers]  # origins (N, D), which of them (T,), starts (T, D), labels (T,)
Kept = tuple[Floats, Booleans, Integers, Floats]  # codes (T, D), success, iterations, loss (T,)


@dataclass(frozen=True)
class _Packing:
    """The matrices made of one layer's weights, and where they go."""

    folded: Callable[[], Folded]
    parts: list[tuple[int, Arrange]]


class Program:
    """A compiled network.

    Parameters
    ----------
    network : its layers must be those of `models`.
    image_shape : (H, W, C).

    Raises
    ------
    UserError : for a layer that has no compiled form.
    """

    def __init__(self, network: Layer, image_shape: tuple[int, int, int]) -> None:
        graph = Graph(network, image_shape)
        self._tables: list[Integers] = []
        self._packings: list[_Packing] = []
        self._reserved = {"tables": 0, "weights": 0, "work": 0}
        self._zeros: dict[int, int] = {}
        self._lay_out(graph)
        self.forward = _rows([op for node in graph.nodes for op in self._forward(node)])
        self.backward = _rows([op for node in reversed(graph.nodes) for op in self._backward(node)])
        self.tables = np.concatenate(self._tables)
        self.image, self.output = graph.image, graph.logits
        multiply_adds = sum(node.multiply_adds for node in graph.nodes if isinstance(node, Affine))
        self.operations_per_step = 4 * multiply_adds  # a multiply and an add each, forward and in the gradient

    # --- use ----------------------------------------------------------------------------------------------------------

    def logits(self, images: Floats) -> Floats:
        """Logits (N, classes) of images (N, H, W, C), float32."""
        result = np.empty((len(images), self.output.channels), np.float32)
        lanes, parts = _shares(len(images))
        out, codes = self.output.buffer, flat_rows(np.ascontiguousarray(images))
        executor.logits_kernel(
            self.forward, self.tables, self.pack(), self.work, _slot(self.image.buffer), out.origin, out.image,
            codes, result, lanes, parts,
        )  # fmt: skip
        return result

    def ascend(self, settings: Settings, box: Box, tasks: Tasks, kept: Kept) -> None:
        """Attack all tasks; `kept` is updated in place."""
        out, gradient = self.output.buffer, self.output.gradient
        program = (
            self.forward, self.backward, self.tables, self.pack(), self.work, _slot(self.image.buffer),
            self.gradient.base, self.gradient.image, self.gradient_order, out.origin, out.image,
            gradient.origin, gradient.image, self.output.channels,
        )  # fmt: skip
        lanes, parts = _shares(len(tasks[2]))
        executor.attack_kernel(program, settings, box, tasks, kept, lanes, parts)

    def pack(self) -> Floats:
        """The network's present weights, in the order and form that the operations expect."""
        size = self._reserved["weights"]
        buffer = np.zeros(size + LANES, np.float32)
        first = -(buffer.ctypes.data // buffer.itemsize) % LANES  # begin at a whole cache line
        weights = buffer[first : first + size]
        for packing in self._packings:
            weight, bias = packing.folded()
            for at, arrange in packing.parts:
                part = arrange(weight, bias)
                weights[at : at + part.size] = part.ravel()
        return weights

    @property
    def work(self) -> int:
        """Numbers in a workspace."""
        return self._reserved["work"]

    # --- buffers, tables, weights -------------------------------------------------------------------------------------

    def _lay_out(self, graph: Graph) -> None:
        for value in graph.values:
            value.buffer = self._buffer(value, value.frame)
        for value in reversed(graph.values):  # a shared buffer is that of a later value
            shared = value.same_gradient
            value.gradient = shared.gradient if shared else self._buffer(value, value.gradient_frame)

    def _buffer(self, value: Value, frame: int) -> Layout:
        layout = Layout(IMAGES, value.height, value.width, value.stride, frame)
        return replace(layout, base=self._reserve("work", layout.size))

    def _reserve(self, what: str, size: int) -> int:
        """Where there is room for `size` numbers, from a whole cache line on."""
        at = self._reserved[what]
        self._reserved[what] = at + padded(size)
        return at

    def _table(self, rows: Integers) -> int:
        """Where a table has been put."""
        at = self._reserved["tables"]
        self._tables.append(np.asarray(rows, np.int64))
        self._reserved["tables"] = at + rows.size
        return at

    def _no_bias(self, columns: int) -> int:
        """Where there are as many zeros among the weights."""
        if columns not in self._zeros:
            self._zeros[columns] = self._reserve("weights", columns)
        return self._zeros[columns]

    # --- operations ---------------------------------------------------------------------------------------------------

    def _forward(self, node: Node) -> list[Operation]:
        to = node.target.buffer
        pixels = to.height * to.width
        if isinstance(node, Join):
            tables = [self._table(value.buffer.all_pixels()) for value in (node.body, node.shortcut, node.target)]
            return [(executor.JOIN, tables[0], pixels, tables[1], tables[2], to.channels)]
        if isinstance(node, Pool):
            return [self._pool(executor.MAX_POOL if node.largest else executor.AVERAGE_POOL, node)]
        layout, (height, width) = node.source.buffer, node.kernel
        segments, length = np.arange(height) * layout.row, width * layout.channels
        if length == layout.row:  # whole rows of the image: one segment
            segments, length = segments[:1], height * length
        matrix = (height, width, layout.channels, to.channels)

        def arrange(weight: Floats, bias: Floats) -> Floats:
            return panels(_fill(matrix, weight.transpose(2, 3, 1, 0)).reshape(-1, to.channels))

        weights = self._reserve("weights", math.prod(matrix))
        start = self._reserve("weights", to.channels)
        self._packings.append(_Packing(node.folded, [(weights, arrange), (start, lambda weight, bias: bias)]))
        rows, targets = (
            self._table(windows(layout, node.kernel, node.stride, node.padding)),
            self._table(to.all_pixels()),
        )
        finish = RELU if node.target.rectified else PLAIN
        product = (rows, pixels, self._table(segments), segments.size, length, weights, start, to.channels)
        return [(executor.PRODUCT, *product, targets, finish, targets)]

    def _pool(self, kind: int, node: Pool) -> Operation:
        layout, to = node.source.buffer, node.target.buffer
        starts = self._table(windows(layout, (node.kernel, node.kernel), node.stride, 0))
        positions = self._table(_positions(layout, node.kernel))
        count, targets = node.kernel**2, self._table(to.all_pixels())
        return (kind, starts, to.height * to.width, positions, count, targets, to.channels)

    def _backward(self, node: Node) -> list[Operation]:
        if isinstance(node, Affine):
            return self._image_gradient(node) if node.source.is_image else self._gradient(node)
        gradient = node.target.gradient
        if isinstance(node, Pool):
            source = node.source
            finish = source.next_finish()
            assert not finish & ADD, "a pooled value is read by the pooling alone"
            kind = executor.MAX_POOL_GRADIENT if node.largest else executor.AVERAGE_POOL_GRADIENT
            starts = windows(source.gradient, (node.kernel, node.kernel), node.stride, 0)
            positions = _positions(source.gradient, node.kernel)
            gates = self._table(source.buffer.all_pixels()) if finish & GATE else -1
            own = (self._table(gradient.all_pixels()), self._table(starts), self._table(positions))
            cleared = (self._table(source.gradient.all_pixels()), source.height * source.width)
            return [(*self._pool(kind, node), *own, *cleared, gates)]
        copies: list[Operation] = []
        for value in (node.body, node.shortcut):
            if value.same_gradient is None:
                finish = value.next_finish()
                assert finish == PLAIN, "a shortcut is the first to write its gradient, and not the last"
                tables = (self._table(gradient.all_pixels()), self._table(value.gradient.all_pixels()))
                pixels = gradient.height * gradient.width
                copies.append((executor.COPY, tables[0], pixels, tables[1], gradient.channels))
        return copies

    def _gradient(self, node: Affine) -> list[Operation]:
        """One product for each phase; a layer that covers the image has as many phases as pixels."""
        source, gradient = node.source, node.target.gradient
        finish = source.next_finish()
        operations: list[Operation] = []
        parts: list[tuple[int, Arrange]] = []
        height, width = source.height, source.width
        stride = max(height, width) if node.covers else node.stride
        for rows in taps(height, node.kernel[0], stride, node.padding):
            for columns in taps(width, node.kernel[1], stride, node.padding):
                matrix = (rows.count, columns.count, gradient.channels, source.stride)

                def arrange(
                    weight: Floats, bias: Floats, at: tuple[int, int] = (rows.phase, columns.phase),
                    matrix: tuple[int, ...] = matrix,
                ) -> Floats:  # fmt: skip
                    seen = weight[:, :, at[0] :: stride, at[1] :: stride][:, :, ::-1, ::-1]
                    return panels(
                        _fill(matrix, seen.transpose(2, 3, 0, 1)).reshape(math.prod(matrix[:3]), source.stride)
                    )

                weights = self._reserve("weights", math.prod(matrix))
                parts.append((weights, arrange))
                targets = source.gradient.pixels(rows.pixels, columns.pixels)
                gates = source.buffer.pixels(rows.pixels, columns.pixels)
                operations.append(
                    (
                        executor.PRODUCT,
                        self._table(gradient.pixels(rows.first, columns.first)),
                        rows.pixels.size * columns.pixels.size,
                        self._table(np.arange(rows.count) * gradient.row),
                        rows.count,
                        columns.count * gradient.channels,
                        weights,
                        self._no_bias(source.stride),
                        source.stride,
                        self._table(targets),
                        finish,
                        self._table(gates),
                    )
                )
        self._packings.append(_Packing(node.folded, parts))
        return operations

    def _image_gradient(self, node: Affine) -> list[Operation]:
        """The gradient to an image of few channels, whose pixels alone would leave most lanes of a vector empty.

        Along an axis, input pixel R of the padded image meets weight a at output pixel (R - a) / stride. A *block* of b
        pixels, b a multiple of the stride, meets the same few output pixels, relative to where it begins: from
        R / stride - (kernel - 1) // stride on, b / stride + (kernel - 1) // stride of them. So a block of b x b pixels
        is one row of a product with that window of the output gradient. Its weights are zero where pixel and output
        pixel do not meet. That is more arithmetic than needed, but in full vectors, and stored once.
        """
        gradient, (height, width) = node.target.gradient, node.kernel
        assert node.source.readers == 1, "an image is read by one layer"
        block, window = node.block, node.block_window
        image = (node.source.height, node.source.width, node.source.channels)
        columns = padded(block[0] * block[1] * image[2])
        ranges = [
            range(node.padding // b, (n + node.padding - 1) // b + 1) for b, n in zip(block, image[:2], strict=True)
        ]  # the blocks that have pixels of the image
        stride = block if node.covers else (node.stride, node.stride)
        reach = [(k - 1) // s for k, s in zip(node.kernel, stride, strict=True)]
        starts = [np.array(r) * (b // s) - n for r, b, s, n in zip(ranges, block, stride, reach, strict=True)]
        blocks = len(ranges[0]) * len(ranges[1])
        shape = (*window, gradient.channels, *block, image[2])

        def arrange(weight: Floats, bias: Floats) -> Floats:
            matrix = np.zeros(shape, np.float32)
            for i, j, r, c in np.ndindex(*window, *block):
                a, b = r - stride[0] * (i - reach[0]), c - stride[1] * (j - reach[1])
                if 0 <= a < height and 0 <= b < width:
                    matrix[i, j, : len(weight), r, c] = weight[:, :, a, b]
            return panels(matrix.reshape(-1, math.prod(block) * image[2]))

        layout = Layout(IMAGES, len(ranges[0]), len(ranges[1]), columns)
        layout = replace(layout, base=self._reserve("work", layout.size))
        weights = self._reserve("weights", window[0] * window[1] * gradient.channels * columns)
        self._packings.append(_Packing(node.folded, [(weights, arrange)]))
        rows, targets = self._table(gradient.pixels(*starts)), self._table(layout.all_pixels())
        segments = self._table(np.arange(window[0]) * gradient.row)
        product = (rows, blocks, segments, window[0], window[1] * gradient.channels, weights, self._no_bias(columns))
        # where each number of the image finds its gradient
        row, column, channel = np.indices(image)
        row, column = row + node.padding, column + node.padding
        within = ((row % block[0]) * block[1] + column % block[1]) * image[2] + channel
        of_block = (row // block[0] - ranges[0][0]) * len(ranges[1]) + column // block[1] - ranges[1][0]
        self.gradient_order = (
            (of_block * columns + within).ravel().astype(np.uint64)
        )  # unsigned: no index counts from behind
        self.gradient = layout
        return [(executor.PRODUCT, *product, columns, targets, PLAIN, targets)]


def _shares(tasks: int) -> tuple[int, int]:
    """(lanes, parts): tasks split evenly over the threads, and lanes so that all are busy in the last round too."""
    parts = numba.get_num_threads()
    share = -(-tasks // parts)
    rounds = max(1, -(-share // IMAGES))
    return max(1, -(-share // rounds)), parts


def _slot(layout: Layout) -> Integers:
    """Where the executor finds the codes: rows, numbers per row, origin, and the distances of rows and of images."""
    return np.array([layout.height, layout.width * layout.channels, layout.origin, layout.row, layout.image])


def _rows(operations: list[Operation]) -> Integers:
    """Operations as rows of equal length, the unused fields zero."""
    rows = np.zeros((len(operations), executor.FIELDS), np.int64)
    for row, operation in zip(rows, operations, strict=True):
        row[: len(operation)] = operation
    return rows


def _positions(layout: Layout, kernel: int) -> Integers:
    """Where the pixels of a pooling window lie, relative to its first."""
    return (np.arange(kernel)[:, None] * layout.row + np.arange(kernel) * layout.channels).ravel()


def _fill(shape: tuple[int, ...], values: Floats) -> Floats:
    """An array of a shape with `values` in its first corner, zeros elsewhere."""
    result = np.zeros(shape, np.float32)
    result[tuple(slice(size) for size in values.shape)] = values
    return result
