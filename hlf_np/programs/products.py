"""Affine maps as matrix products, from the big to the small side and back.

- `gather`, from the big to the small side: each small pixel is a row of the product, the window of the big side under
  it (see `kernels.products.convolution`).
- `scatter`, from the small to the big side: a product of stride 1 for each phase of the stride.
- `paired_gradient`: like `scatter`, but two neighbouring pixels at a time, as one pixel would fill half of a tile.

Images of few channels have products of their own, see `blocks`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.kernels.instructions.propagation import Product
from hlf_np.kernels.layout import Layout, taps, window_segments, window_starts
from hlf_np.kernels.products.tile import MASK
from hlf_np.programs.affine_map import AffineMap
from hlf_np.programs.builder import Builder
from hlf_np.support.arrays import Array, Integers, zero_padded

Pixels = tuple[ArrayLike, ArrayLike]  # the pixels at all combinations of some rows and some columns of an image


def gather(
    affine: AffineMap, builder: Builder, big: Layout, small: Layout, masks: Layout, initial: int, epilogue: int
) -> Product:
    """Return the product from the big to the small side.

    Parameters
    ----------
    affine : AffineMap
        The convolution.
    builder : Builder
        Where tables and weights are allocated.
    big, small : Layout
        The buffers to read and to write.
    masks : Layout
        The buffer of the ReLU outputs that mask the result, if the epilogue has MASK.
    initial : int
        Position in the weights of the bias, or of zeros.
    epilogue : int
        Flags of `kernels.products.tile`.
    """
    segments, length = window_segments(big, affine.kernel)
    return Product(
        sources=builder.table(window_starts(big, affine.kernel, affine.stride, affine.padding)),
        pixels=small.height * small.width, segments=builder.table(segments), segment_count=segments.size, length=length,
        weights=affine.matrix, initial=initial, columns=small.channels,
        targets=builder.table(small.all_pixels()), epilogue=epilogue, masks=builder.table(masks.all_pixels()),
    )  # fmt: skip


def scatter(
    affine: AffineMap, builder: Builder, small: Layout, big: Layout, masks: Layout, bias: int | None, epilogue: int
) -> list[Product]:
    """Return the products from the small to the big side: one per phase, or per row if the only window is the image.

    The parameters are those of `gather`; `bias` is None for no bias.
    """
    height, width = affine.big.height, affine.big.width
    if affine.covers and (bias is None or affine.bias_per_pixel):
        return _scatter_rows(affine, builder, small, big, masks, bias, epilogue)
    stride = max(height, width) if affine.covers else affine.stride
    instructions: list[Product] = []
    for rows in taps(height, affine.kernel[0], stride, affine.padding):
        for columns in taps(width, affine.kernel[1], stride, affine.padding):
            of_phase = affine.weight_indices[:, :, rows.phase :: stride, columns.phase :: stride][:, :, ::-1, ::-1]
            matrix = zero_padded(
                (rows.count, columns.count, small.channels, big.channels), of_phase.transpose(2, 3, 0, 1)
            )
            initial = builder.zeros(big.channels) if bias is None else bias
            sources, targets = (rows.first, columns.first), (rows.pixels, columns.pixels)
            instructions.append(to_big_side(builder, small, big, masks, matrix, sources, targets, initial, epilogue))
    return instructions


def _scatter_rows(
    affine: AffineMap, builder: Builder, small: Layout, big: Layout, masks: Layout, bias: int | None, epilogue: int
) -> list[Product]:
    """Return the products from one small pixel to each row of the image, or to all rows at once if there is no halo."""
    rows = affine.big.height if big.halo == masks.halo == 0 else 1  # rows per product
    columns = rows * affine.big.width * big.channels
    instructions: list[Product] = []
    for row in range(0, affine.big.height, rows):
        of_rows = affine.weight_indices[:, :, row : row + rows].transpose(0, 2, 3, 1)  # (small, rows, W, big)
        matrix = zero_padded((small.channels, *of_rows.shape[1:3], big.channels), of_rows)
        matrix = matrix.reshape(1, 1, small.channels, columns)
        initial = builder.zeros(columns) if bias is None else bias + row // rows * columns
        sources, targets = ([0], [0]), ([row], [0])
        instructions.append(to_big_side(builder, small, big, masks, matrix, sources, targets, initial, epilogue))
    return instructions


def paired_gradient(affine: AffineMap, builder: Builder) -> list[Product]:
    """Return the products for the gradient with respect to pixels of one vector of channels, two pixels at a time.

    One pixel is a single vector; a pair is as wide as the larger tile. With stride 2 and an even kernel, pixels 2 q and
    2 q + 1 of the padded image meet the same outputs along their row: q - kernel / 2 + 1 to q. The first and the last
    pair may extend one pixel beyond the image. What is computed there is masked to zero, as the source is zero in its
    halo.
    """
    source, gradient = affine.big, affine.small.gradient
    outputs = affine.kernel[1] // 2
    first = np.arange(affine.padding // 2, (source.width + affine.padding - 1) // 2 + 1)  # q of each pair
    instructions: list[Product] = []
    for rows in taps(source.height, affine.kernel[0], affine.stride, affine.padding):
        matrix: Array = np.zeros((rows.count, outputs, gradient.channels, 2, source.stride), np.int64)
        of_phase = affine.weight_indices[:, :, rows.phase :: 2][:, :, ::-1].transpose(2, 3, 0, 1)  # (taps, kw, O, C)
        for output in range(outputs):
            for pixel in range(2):
                weights = of_phase[:, pixel + 2 * (outputs - 1 - output)]
                matrix[:, output, : weights.shape[1], pixel, : weights.shape[2]] = weights
        matrix = matrix.reshape(rows.count, outputs, gradient.channels, 2 * source.stride)
        sources, targets = (rows.first, first - outputs + 1), (rows.pixels, 2 * first - affine.padding)
        initial = builder.zeros(2 * source.stride)
        instructions.append(
            to_big_side(builder, gradient, source.gradient, source.buffer, matrix, sources, targets, initial, MASK)
        )
    return instructions


def to_big_side(
    builder: Builder,
    small: Layout,
    big: Layout,
    masks: Layout,
    matrix: Integers,
    sources: Pixels,
    targets: Pixels,
    initial: int,
    epilogue: int,
) -> Product:
    """Return one product from the small to the big side.

    Parameters
    ----------
    builder : Builder
        Where tables and weights are allocated.
    small, big : Layout
        The buffers to read and to write.
    masks : Layout
        The buffer of the ReLU outputs that mask the result, if the epilogue has MASK.
    matrix : ndarray of int64, shape (rows of a window, columns of a window, channels, columns)
        Symbolic indices of the weights.
    sources : tuple
        Rows and columns of the small pixels at which the windows begin.
    targets : tuple
        Rows and columns of the big pixels where the results go.
    initial : int
        Position in the weights of the bias, or of zeros.
    epilogue : int
        Flags of `kernels.products.tile`.
    """
    *window, columns = matrix.shape
    return Product(
        sources=builder.table(small.pixels(*sources)), pixels=np.size(sources[0]) * np.size(sources[1]),
        segments=builder.table(np.arange(window[0]) * small.row), segment_count=window[0], length=window[1] * window[2],
        weights=builder.pack_panels(matrix.reshape(math.prod(window), columns)), initial=initial, columns=columns,
        targets=builder.table(big.pixels(*targets)), epilogue=epilogue, masks=builder.table(masks.pixels(*targets)),
    )  # fmt: skip
