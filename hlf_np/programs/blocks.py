"""Products whose result is an image of few channels, in which single pixels would leave most of a vector empty.

Along an axis, pixel R of the padded image meets weight a at small pixel (R - a) / stride. A *block* of b pixels, b a
multiple of the stride, meets the same few small pixels relative to where it begins: b / stride + (kernel - 1) // stride
of them, from R / stride - (kernel - 1) // stride on. So a block of b x b pixels is one row of a product with that
window of the small side, whose weights are zero where the two do not meet. That is more arithmetic than needed, but in
full vectors, and each result is stored only once::

    image, stride 2, kernel 4         . . [ 0 1 2 3 ] . .          a block of 4 pixels of each row
    small pixels that it meets      q-1  q  q+1                    a window of 4 / 2 + 3 // 2 = 3
"""

import math
from typing import Any

import numpy as np

from hlf_np.kernels.instructions.propagation import Product, SigmoidFromBlocks, SigmoidGradientFromBlocks
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.products.tile import PLAIN, padded
from hlf_np.programs.affine_map import AffineMap
from hlf_np.programs.builder import Builder
from hlf_np.programs.products import to_big_side
from hlf_np.support.arrays import Array, Integers, zero_padded


def _block(affine: AffineMap) -> tuple[int, int]:
    """Return rows and columns of a block of pixels: about four, or the whole image."""
    if affine.covers:
        return affine.kernel
    side = affine.stride * max(1, 4 // affine.stride)
    return side, side


def _window(affine: AffineMap) -> tuple[int, int]:
    """Return rows and columns of the small pixels that a block meets."""
    if affine.covers:
        return 1, 1
    rows, columns = (
        b // affine.stride + (k - 1) // affine.stride for b, k in zip(_block(affine), affine.kernel, strict=True)
    )
    return rows, columns


def halo(affine: AffineMap) -> int:
    """Return the halo that the small side needs for the windows of all blocks.

    The first block reads (kernel - 1) // stride pixels before the image, and the last one as many after it.
    """
    return max(_window(affine))


def image(affine: AffineMap, builder: Builder) -> list[Any]:
    """Return the instructions for the image that a decoder ends in: its blocks, and their sigmoid."""
    to = affine.big.buffer
    product, blocks, offsets = _product(affine, builder, affine.small.buffer, affine.bias)
    return [
        product,
        SigmoidFromBlocks(
            blocks=blocks.base, block_stride=blocks.image, offsets=builder.table(offsets), rows=to.height,
            row_size=to.width * to.channels, origin=to.origin, row_stride=to.row, image_stride=to.image,
        ),
    ]  # fmt: skip


def image_gradient(affine: AffineMap, builder: Builder) -> list[Any]:
    """Return the instructions for the gradient with respect to an image.

    The gradient with respect to an input of the network stays in blocks; the builder notes where.
    """
    product, blocks, offsets = _product(affine, builder, affine.small.gradient, None)
    y, g = affine.big.buffer, affine.big.gradient
    if affine.big.is_input:
        builder.input_gradient, builder.input_offsets = blocks, offsets
        return [product]
    return [
        product,
        SigmoidGradientFromBlocks(
            blocks=blocks.base, block_stride=blocks.image, offsets=builder.table(offsets), rows=y.height,
            row_size=y.width * y.channels, origin=y.origin, row_stride=y.row, image_stride=y.image, g_origin=g.origin,
            g_row_stride=g.row, g_image_stride=g.image,
        ),
    ]  # fmt: skip


def _product(affine: AffineMap, builder: Builder, small: Layout, bias: int | None) -> tuple[Product, Layout, Integers]:
    """Lower the map from the small side to blocks of the image.

    Returns
    -------
    Product
        The instruction.
    Layout
        Where it puts the blocks.
    ndarray of int64, shape (H * W * C,)
        Where each element of an image is, relative to the image's first block.
    """
    height, width = affine.kernel
    block, window = _block(affine), _window(affine)
    size = affine.big.shape
    columns = padded(math.prod(block) * size[2])
    ranges = [
        range(affine.padding // b, (n + affine.padding - 1) // b + 1) for b, n in zip(block, size[:2], strict=True)
    ]  # the blocks that have pixels of the image
    stride = block if affine.covers else (affine.stride, affine.stride)
    before = [(k - 1) // s for k, s in zip(affine.kernel, stride, strict=True)]
    starts = [np.array(r) * (b // s) - n for r, b, s, n in zip(ranges, block, stride, before, strict=True)]
    matrix: Array = np.zeros((*window, small.channels, *block, size[2]), np.int64)
    for i, j, r, c in np.ndindex(*window, *block):
        a, b = r - stride[0] * (i - before[0]), c - stride[1] * (j - before[1])
        if 0 <= a < height and 0 <= b < width:
            matrix[i, j, : len(affine.weight_indices), r, c] = affine.weight_indices[:, :, a, b]
    layout = builder.allocate(Layout(builder.images, len(ranges[0]), len(ranges[1]), columns))
    matrix = zero_padded((*window, small.channels, columns), matrix.reshape(*window, small.channels, -1))
    initial = builder.zeros(columns) if bias is None else builder.repeated(bias, size[2], math.prod(block), columns)
    targets = (np.arange(layout.height), np.arange(layout.width))
    sources = (starts[0], starts[1])
    product = to_big_side(builder, small, layout, layout, matrix, sources, targets, initial, PLAIN)
    row, column, channel = np.indices(size)
    row, column = row + affine.padding, column + affine.padding
    within_block = ((row % block[0]) * block[1] + column % block[1]) * size[2] + channel
    block_index = (row // block[0] - ranges[0][0]) * len(ranges[1]) + column // block[1] - ranges[1][0]
    return product, layout, (block_index * columns + within_block).ravel()
