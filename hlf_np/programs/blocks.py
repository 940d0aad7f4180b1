"""The products to an image of few channels, whose pixels alone would leave most lanes of a vector empty.

Along an axis, pixel R of the padded image meets weight a at small pixel (R - a) / stride. A *block* of b pixels, b a
multiple of the stride, meets the same few small pixels, relative to where it begins: from
R / stride - (kernel - 1) // stride on, b / stride + (kernel - 1) // stride of them. So a block of b x b pixels is one
row of a product with that window of the small side. Its weights are zero where the two do not meet. That is more
arithmetic than needed, but in full vectors, and stored once::

    image, stride 2, kernel 4         . . [ 0 1 2 3 ] . .          a block of 4 pixels of each row
    small pixels that it meets      q-1  q  q+1                    a window of 4 / 2 + 3 // 2 = 3
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hlf_np.arrays import Array, Integers, filled
from hlf_np.kernels.instructions import BlocksGradient, FromBlocks, Product
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import PLAIN, padded
from hlf_np.programs.builder import Builder
from hlf_np.programs.products import phase

if TYPE_CHECKING:
    from hlf_np.programs.affine import Affine


def _block(node: Affine) -> tuple[int, int]:
    """Rows and columns of a block of pixels: about four, or the whole image."""
    if node.covers:
        return node.kernel
    side = node.stride * max(1, 4 // node.stride)
    return side, side


def _window(node: Affine) -> tuple[int, int]:
    """Rows and columns of small pixels that a block meets."""
    if node.covers:
        return 1, 1
    rows, columns = (b // node.stride + (k - 1) // node.stride for b, k in zip(_block(node), node.kernel, strict=True))
    return rows, columns


def reach(node: Affine) -> int:
    """How far beyond the small side blocks read.

    The first block reaches (kernel - 1) // stride before the image, and the last one as far behind it.
    """
    return max(_window(node))


def image(node: Affine, builder: Builder) -> list[Any]:
    """The image that a decoder ends in: its blocks, and the sigmoid of them."""
    to, (product, blocks, order) = node.target.buffer, _product(node, builder, node.source.buffer, node.bias)
    return [
        product,
        FromBlocks(
            blocks=blocks.base, block_step=blocks.image, order=builder.table(order), rows=to.height,
            row=to.width * to.channels, origin=to.origin, row_step=to.row, image_step=to.image,
        ),
    ]  # fmt: skip


def image_gradient(node: Affine, builder: Builder) -> list[Any]:
    """The gradient to an image; that of an input is left in blocks, where whoever needs it will find it."""
    product, blocks, order = _product(node, builder, node.target.gradient, None)
    y, g = node.source.buffer, node.source.gradient
    if node.source.is_input:
        builder.input_gradient, builder.input_order = blocks, order
        return [product]
    return [
        product,
        BlocksGradient(
            blocks=blocks.base, block_step=blocks.image, order=builder.table(order), rows=y.height,
            row=y.width * y.channels, origin=y.origin, row_step=y.row, image_step=y.image, g_origin=g.origin,
            g_row_step=g.row, g_image_step=g.image,
        ),
    ]  # fmt: skip


def _product(node: Affine, builder: Builder, small: Layout, bias: int | None) -> tuple[Product, Layout, Integers]:
    """From the small side to blocks of the image.

    Returns
    -------
    The product, where it puts the blocks, and where each number of the image is among those of the first image.
    """
    height, width = node.kernel
    block, window = _block(node), _window(node)
    size = node.big.shape
    columns = padded(math.prod(block) * size[2])
    ranges = [
        range(node.padding // b, (n + node.padding - 1) // b + 1) for b, n in zip(block, size[:2], strict=True)
    ]  # the blocks that have pixels of the image
    stride = block if node.covers else (node.stride, node.stride)
    before = [(k - 1) // s for k, s in zip(node.kernel, stride, strict=True)]
    places = [np.array(r) * (b // s) - n for r, b, s, n in zip(ranges, block, stride, before, strict=True)]
    matrix: Array = np.zeros((*window, small.channels, *block, size[2]), np.int64)
    for i, j, r, c in np.ndindex(*window, *block):
        a, b = r - stride[0] * (i - before[0]), c - stride[1] * (j - before[1])
        if 0 <= a < height and 0 <= b < width:
            matrix[i, j, : len(node.numbers), r, c] = node.numbers[:, :, a, b]
    layout = builder.room_for(Layout(builder.images, len(ranges[0]), len(ranges[1]), columns))
    matrix = filled((*window, small.channels, columns), matrix.reshape(*window, small.channels, -1))
    start = builder.zeros(columns) if bias is None else builder.repeated(bias, size[2], math.prod(block), columns)
    targets = (np.arange(layout.height), np.arange(layout.width))
    product = phase(builder, small, layout, layout, matrix, (places[0], places[1]), targets, start, PLAIN)
    row, column, channel = np.indices(size)
    row, column = row + node.padding, column + node.padding
    within = ((row % block[0]) * block[1] + column % block[1]) * size[2] + channel
    of_block = (row // block[0] - ranges[0][0]) * len(ranges[1]) + column // block[1] - ranges[1][0]
    return product, layout, (of_block * columns + within).ravel()
