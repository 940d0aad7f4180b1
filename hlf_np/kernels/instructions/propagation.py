"""Instructions that propagate activations forwards and gradients backwards; `instructions` explains the conventions."""

from typing import NamedTuple


class Product(NamedTuple):
    """target = initial + A B, where the rows of A are gathered from `work` and B is a matrix of weights."""

    sources: int  # table: where each row of A begins
    pixels: int  # rows of A per image
    segments: int  # table: where the contiguous segments of a row begin, relative to its first element
    segment_count: int  # segments per row
    length: int  # elements per segment
    weights: int  # weights: B, stored by `panels`
    initial: int  # weights: initial value of each column's sum, the bias or zeros
    columns: int  # columns of B
    targets: int  # table: where each row of the result goes
    epilogue: int
    masks: int


class Scale(NamedTuple):
    """target = factor * source + offset, per channel."""

    sources: int  # table: the pixels to read
    pixels: int
    targets: int  # table: the pixels to write
    channels: int
    factors: int  # weights: one factor per channel
    offsets: int  # weights: one offset per channel
    epilogue: int
    masks: int


class ResidualAdd(NamedTuple):
    """target = relu(body + shortcut), the end of a residual block."""

    bodies: int  # table: pixels of the body's output
    shortcuts: int  # table: pixels of the shortcut's output
    pixels: int
    targets: int  # table: the pixels to write
    channels: int


class Pool(NamedTuple):
    """target = maximum or mean of each window."""

    windows: int  # table: where each window begins
    pixels: int  # windows per image
    segments: int  # table: where the pixels of a window are, relative to its first pixel
    size: int  # pixels per window
    targets: int  # table: the pixels to write
    channels: int
    largest: int  # 1 for the maximum, 0 for the mean


class PoolGradient(NamedTuple):
    """Gradient of `Pool` with respect to its input: to the first pixel with the maximum, or in equal shares to all."""

    windows: int  # as in `Pool`, down to `largest`
    pixels: int
    segments: int
    size: int
    targets: int
    channels: int
    largest: int
    gradients: int  # table: gradient with respect to the output
    to_windows: int  # table: like `windows`, in the gradient with respect to the input
    to_segments: int  # table: like `segments`, in the gradient with respect to the input
    to_all: int  # table: all pixels of the gradient with respect to the input
    to_pixels: int  # pixels of that gradient per image
    epilogue: int
    masks: int


class OverlapAdd(NamedTuple):
    """block = initial + sum of its pieces, which lie in overlapping patches (see `programs.blocks`)."""

    sources: int  # table: where the first piece of each block begins
    blocks: int  # blocks per image
    pieces: int  # table: where the pieces of a block begin, relative to the first
    piece_count: int  # pieces per block
    size: int  # elements per block
    initial: int  # weights: initial values of a block
    targets: int  # work: first block of the first image; the blocks of an image follow each other
    target_stride: int  # from the blocks of one image to those of the next


class SigmoidFromBlocks(NamedTuple):
    """Image of few channels = sigmoid of what a product has left in blocks of pixels (see `programs.blocks`)."""

    blocks: int  # work: blocks of the first image
    block_stride: int  # from the blocks of one image to those of the next
    offsets: int  # table: where each element of an image is, relative to the image's first block
    rows: int
    row_size: int
    origin: int  # work: first pixel of the first image to write
    row_stride: int
    image_stride: int


class SigmoidGradientFromBlocks(NamedTuple):
    """Gradient with respect to the input of that sigmoid, from the gradient with respect to its output, in blocks."""

    blocks: int  # as in `SigmoidFromBlocks`, down to `image_stride`; the image is read here
    block_stride: int
    offsets: int
    rows: int
    row_size: int
    origin: int
    row_stride: int
    image_stride: int
    g_origin: int  # work: first pixel of the first gradient to write
    g_row_stride: int
    g_image_stride: int


class Warp(NamedTuple):
    """Images of one channel under affine maps of six parameters each; see `kernels.operations.warp`."""

    codes: int  # work: parameters of the first image
    code_stride: int  # from the parameters of one image to those of the next
    planes: int  # work: first image to warp, in a border of zeros
    plane_stride: int
    rows: int
    width: int  # pixels per row
    constants: int  # weights: x and y of each pixel, the last column and row, half the width and half the height
    padded_pixels: int  # pixels per image, rounded up to whole vectors
    slopes: int  # work: scratch memory for the map, the values and their derivatives along columns and rows
    slope_stride: int
    origin: int  # work: first pixel of the first warped image
    pixel_stride: int
    row_stride: int
    image_stride: int


class WarpGradient(NamedTuple):
    """Gradient with respect to the six parameters, from the gradient with respect to the warped image."""

    codes: int  # as in `Warp`
    code_stride: int
    image: int  # work: gradient with respect to the first image
    image_stride: int
    offsets: int  # table: where each pixel of that gradient is, relative to the first
    pixels: int
    constants: int  # as in `Warp`, down to `slope_stride`; reads what `Warp` left there
    padded_pixels: int
    slopes: int
    slope_stride: int
    targets: int  # work: gradient with respect to the first image's parameters
    target_stride: int


class Winograd(NamedTuple):
    """A convolution by Winograd's algorithm; see `kernels.winograd.winograd`."""

    form: int  # index into `kernels.winograd.forms.FORMS`
    patches: int  # table: where each patch begins
    patches_per_image: int
    row_stride: int
    channels: int
    weights: int  # weights: transformed filters, one matrix per entry of a patch, each stored by `panels`
    initial: int  # weights: initial value of each sum, the bias or zeros
    zeros: int  # weights: as many zeros as the matrices have columns
    columns: int
    targets: int  # table: where each output of each patch goes
    masks: int
    epilogue: int
    lines: int  # table: where the rows of the matrices of entries and of sums begin in the scratch memory
