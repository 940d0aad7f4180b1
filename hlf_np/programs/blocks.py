"""Images of few channels, in which single pixels would leave most of a vector empty.

Each small pixel contributes a *patch* of kernel x kernel pixels to the image, and patches overlap (`col2im`). All
patches are one matrix product, a row for each small pixel, with full vectors and no superfluous arithmetic. Then the
patches are added up, in *blocks* of stride x stride pixels: block I of the padded image is covered by the patches of
the small pixels I, I - 1, ..., each with another *piece*:

    stride 2, kernel 4, along an axis         patch of small pixel 0   [ 0 1 | 2 3 ]
                                              patch of small pixel 1         [ 0 1 | 2 3 ]
                                              patch of small pixel 2               [ 0 1 | 2 3 ]
    blocks of 2 pixels                                                 0   |   1   |   2   |  3

    block 1  =  piece 0 of patch 1  +  piece 1 of patch 0            in two dimensions 2 x 2 pieces

The products of a patch are stored piece by piece, so a block and its pieces are contiguous. The image stays in blocks;
a table says where each of its elements is.
"""

import math
from typing import Any

import numpy as np

from hlf_np.kernels.instructions.propagation import OverlapAdd, SigmoidFromBlocks, SigmoidGradientFromBlocks
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.products.tile import LANES, PLAIN, padded
from hlf_np.programs.affine_map import AffineMap
from hlf_np.programs.builder import Builder
from hlf_np.programs.products import to_big_side
from hlf_np.support.arrays import Array, Integers, zero_padded


def image(affine: AffineMap, builder: Builder) -> list[Any]:
    """Return the instructions for the image that a decoder ends in: its blocks, and their sigmoid."""
    to = affine.big.buffer
    instructions, blocks, offsets = _blocks(affine, builder, affine.small.buffer, affine.bias)
    return [
        *instructions,
        SigmoidFromBlocks(
            blocks=blocks.base, block_stride=blocks.image, offsets=builder.table(offsets), rows=to.height,
            row_size=to.width * to.channels, origin=to.origin, row_stride=to.row, image_stride=to.image,
        ),
    ]  # fmt: skip


def image_gradient(affine: AffineMap, builder: Builder) -> list[Any]:
    """Return the instructions for the gradient with respect to an image.

    The gradient with respect to an input of the network stays in blocks; the builder notes where.
    """
    instructions, blocks, offsets = _blocks(affine, builder, affine.small.gradient, None)
    y, g = affine.big.buffer, affine.big.gradient
    if affine.big.is_input:
        builder.input_gradient, builder.input_offsets = blocks, offsets
        return instructions
    return [
        *instructions,
        SigmoidGradientFromBlocks(
            blocks=blocks.base, block_stride=blocks.image, offsets=builder.table(offsets), rows=y.height,
            row_size=y.width * y.channels, origin=y.origin, row_stride=y.row, image_stride=y.image, g_origin=g.origin,
            g_row_stride=g.row, g_image_stride=g.image,
        ),
    ]  # fmt: skip


def _blocks(affine: AffineMap, builder: Builder, small: Layout, bias: int | None) -> tuple[list[Any], Layout, Integers]:
    """Lower the map from the small side to blocks of the image.

    Returns
    -------
    list
        The instructions.
    Layout
        Where they put the blocks, all blocks of an image as one pixel.
    ndarray of int64, shape (H * W * C,)
        Where each element of an image is, relative to the image's first block.
    """
    size, channels = affine.big.shape[:2], affine.big.channels
    block = affine.kernel if affine.covers else (affine.stride, affine.stride)
    counts = [-(-k // b) for k, b in zip(affine.kernel, block, strict=True)]  # pieces of a patch along each axis
    # the blocks that have pixels of the image
    ranges = [
        np.arange(affine.padding // b, (n + affine.padding - 1) // b + 1) for b, n in zip(block, size, strict=True)
    ]
    block_size = math.prod(block) * channels
    columns = padded(math.prod(counts) * block_size)
    matrix: Array = np.zeros((small.channels, *counts, *block, channels), np.int64)
    for a, b in np.ndindex(*affine.kernel):
        (i, r), (j, c) = divmod(a, block[0]), divmod(b, block[1])
        matrix[: len(affine.weight_indices), i, j, r, c] = affine.weight_indices[:, :, a, b]
    matrix = zero_padded((1, 1, small.channels, columns), matrix.reshape(1, 1, small.channels, -1))
    reach = [
        max(count - 1 - blocks[0], blocks[-1] - (n - 1))
        for count, blocks, n in zip(counts, ranges, (small.height, small.width), strict=True)
    ]  # how far blocks need patches of pixels beyond the small side, which are zero
    patches = builder.allocate(Layout(builder.images, small.height, small.width, columns, max(0, *reach)))
    pixels = (np.arange(small.height), np.arange(small.width))

    def initial(patch: int, width: int) -> int:
        """Return the position of the initial values of a patch or a block."""
        return builder.zeros(width) if bias is None else builder.repeated(bias, channels, patch, width)

    def product(start: int) -> Any:
        return to_big_side(builder, small, patches, patches, matrix, pixels, pixels, start, PLAIN)

    row, column, channel = np.indices((*size, channels))
    row, column = row + affine.padding, column + affine.padding
    within_block = ((row % block[0]) * block[1] + column % block[1]) * channels + channel
    index = (row // block[0] - ranges[0][0]) * len(ranges[1]) + column // block[1] - ranges[1][0]
    offsets = (index * block_size + within_block).ravel()
    if affine.covers:  # the only patch is the image
        return [product(initial(math.prod(block), columns))], patches, offsets
    blocks = len(ranges[0]) * len(ranges[1])
    layout = builder.allocate(Layout(builder.images, 1, 1, padded(blocks * block_size) + LANES))
    i, j = np.indices(counts).reshape(2, -1)
    pieces = (i * counts[1] + j) * block_size - i * patches.row - j * patches.channels
    add = OverlapAdd(
        sources=builder.table(patches.pixels(*ranges)), blocks=blocks, pieces=builder.table(pieces),
        piece_count=pieces.size, size=block_size, initial=initial(math.prod(block), padded(block_size)),
        targets=layout.base, target_stride=layout.image,
    )  # fmt: skip
    return [product(builder.zeros(columns)), add], layout, offsets
