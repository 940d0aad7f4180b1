"""Convolutions in Winograd's form, as operations; `kernels.winograd_forms` explains it."""

from __future__ import annotations

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels import executor
from hlf_np.kernels.convolution import panels
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import PLAIN, RELU
from hlf_np.kernels.winograd import BLOCK, inputs, sums
from hlf_np.kernels.winograd_forms import FORMS, SAME, Form
from hlf_np.programs.builder import Builder, Operation
from hlf_np.programs.nodes import Affine

TURNED = (3, 1, 2, 0)  # of a turned filter of 3x3, G g G' is the same numbers in another order


def forward(builder: Builder, node: Affine, numbers: Integers, starts: int) -> Operation:
    """The layer itself; `numbers` : of its prepared weights; `starts` : where its biases are."""
    finish = RELU if node.target.rectified else PLAIN
    source, target = node.source.buffer, node.target.buffer
    return _operation(builder, node, node.transposed, numbers, (source, target, target), starts, finish)


def gradient(builder: Builder, node: Affine, numbers: Integers) -> Operation:
    """The gradient to the source."""
    finish = node.source.next_finish()
    source, target = node.target.gradient, node.source.gradient
    layouts = (source, target, node.source.buffer)
    return _operation(builder, node, not node.transposed, numbers, layouts, builder.zeros(target.channels), finish)


def _operation(
    builder: Builder,
    node: Affine,
    to_big: bool,
    numbers: Integers,
    layouts: tuple[Layout, Layout, Layout],
    start: int,
    finish: int,
) -> Operation:
    """numbers : (1 or 2, O, C, phases, phases, points, points); layouts : of source, target and gates."""
    form, (source, target, gates) = node.forms[to_big], layouts
    own = numbers[-1 if to_big else 0]
    if to_big and form == SAME:
        own = own[..., TURNED, :][..., TURNED]
    wide, sums_wide = inputs(form, source.channels), sums(form, target.channels)
    small, big = (source, target) if to_big else (target, source)
    own = np.pad(own, [(0, small.channels - len(own)), (0, big.channels - own.shape[1])] + [(0, 0)] * 4)
    # an entry's matrix has the source's channels as rows and the target's as columns, those of phases side by side
    own = own.transpose(4, 5, 0, 2, 3, 1) if to_big else own.transpose(4, 5, 2, 3, 1, 0)
    matrices = own.reshape(-1, wide, sums_wide)
    rows, columns = (FORMS[form].begins(size) for size in (target.height, target.width))
    lines = np.concatenate([np.arange(BLOCK) * wide, np.arange(BLOCK) * sums_wide])
    return (
        executor.WINOGRAD,
        form,
        builder.table(source.pixels(rows, columns)),
        rows.size * columns.size,
        source.row,
        source.channels,
        builder.place(np.stack([panels(matrix) for matrix in matrices])),
        start,
        builder.zeros(sums_wide),
        target.channels,
        builder.table(_outputs(target, FORMS[form])),
        builder.table(_outputs(gates, FORMS[form])),
        finish,
        builder.room,
        builder.table(lines),
    )


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
