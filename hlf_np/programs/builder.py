"""Laying a network out: its operations as rows of numbers, which name the places of what they read and write.

- Each *value* (an activation) has a buffer for itself and one for its gradient, both framed with as many zeros as the
  operations that read them reach beyond the image, so nothing is ever padded or copied.
- Channels are rounded up to whole vectors; the weights for the extra ones are zero, and so they stay zero.
- A gradient is gated (zero where the ReLU was) when it is stored.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hlf_np.arrays import Array, Integers, filled
from hlf_np.kernels import executor
from hlf_np.kernels.convolution import panels
from hlf_np.kernels.layout import Layout, taps, window_segments, windows
from hlf_np.kernels.tile import GATE, PANEL, PLAIN, RELU, padded
from hlf_np.programs import winograd
from hlf_np.programs.memory import Memory
from hlf_np.programs.nodes import Affine, Value

Operation = tuple[int, ...]  # a row for the executor
Pixels = tuple[Integers, Integers]  # some rows and columns of an image


class Builder(Memory):
    """Collects what a compiled network consists of: writes operations, and takes from the memory what they need."""

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.input_blocks, self.input_order = Layout(0, 0, 0, 0), np.zeros(0, np.int64)  # see `_image_gradient`

    def matrix(self, node: Affine, numbers: Integers) -> int:
        """Where the weights (small, big, kh, kw) have been put as the matrix from windows of the big side to the small,
        in `panels`."""
        shape = (*node.kernel, node.big.stride, node.small.stride)
        return self.place(panels(filled(shape, numbers.transpose(2, 3, 1, 0)).reshape(-1, node.small.stride)))

    def forward(self, node: Affine, numbers: Integers, matrix: int | None, starts: int | None) -> list[Operation]:
        """The layer itself.

        numbers : (small, big, kh, kw), of its weights; matrix : where its `matrix` is, if it is anywhere yet;
        starts : where its `biases` are, if it has any.
        """
        if node.winograd:
            return [winograd.forward(self, node, numbers, matrix, starts)]
        finish = RELU if node.target.rectified else PLAIN
        source, target = node.source.buffer, node.target.buffer
        if not node.transposed:
            at = self.matrix(node, numbers) if matrix is None else matrix
            start = self.zeros(target.channels) if starts is None else starts
            return [self._gather(node, source, target, at, start, finish, target)]
        if not node.big.narrow:
            return self._scatter(node, numbers, source, target, starts, finish, target)
        assert finish == PLAIN, "an image of few channels is not rectified"
        operation, blocks, order = self.blocks(node, numbers, source, starts)
        places = (self.table(order), *_rows_of(target))
        return [operation, (executor.FROM_BLOCKS, blocks.base, blocks.image, *places)]

    def gradient(self, node: Affine, numbers: Integers, matrix: int | None) -> list[Operation]:
        """The gradient to the source; see `forward`."""
        if node.winograd:
            return [winograd.gradient(self, node, numbers, matrix)]
        source, gradient = node.source, node.target.gradient
        finish = source.next_finish()
        if node.transposed:
            at = self.matrix(node, numbers) if matrix is None else matrix
            start = self.zeros(source.gradient.channels)
            return [self._gather(node, gradient, source.gradient, at, start, finish, source.buffer)]
        if node.pairs and finish == GATE:
            return self._paired_gradient(node, numbers)
        if not node.big.narrow:
            return self._scatter(node, numbers, gradient, source.gradient, None, finish, source.buffer)
        assert finish == PLAIN, "an image is read by one layer"
        operation, blocks, order = self.blocks(node, numbers, gradient, None)
        return [operation, *self._image_gradient(source, blocks, order)]

    def _image_gradient(self, image: Value, blocks: Layout, order: Integers) -> list[Operation]:
        """Nothing more for an input: whoever needs the gradient takes it from the blocks."""
        if image.is_input:
            self.input_blocks, self.input_order = blocks, order
            return []
        y, g = _rows_of(image.buffer), _rows_of(image.gradient)
        return [(executor.BLOCKS_GRADIENT, blocks.base, blocks.image, self.table(order), *y, *g[2:])]

    def _gather(
        self, node: Affine, big: Layout, small: Layout, weights: int, start: int, finish: int, gates: Layout
    ) -> Operation:
        """From the big to the small side, one row for each small pixel."""
        segments, length = window_segments(big, node.kernel)
        rows = self.table(windows(big, node.kernel, node.stride, node.padding))
        product = (rows, small.height * small.width, self.table(segments), segments.size, length, weights, start)
        targets, gated = self.table(small.all_pixels()), self.table(gates.all_pixels())
        return (executor.PRODUCT, *product, small.channels, targets, PANEL, finish, gated)

    def _scatter(
        self,
        node: Affine,
        numbers: Integers,
        small: Layout,
        big: Layout,
        starts: int | None,
        finish: int,
        gates: Layout,
    ) -> list[Operation]:
        """From the small to the big side: one product for each phase; a window that is the image has one per pixel."""
        height, width = node.big.height, node.big.width
        stride = max(height, width) if node.covers else node.stride
        operations: list[Operation] = []
        for rows in taps(height, node.kernel[0], stride, node.padding):
            for columns in taps(width, node.kernel[1], stride, node.padding):
                seen = numbers[:, :, rows.phase :: stride, columns.phase :: stride][:, :, ::-1, ::-1]
                matrix = filled((rows.count, columns.count, small.channels, big.channels), seen.transpose(2, 3, 0, 1))
                start = self.zeros(big.channels) if starts is None else starts
                if starts is not None and node.covers:  # every pixel has its own
                    start += (int(rows.pixels[0]) * width + int(columns.pixels[0])) * big.channels
                places = (rows.pixels, columns.pixels)
                operations.append(
                    self._phase(small, big, gates, matrix, (rows.first, columns.first), places, start, finish)
                )
        return operations

    def _paired_gradient(self, node: Affine, numbers: Integers) -> list[Operation]:
        """The gradient to pixels whose channels are a single vector, two pixels at a time: as wide as the larger tile.

        With stride 2 and an even kernel, pixels 2 q and 2 q + 1 of the padded image meet the same outputs along their
        row: q - kernel / 2 + 1 to q. The first and the last pair may reach one pixel beyond the image; what is
        computed there is gated to zero, as the source is zero in its frame.
        """
        source, gradient = node.source, node.target.gradient
        reach = node.kernel[1] // 2
        first = np.arange(node.padding // 2, (source.width + node.padding - 1) // 2 + 1)  # q of each pair
        operations: list[Operation] = []
        for rows in taps(source.height, node.kernel[0], node.stride, node.padding):
            matrix: Array = np.zeros((rows.count, reach, gradient.channels, 2, source.stride), np.int64)
            seen = numbers[:, :, rows.phase :: 2][:, :, ::-1].transpose(2, 3, 0, 1)  # (taps, kw, O, C)
            for output in range(reach):
                for pixel in range(2):
                    part = seen[:, pixel + 2 * (reach - 1 - output)]
                    matrix[:, output, : part.shape[1], pixel, : part.shape[2]] = part
            matrix = matrix.reshape(rows.count, reach, gradient.channels, 2 * source.stride)
            windows, places = (rows.first, first - reach + 1), (rows.pixels, 2 * first - node.padding)
            start = self.zeros(2 * source.stride)
            operations.append(
                self._phase(gradient, source.gradient, source.buffer, matrix, windows, places, start, GATE)
            )
        return operations

    def _phase(
        self,
        small: Layout,
        big: Layout,
        gates: Layout,
        matrix: Integers,
        windows: Pixels,
        places: Pixels,
        start: int,
        finish: int,
    ) -> Operation:
        """One product from the small to the big side.

        matrix : (rows and columns of a window, channels, columns); windows : where the windows begin on the small side,
        rows and columns of pixels; places : where the results go, likewise.
        """
        *window, columns = matrix.shape
        return (
            executor.PRODUCT,
            self.table(small.pixels(*windows)),
            len(windows[0]) * len(windows[1]),
            self.table(np.arange(window[0]) * small.row),
            window[0],
            window[1] * window[2],
            self.place(panels(matrix.reshape(math.prod(window), columns))),
            start,
            columns,
            self.table(big.pixels(*places)),
            PANEL,
            finish,
            self.table(gates.pixels(*places)),
        )

    def blocks(
        self, node: Affine, numbers: Integers, small: Layout, starts: int | None
    ) -> tuple[Operation, Layout, Integers]:
        """To a big side of few channels, whose pixels alone would leave most lanes of a vector empty.

        Along an axis, pixel R of the padded big side meets weight a at small pixel (R - a) / stride. A *block* of b
        pixels, b a multiple of the stride, meets the same few small pixels, relative to where it begins: from
        R / stride - (kernel - 1) // stride on, b / stride + (kernel - 1) // stride of them. So a block of b x b pixels
        is one row of a product with that window of the small side. Its weights are zero where the two do not meet. That
        is more arithmetic than needed, but in full vectors, and stored once.

        Returns
        -------
        The operation, where it puts the blocks, and where each number of the image is among them.
        """
        height, width = node.kernel
        block, window = node.block, node.block_window
        image = (node.big.height, node.big.width, node.big.channels)
        columns = padded(block[0] * block[1] * image[2])
        ranges = [
            range(node.padding // b, (n + node.padding - 1) // b + 1) for b, n in zip(block, image[:2], strict=True)
        ]  # the blocks that have pixels of the image
        stride = block if node.covers else (node.stride, node.stride)
        reach = [(k - 1) // s for k, s in zip(node.kernel, stride, strict=True)]
        places = [np.array(r) * (b // s) - n for r, b, s, n in zip(ranges, block, stride, reach, strict=True)]
        matrix = np.zeros((*window, small.channels, *block, image[2]), np.int64)
        for i, j, r, c in np.ndindex(*window, *block):
            a, b = r - stride[0] * (i - reach[0]), c - stride[1] * (j - reach[1])
            if 0 <= a < height and 0 <= b < width:
                matrix[i, j, : len(numbers), r, c] = numbers[:, :, a, b]
        layout = Layout(self.images, len(ranges[0]), len(ranges[1]), columns)
        layout = replace(layout, base=self.reserve("work", layout.size))
        targets = self.table(layout.all_pixels())
        operation = (
            executor.PRODUCT,
            self.table(small.pixels(*places)),
            layout.height * layout.width,
            self.table(np.arange(window[0]) * small.row),
            window[0],
            window[1] * small.channels,
            self.place(panels(matrix.reshape(-1, math.prod(block) * image[2]))),
            self.zeros(columns) if starts is None else self.repeated(starts, math.prod(block), columns),
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


def _rows_of(layout: Layout) -> tuple[int, int, int, int, int]:
    """Rows of an image, numbers per row, origin, and the distances of rows and of images."""
    return layout.height, layout.width * layout.channels, layout.origin, layout.row, layout.image


def as_rows(operations: list[Operation], fields: int) -> Integers:
    """Operations as rows of equal length, the unused fields zero."""
    rows = np.zeros((len(operations), fields), np.int64)
    for row, operation in zip(rows, operations, strict=True):
        row[: len(operation)] = operation
    return rows
