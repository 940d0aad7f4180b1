"""The instructions that compiled networks consist of, each defined once: what it does and what its fields mean.

`programs` writes them by keyword, `encoded` stores them as rows of one table, the kind and then the fields, and the
kernels read a row back with the `decoder` of its kind. Every field is an int64, and most are *positions*: where
something begins in one of the flat arrays that a compiled network works on.

- work: activations and their gradients (float32), a workspace of each thread's own, for a few images at a time.
- weights: what the layers own, arranged as the kernels read it (float32).
- tables: positions in the work, one for each pixel (int64). Tables hold an entry for each pixel of each image of the
  workspace, image after image, so that the images from `first` to before `end` are one contiguous part of them.

Names that recur: `pixels`, how many of them an image has; `channels`, numbers of a pixel, whole vectors but for images
of few channels; `columns`, channels of a product's result; `finish`, what happens to a result before it is stored (see
`tile`), and `gates`, the table of the values that decide it; `*_step`, the distance from one image, row or number to
the next. In training, `row` is the numbers in a row of pixels, `rows` how many such rows an image has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core import config
from numba.np.unsafe.ndarray import to_fixed_tuple

from hlf_np.arrays import Integers
from hlf_np.kernels.compiling import inner


class Product(NamedTuple):
    """target = start + A B: the rows of A are gathered from the work, B is a matrix among the weights.

    sources, pixels : table of where the rows of A begin, and how many an image has.
    segments, segment_count, length : table of where the pieces of a row begin, relative to it; how many; their length.
    weights, start : the matrix, in `panels`; the initial sums, one for each column.
    """

    sources: int
    pixels: int
    segments: int
    segment_count: int
    length: int
    weights: int
    start: int
    columns: int
    targets: int
    finish: int
    gates: int


class Scale(NamedTuple):
    """target = factor * source + offset for every channel; factors and offsets stand among the weights."""

    sources: int
    pixels: int
    targets: int
    channels: int
    factors: int
    offsets: int
    finish: int
    gates: int


class Join(NamedTuple):
    """target = max(0, body + shortcut)."""

    bodies: int
    shortcuts: int
    pixels: int
    targets: int
    channels: int


class Pool(NamedTuple):
    """target = the largest value of each window, or the mean of its values if not `largest`.

    windows, pixels : table of where the windows begin, and how many an image has.
    segments, size : table of where the pixels of a window lie, relative to it, and how many there are.
    """

    windows: int
    pixels: int
    segments: int
    size: int
    targets: int
    channels: int
    largest: int


class PoolGradient(NamedTuple):
    """The gradient with respect to what was pooled: to the first pixel that attains the maximum, or to all alike.

    windows, ..., largest : as of the `Pool`.
    gradients : table of the gradient with respect to the result.
    to_windows, to_segments : like windows and segments, for the gradient with respect to what was pooled.
    to_all, to_pixels : table of all its pixels, and how many an image has.
    """

    windows: int
    pixels: int
    segments: int
    size: int
    targets: int
    channels: int
    largest: int
    gradients: int
    to_windows: int
    to_segments: int
    to_all: int
    to_pixels: int
    finish: int
    gates: int


class FromBlocks(NamedTuple):
    """An image of few channels: the sigmoid of what lies in blocks of pixels (see `programs.blocks`).

    blocks, block_step : the blocks of the first image, and the distance to the next one's.
    order : table of where each number of an image is among its blocks.
    rows, row : of the image; origin, row_step, image_step : where it goes.
    """

    blocks: int
    block_step: int
    order: int
    rows: int
    row: int
    origin: int
    row_step: int
    image_step: int


class BlocksGradient(NamedTuple):
    """The gradient before that sigmoid, from the gradient with respect to the image, which lies in blocks.

    blocks, ..., image_step : as of `FromBlocks`; g_origin, g_row_step, g_image_step : where the gradient goes.
    """

    blocks: int
    block_step: int
    order: int
    rows: int
    row: int
    origin: int
    row_step: int
    image_step: int
    g_origin: int
    g_row_step: int
    g_image_step: int


class Warp(NamedTuple):
    """Images of one channel, warped by six parameters; see `kernels.warp`.

    codes, planes : the parameters, and the image in a border of zeros.
    constants, filled : among the weights x and y of every pixel, each filled up to `filled` numbers; then the last
        column and line, and half of the columns and of the lines.
    slopes : room for the map, the values, and their derivatives with respect to column and line.
    origin, pixel_step, row_step, image_step : where the warped images go.
    """

    codes: int
    code_step: int
    planes: int
    plane_step: int
    rows: int
    width: int
    constants: int
    filled: int
    slopes: int
    slope_step: int
    origin: int
    pixel_step: int
    row_step: int
    image_step: int


class WarpGradient(NamedTuple):
    """The gradient with respect to the parameters, from the one with respect to the image.

    image, image_step, order : the gradient with respect to the image, and table of where each of its numbers is.
    """

    codes: int
    code_step: int
    image: int
    image_step: int
    order: int
    pixels: int
    constants: int
    filled: int
    slopes: int
    slope_step: int
    to: int
    to_step: int


class Winograd(NamedTuple):
    """A convolution in a form of Winograd; see `kernels.winograd` for the fields."""

    form: int
    patches: int
    patches_per_image: int
    row: int
    channels: int
    weights: int
    start: int
    zeros: int
    columns: int
    targets: int
    gates: int
    finish: int
    lines: int


class BiasSums(NamedTuple):
    """sums = a part's gradient with respect to a bias; gradients : table of rows of pixels."""

    gradients: int
    rows: int
    row: int
    channels: int
    sums: int


class Moments(NamedTuple):
    """moments = mean of each channel over a part, then the sums of squared distances from it; x : table of rows."""

    x: int
    rows: int
    row: int
    channels: int
    moments: int


