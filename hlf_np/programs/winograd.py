"""Convolutions in Winograd's form, as instructions; `kernels.winograd_forms` explains it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels.instructions import Winograd
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import LANES, PANEL
from hlf_np.kernels.winograd import BLOCK, inputs, scratch, sums
from hlf_np.kernels.winograd_forms import FORMS, FROM_THREE, Form
from hlf_np.programs.builder import Builder

if TYPE_CHECKING:
    from hlf_np.programs.affine import Affine


def room(node: Affine) -> int:
    """How many numbers it needs to work in."""
    to_small = scratch(node.forms[0], node.big.stride, node.small.stride)
    return max(to_small, scratch(node.forms[1], node.small.stride, node.big.stride))


def convolution(
    node: Affine, builder: Builder, to_big: bool, source: Layout, target: Layout, gates: Layout, start: int, finish: int
) -> Winograd:
    """From the small side to the big one or back."""
    form = node.forms[to_big]
    wide, sums_wide = inputs(form, source.channels), sums(form, target.channels)
    matrix = node.matrix
    if to_big:  # the big side's channels as columns
        matrix = builder.place_matrix(node.numbers.transpose(2, 3, 0, 1), node.small.stride, node.big.stride)
    rows, columns = (FORMS[form].begins(size) for size in (target.height, target.width))
    return Winograd(
        form=form, patches=builder.table(source.pixels(rows, columns)), patches_per_image=rows.size * columns.size,
        row=source.row, channels=source.channels, weights=_filters(builder, node, to_big, matrix, wide, sums_wide),
        start=start, zeros=builder.zeros(sums_wide), columns=target.channels,
        targets=builder.table(_outputs(target, FORMS[form])), gates=builder.table(_outputs(gates, FORMS[form])),
        finish=finish, lines=builder.table(np.concatenate([np.arange(BLOCK) * wide, np.arange(BLOCK) * sums_wide])),
    )  # fmt: skip


def _filters(builder: Builder, node: Affine, to_big: bool, matrix: int, wide: int, sums_wide: int) -> int:
    """Where the transformed filters will be.

    For each entry there is a matrix (wide, sums_wide), with the source's channels of all phases as rows and the
    target's as columns, in `panels`. matrix : where the weights are, from which they are computed.
    """
    form, phases, width = node.forms[to_big], node.stride, node.kernel[1]
    source, target = (node.small, node.big) if to_big else (node.big, node.small)
    size = wide * -(-sums_wide // PANEL) * PANEL
    to = builder.reserve("weights", FORMS[form].multiplications ** 2 * size)
    # one vector for each phase (i, j), row and 16 columns
    i, j, row, column = np.indices((phases, phases, source.stride, target.stride // LANES)).reshape(4, -1)
    column = column * LANES
    first = matrix + _in_panels(math.prod(node.kernel) * source.stride, (i * width + j) * source.stride + row, column)
    tap = phases * source.stride * PANEL
    line = width * tap
    if to_big and form != FROM_THREE:  # turned: from the last tap on
        first, line, tap = first + (node.kernel[0] // phases - 1) * (line + tap), -line, -tap
    phase = i * phases + j
    if to_big:
        column = column + phase * target.stride
    else:
        row = row + phase * source.stride
    at = to + _in_panels(wide, row, column)
    builder.transform(np.stack(np.broadcast_arrays(form, first, line, tap, at, size), axis=1))
    return to


def _in_panels(depth: int, row: Integers, column: Integers) -> Integers:
    """Where entries of a matrix of `depth` rows are in `panels`."""
    return (column // PANEL * depth + row) * PANEL + column % PANEL


def _outputs(layout: Layout, form: Form) -> Integers:
    """Where the outputs of every patch go, phase after phase; -1 beyond the image."""
    rows, columns = (_positions(size, form) for size in (layout.height, layout.width))  # (patches, phases, outputs)
    rows, columns = rows[:, None, :, None, :, None], columns[None, :, None, :, None, :]
    within = rows * layout.row + columns * layout.channels
    images = layout.origin + np.arange(layout.images).reshape(-1, *[1] * within.ndim) * layout.image
    inside = (rows >= 0) & (rows < layout.height) & (columns >= 0) & (columns < layout.width)
    return np.where(inside, images + within, -1).ravel()


def _positions(size: int, form: Form) -> Integers:
    """Along an axis of the target, the outputs of every patch, (patches, phases, outputs)."""
    first = np.arange(form.begins(size).size)[:, None, None] * form.outputs
    output = first + np.arange(form.outputs)
    return 2 * output - 1 + np.arange(2)[:, None] if form.to_phases else output
