"""The instructions that compiled networks consist of, each defined once: what it does and what its fields mean.

`programs` writes them by keyword, `encoded` stores them as rows of one table, the kind and then the fields, and the
kernels read a row back with the `decoder` of its kind. Every field is an int64, and most are *positions*: where
something begins in one of the flat arrays that a compiled network works on. Those that only training needs are in
`training_instructions`.

- work: activations and their gradients (float32), a workspace of each thread's own, for a few images at a time.
- weights: what the layers own, arranged as the kernels read it (float32).
- tables: positions in the work, one for each pixel (int64). Tables hold an entry for each pixel of each image of the
  workspace, image after image, so that the images from `first` to before `end` are one contiguous part of them.

Names that recur: `pixels`, how many of them an image has; `channels`, numbers of a pixel, whole vectors but for images
of few channels; `columns`, channels of a product's result; `finish`, what happens to a result before it is stored (see
`tile`), and `gates`, the table of the values that decide it; `*_step`, the distance from one image, row or number to
the next. In training, `row` is the numbers in a row of pixels, `rows` how many such rows an image has.
"""

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic

from hlf_np.arrays import Integers
from hlf_np.kernels.training_instructions import CLOSING, OF_PARTS, Task


class Product(
    namedtuple("Product", "sources pixels segments segment_count length weights start columns targets finish gates")
):
    """target = start + A B: the rows of A are gathered from the work, B is a matrix among the weights.

    sources, pixels : table of where the rows of A begin, and how many an image has.
    segments, segment_count, length : table of where the pieces of a row begin, relative to it; how many; their length.
    weights, start : the matrix, in `panels`; the initial sums, one for each column.
    """


class Scale(namedtuple("Scale", "sources pixels targets channels factors offsets finish gates")):
    """target = factor * source + offset for every channel; factors and offsets stand among the weights."""


class Join(namedtuple("Join", "bodies shortcuts pixels targets channels")):
    """target = max(0, body + shortcut)."""


class Pool(namedtuple("Pool", "windows pixels segments size targets channels largest")):
    """target = the largest value of each window, or the mean of its values if not `largest`.

    windows, pixels : table of where the windows begin, and how many an image has.
    segments, size : table of where the pixels of a window lie, relative to it, and how many there are.
    """


class PoolGradient(
    namedtuple(
        "PoolGradient",
        "windows pixels segments size targets channels largest gradients to_windows to_segments to_all "
        "to_pixels finish gates",
    )
):
    """The gradient with respect to what was pooled: to the first pixel that attains the maximum, or to all alike.

    windows, ..., largest : as of the `Pool`.
    gradients : table of the gradient with respect to the result.
    to_windows, to_segments : like windows and segments, for the gradient with respect to what was pooled.
    to_all, to_pixels : table of all its pixels, and how many an image has.
    """


class FromBlocks(namedtuple("FromBlocks", "blocks block_step order rows row origin row_step image_step")):
    """An image of few channels: the sigmoid of what lies in blocks of pixels (see `programs.blocks`).

    blocks, block_step : the blocks of the first image, and the distance to the next one's.
    order : table of where each number of an image is among its blocks.
    rows, row : of the image; origin, row_step, image_step : where it goes.
    """


class BlocksGradient(
    namedtuple(
        "BlocksGradient", "blocks block_step order rows row origin row_step image_step g_origin g_row_step g_image_step"
    )
):
    """The gradient before that sigmoid, from the gradient with respect to the image, which lies in blocks.

    blocks, ..., image_step : as of `FromBlocks`; g_origin, g_row_step, g_image_step : where the gradient goes.
    """


class Warp(
    namedtuple(
        "Warp",
        "codes code_step planes plane_step rows width constants filled slopes slope_step origin pixel_step "
        "row_step image_step",
    )
):
    """Images of one channel, warped by six parameters; see `kernels.warp`.

    codes, planes : the parameters, and the image in a border of zeros.
    constants, filled : among the weights x and y of every pixel, each filled up to `filled` numbers; then the last
        column and line, and half of the columns and of the lines.
    slopes : room for the map, the values, and their derivatives with respect to column and line.
    origin, pixel_step, row_step, image_step : where the warped images go.
    """


class WarpGradient(
    namedtuple(
        "WarpGradient", "codes code_step image image_step order pixels constants filled slopes slope_step to to_step"
    )
):
    """The gradient with respect to the parameters, from the one with respect to the image.

    image, image_step, order : the gradient with respect to the image, and table of where each of its numbers is.
    """


class Winograd(
    namedtuple(
        "Winograd", "form patches patches_per_image row channels weights start zeros columns targets gates finish lines"
    )
):
    """A convolution in a form of Winograd; see `kernels.winograd` for the fields."""


EXECUTED = (
    Product, Scale, Join, Pool, PoolGradient, FromBlocks, BlocksGradient, Warp, WarpGradient, Winograd
)  # fmt: skip
_ALL: tuple[Any, ...] = (*EXECUTED, *OF_PARTS, *CLOSING, Task)
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

    kind = types.NamedUniTuple(types.int64, size, instruction)

    @intrinsic
    def decode(typing, row):  # type: ignore[no-untyped-def]
        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, build, values[0]).data
            places = (build.gep(data, [ir.Constant(ir.IntType(64), k)]) for k in range(1, size + 1))
            return context.make_tuple(build, kind, [build.load(place) for place in places])

        return kind(row), generate

    return decode  # type: ignore[return-value]