class Normalize(NamedTuple):
    """y = factor * x + offset, its positive part if `rectified`; x, y : tables of rows; statistics : of the batch."""

    x: int
    rows: int
    row: int
    statistics: int
    y: int
    rectified: int


class NormSums(NamedTuple):
    """sums = a part's gradients with respect to the weight and the bias of a batch norm; x, g : tables of rows."""

    x: int
    rows: int
    row: int
    channels: int
    statistics: int
    g: int
    sums: int


class NormGradient(NamedTuple):
    """d = the gradient with respect to the input of a batch norm; x, g, d, gates : tables of rows."""

    x: int
    rows: int
    row: int
    statistics: int
    g: int
    d: int
    finish: int
    gates: int


class SoftmaxLoss(NamedTuple):
    """The cross-entropy of each image and the predicted class as `results`, and the gradient of the mean loss."""

    logits: int
    logits_step: int
    gradient: int
    gradient_step: int
    labels: int
    labels_step: int
    classes: int
    results: int
    results_step: int


class Reparameterize(NamedTuple):
    """codes = mean + exp(log variance / 2) * noise; the posterior is the means and then the log variances."""

    latents: int
    posterior: int
    posterior_step: int
    noise: int
    noise_step: int
    codes: int
    codes_step: int


class ReparameterizeGradient(NamedTuple):
    """The gradient with respect to the posterior, from the one with respect to the codes and that of the KL."""

    latents: int
    posterior: int
    posterior_step: int
    noise: int
    noise_step: int
    d_posterior: int
    d_posterior_step: int
    d_codes: int
    d_codes_step: int


class VaeLoss(NamedTuple):
    """The summed absolute error and the KL of each image as `results`, and the gradient before the last sigmoid.

    rows, row : of an image; y, x, g : the reconstruction, the image and the gradient.
    weight : where among the weights the reconstruction's weight is.
    """

    rows: int
    row: int
    y: int
    y_row_step: int
    y_step: int
    x: int
    x_row_step: int
    x_step: int
    g: int
    g_row_step: int
    g_step: int
    weight: int
    latents: int
    posterior: int
    posterior_step: int
    results: int
    results_step: int


class WeightSums(NamedTuple):
    """sums = a part's gradient with respect to a matrix of weights; see `outer_products`.

    groups, group_count, group : table of where the groups of rows begin, how many there are, and rows in each.
    a_steps, b_steps, pixels : tables of the pixels' windows and of their output gradients, and pixels of an image.
    """

    groups: int
    group_count: int
    group: int
    a_steps: int
    pixels: int
    b_steps: int
    columns: int
    sums: int


class Statistics(NamedTuple):
    """At the end of a stage: mean and variance of the batch from its parts' moments, and the running statistics.

    statistics : where they go; settings : momentum and epsilon; those and weight, ..., running_variance stand among the
    weights.
    """

    pixels: int
    channels: int
    row: int
    moments: int
    statistics: int
    weight: int
    bias: int
    running_mean: int
    running_variance: int
    settings: int


class NormTotals(NamedTuple):
    """At the end of a stage: the gradients with respect to weight and bias, from the sums of all parts."""

    pixels: int
    channels: int
    row: int
    sums: int
    statistics: int
    weight: int
    bias: int


class Totals(NamedTuple):
    """At the end of a stage: gradient = the sums of all parts, `size` numbers."""

    size: int
    sums: int
    gradient: int


class Task(NamedTuple):
    """A few rows and a panel of a gradient with respect to weights, over all images of one half of a batch.

    a, a_steps : where the numbers of the first row are, relative to the window of a pixel; table of these windows.
    column, columns, b_steps : first column of the panel, columns in all, table of the pixels' output gradients.
    gradient, rows : where the rows go, and how many they are.
    """

    a: int
    a_steps: int
    pixels: int
    column: int
    columns: int
    b_steps: int
    gradient: int
    rows: int


# The executor's, those of a part of a batch in training, and those at the end of a stage.
EXECUTED = (
    Product, Scale, Join, Pool, PoolGradient, FromBlocks, BlocksGradient, Warp, WarpGradient, Winograd
)  # fmt: skip
TRAINED = (
    BiasSums, Moments, Normalize, NormSums, NormGradient, SoftmaxLoss, Reparameterize, ReparameterizeGradient, VaeLoss,
    WeightSums,
)  # fmt: skip
CLOSING = (Statistics, NormTotals, Totals)
_ALL: tuple[Any, ...] = (*EXECUTED, *TRAINED, *CLOSING, Task)
KIND: dict[Any, int] = {instruction: number for number, instruction in enumerate(_ALL)}
FIELDS = 1 + max(len(instruction._fields) for instruction in _ALL)


def encoded(instructions: Sequence[Any]) -> Integers:
    """Instructions as rows of equal length: the kind, the fields, zeros."""
    rows = np.zeros((len(instructions), FIELDS), np.int64)
    for row, instruction in zip(rows, instructions, strict=True):
        row[: 1 + len(instruction)] = KIND[type(instruction)], *instruction
    return rows


def decoded(row: Integers) -> Any:
    """The instruction that a row holds."""
    instruction = _ALL[row[0]]
    return instruction(*row[1 : 1 + len(instruction._fields)].tolist())


def decoder(instruction: Any) -> Callable[[Integers], Any]:
    """A function for compiled code that reads a row back as an instruction of this kind."""
    size = len(instruction._fields)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return lambda row: instruction(*row[1 : 1 + size].tolist())

    @inner
    def decode(row):  # type: ignore[no-untyped-def]
        return instruction(*to_fixed_tuple(row[1:], size))  # type: ignore[call-arg]

    return decode  # type: ignore[no-any-return]
