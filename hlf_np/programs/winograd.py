"""Affine maps by Winograd's algorithm; `kernels.winograd.forms` explains it."""

import math

import numpy as np

from hlf_np.kernels.instructions.propagation import Winograd
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.products.tile import LANES, PANEL
from hlf_np.kernels.winograd.forms import FORMS, UP_F3_2, Form
from hlf_np.kernels.winograd.winograd import PATCHES_PER_BLOCK, product_columns, product_depth, scratch_elements
from hlf_np.programs.affine_map import AffineMap
from hlf_np.programs.builder import Builder
from hlf_np.support.arrays import Integers


def scratch_size(affine: AffineMap) -> int:
    """Return how many elements of scratch memory the map needs, in either direction."""
    to_small = scratch_elements(affine.winograd_forms[0], affine.big.stride, affine.small.stride)
    return max(to_small, scratch_elements(affine.winograd_forms[1], affine.small.stride, affine.big.stride))


def convolution(
    affine: AffineMap,
    builder: Builder,
    to_big: bool,
    source: Layout,
    target: Layout,
    masks: Layout,
    initial: int,
    epilogue: int,
) -> Winograd:
    """Return the instruction for a map from the small to the big side, or back.

    Parameters
    ----------
    affine : AffineMap
        The convolution.
    builder : Builder
        Where tables and weights are allocated.
    to_big : bool
        The direction.
    source, target : Layout
        The buffers to read and to write.
    masks : Layout
        The buffer of the ReLU outputs that mask the result, if the epilogue has MASK.
    initial : int
        Position in the weights of the bias, or of zeros.
    epilogue : int
        Flags of `kernels.products.tile`.
    """
    form = affine.winograd_forms[to_big]
    # each entry of a patch has a matrix of this size
    depth, columns = product_depth(form, source.channels), product_columns(form, target.channels)
    matrix = affine.matrix
    if to_big:  # a matrix whose columns are the big side's channels
        indices = affine.weight_indices.transpose(2, 3, 0, 1)
        matrix = builder.pack_filters(indices, affine.small.stride, affine.big.stride)
    patch_rows, patch_columns = (FORMS[form].patch_starts(size) for size in (target.height, target.width))
    lines = np.concatenate([np.arange(PATCHES_PER_BLOCK) * depth, np.arange(PATCHES_PER_BLOCK) * columns])
    return Winograd(
        form=form, patches=builder.table(source.pixels(patch_rows, patch_columns)),
        patches_per_image=patch_rows.size * patch_columns.size, row_stride=source.row, channels=source.channels,
        weights=_filters(builder, affine, to_big, matrix, depth, columns), initial=initial,
        zeros=builder.zeros(columns), columns=target.channels,
        targets=builder.table(_outputs(target, FORMS[form], builder)),
        masks=builder.table(_outputs(masks, FORMS[form], builder)), epilogue=epilogue, lines=builder.table(lines),
    )  # fmt: skip


def _filters(builder: Builder, affine: AffineMap, to_big: bool, matrix: int, depth: int, columns: int) -> int:
    """Reserve the transformed filters and note how they are computed; return their position.

    Each entry of a patch has a matrix (depth, columns) of panels, whose rows are the source's channels of all phases
    and whose columns are the target's channels of all phases.

    matrix : position of the packed weights that the filters are computed from.
    """
    form, phases, width = affine.winograd_forms[to_big], affine.stride, affine.kernel[1]
    source, target = (affine.small, affine.big) if to_big else (affine.big, affine.small)
    size = depth * -(-columns // PANEL) * PANEL
    position = builder.reserve("weights", FORMS[form].multiplications ** 2 * size)
    # one vector for each phase (i, j), row, and vector of columns
    i, j, row, column = np.indices((phases, phases, source.stride, target.stride // LANES)).reshape(4, -1)
    column = column * LANES
    weight_rows = math.prod(affine.kernel) * source.stride
    first = matrix + _in_panels(weight_rows, (i * width + j) * source.stride + row, column)
    tap_stride = phases * source.stride * PANEL
    line_stride = width * tap_stride
    if to_big and form != UP_F3_2:  # rotated by 180 degrees: from the last tap to the first
        first = first + (affine.kernel[0] // phases - 1) * (line_stride + tap_stride)
        line_stride, tap_stride = -line_stride, -tap_stride
    phase = i * phases + j
    if to_big:
        column = column + phase * target.stride
    else:
        row = row + phase * source.stride
    targets = position + _in_panels(depth, row, column)
    builder.add_filters(np.stack(np.broadcast_arrays(form, first, line_stride, tap_stride, targets, size), axis=1))
    return position


def _in_panels(depth: int, row: Integers, column: Integers) -> Integers:
    """Return where entries of a matrix of `depth` rows are in the order of `panels`."""
    return (column // PANEL * depth + row) * PANEL + column % PANEL


def _outputs(layout: Layout, form: Form, builder: Builder) -> Integers:
    """Return where the outputs of every patch go, phase after phase.

    Those beyond the image go to a pixel that nobody reads.
    """
    rows, columns = (_positions(size, form) for size in (layout.height, layout.width))  # (patches, phases, outputs)
    rows, columns = rows[:, None, :, None, :, None], columns[None, :, None, :, None, :]
    within = rows * layout.row + columns * layout.channels
    images = layout.origin + np.arange(layout.images).reshape(-1, *[1] * within.ndim) * layout.image
    inside = (rows >= 0) & (rows < layout.height) & (columns >= 0) & (columns < layout.width)
    return np.where(inside, images + within, builder.unread_pixel(layout.channels)).ravel()


def _positions(size: int, form: Form) -> Integers:
    """Return the outputs of every patch along one axis of the target, (patches, phases, outputs)."""
    first = np.arange(form.patch_starts(size).size)[:, None, None] * form.output_size
    output = first + np.arange(form.output_size)
    return 2 * output - 1 + np.arange(2)[:, None] if form.to_phases else output
