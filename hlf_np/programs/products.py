"""The products that an affine layer consists of: from its big to its small side, and back.

- `gather`, from the big to the small side: one row for each small pixel, the window under it (`kernels.convolution`).
- `scatter`, from the small to the big side: one product for each phase of the stride, of stride 1 each.
- `paired_gradient`: the same for two neighbouring pixels at a time, where one alone would fill half of a tile.

Images of few channels have products of their own, see `blocks`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.arrays import Array, Integers, filled
from hlf_np.kernels.instructions import Product
from hlf_np.kernels.layout import Layout, taps, window_segments, windows
from hlf_np.kernels.tile import GATE
from hlf_np.programs.builder import Builder

if TYPE_CHECKING:
    from hlf_np.programs.affine import Affine

Pixels = tuple[ArrayLike, ArrayLike]  # some rows and columns of an image


def gather(
    node: Affine, builder: Builder, big: Layout, small: Layout, gates: Layout, start: int, finish: int
) -> Product:
    """From the big to the small side, one row for each small pixel."""
    segments, length = window_segments(big, node.kernel)
    return Product(
        sources=builder.table(windows(big, node.kernel, node.stride, node.padding)), pixels=small.height * small.width,
        segments=builder.table(segments), segment_count=segments.size, length=length,
        weights=node.matrix, start=start, columns=small.channels,
        targets=builder.table(small.all_pixels()), finish=finish, gates=builder.table(gates.all_pixels()),
    )  # fmt: skip


def scatter(
    node: Affine, builder: Builder, small: Layout, big: Layout, gates: Layout, bias: int | None, finish: int
) -> list[Product]:
    """From the small to the big side: one product for each phase, or for each row of an image that is one window."""
    height, width = node.big.height, node.big.width
    if node.covers and (bias is None or node.bias_per_pixel):
        return _rows(node, builder, small, big, gates, bias, finish)
    stride = max(height, width) if node.covers else node.stride
    instructions: list[Product] = []
    for rows in taps(height, node.kernel[0], stride, node.padding):
        for columns in taps(width, node.kernel[1], stride, node.padding):
            seen = node.numbers[:, :, rows.phase :: stride, columns.phase :: stride][:, :, ::-1, ::-1]
            matrix = filled((rows.count, columns.count, small.channels, big.channels), seen.transpose(2, 3, 0, 1))
            start = builder.zeros(big.channels) if bias is None else bias
            places = (rows.pixels, columns.pixels)
            starts = (rows.first, columns.first)
            instructions.append(phase(builder, small, big, gates, matrix, starts, places, start, finish))
    return instructions


def _rows(
    node: Affine, builder: Builder, small: Layout, big: Layout, gates: Layout, bias: int | None, finish: int
) -> list[Product]:
    """From one small pixel to the whole image, whose rows are contiguous; all of it, where no frame is between them."""
    together = node.big.height if big.frame == gates.frame == 0 else 1
    columns = together * node.big.width * big.channels
    instructions: list[Product] = []
    for row in range(0, node.big.height, together):
        seen = node.numbers[:, :, row : row + together].transpose(0, 2, 3, 1)  # (small, rows, W, big)
        matrix = filled((small.channels, *seen.shape[1:3], big.channels), seen).reshape(1, 1, small.channels, columns)
        start = builder.zeros(columns) if bias is None else bias + row // together * columns
        instructions.append(phase(builder, small, big, gates, matrix, ([0], [0]), ([row], [0]), start, finish))
    return instructions


def paired_gradient(node: Affine, builder: Builder) -> list[Product]:
    """The gradient to pixels whose channels are a single vector, two pixels at a time: as wide as the larger tile.

    With stride 2 and an even kernel, pixels 2 q and 2 q + 1 of the padded image meet the same outputs along their
    row: q - kernel / 2 + 1 to q. The first and the last pair may reach one pixel beyond the image; what is
    computed there is gated to zero, as the source is zero in its frame.
    """
    source, gradient = node.source, node.target.gradient
    reach = node.kernel[1] // 2
    first = np.arange(node.padding // 2, (source.width + node.padding - 1) // 2 + 1)  # q of each pair
    instructions: list[Product] = []
    for rows in taps(source.height, node.kernel[0], node.stride, node.padding):
        matrix: Array = np.zeros((rows.count, reach, gradient.channels, 2, source.stride), np.int64)
        seen = node.numbers[:, :, rows.phase :: 2][:, :, ::-1].transpose(2, 3, 0, 1)  # (taps, kw, O, C)
        for output in range(reach):
            for pixel in range(2):
                part = seen[:, pixel + 2 * (reach - 1 - output)]
                matrix[:, output, : part.shape[1], pixel, : part.shape[2]] = part
        matrix = matrix.reshape(rows.count, reach, gradient.channels, 2 * source.stride)
        starts, places = (rows.first, first - reach + 1), (rows.pixels, 2 * first - node.padding)
        start = builder.zeros(2 * source.stride)
        instructions.append(
            phase(builder, gradient, source.gradient, source.buffer, matrix, starts, places, start, GATE)
        )
    return instructions


def phase(
    builder: Builder,
    small: Layout,
    big: Layout,
    gates: Layout,
    matrix: Integers,
    starts: Pixels,
    places: Pixels,
    start: int,
    finish: int,
) -> Product:
    """One product from the small to the big side.

    matrix : (rows and columns of a window, channels, columns); starts : where the windows begin on the small side,
    rows and columns of pixels; places : where the results go, likewise.
    """
    *window, columns = matrix.shape
    return Product(
        sources=builder.table(small.pixels(*starts)), pixels=np.size(starts[0]) * np.size(starts[1]),
        segments=builder.table(np.arange(window[0]) * small.row), segment_count=window[0], length=window[1] * window[2],
        weights=builder.place_panels(matrix.reshape(math.prod(window), columns)), start=start, columns=columns,
        targets=builder.table(big.pixels(*places)), finish=finish, gates=builder.table(gates.pixels(*places)),
    )  # fmt: skip
