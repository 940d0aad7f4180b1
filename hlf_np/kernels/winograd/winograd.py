"""The kernel of Winograd's convolutions; `forms` explains them.

Three stages, for a block of patches at a time, so that everything stays in the cache:

    work (activations)                       scratch                                  work
    patches of pixels  --input transform-->  entries (products, patches, depth)
                                             @ filters (products, depth, columns)
                                             sums (products, patches, columns)  --output transform-->  pixels

A vector holds `LANES` channels, and the square of a patch is transformed in registers.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.numba_internals.compiling import inlined
from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.products.product import product
from hlf_np.kernels.products.tile import LANES, PANEL, PLAIN, epilogue_flags, reference_epilogue, write_epilogue
from hlf_np.kernels.winograd.forms import DOWN_F3_2, DOWN_F4_2, F2_3, F4_3, FORMS, UP_F3_2, UP_F4_2, Matrix

PATCHES_PER_BLOCK = 24  # two or four tiles of rows for each panel of filters; more would leave the nearer caches
# Elements between the entries of a block, and between its sums. If they were a power of two apart, all entries of a
# patch would compete for the same few lines of the cache.
CONFLICT_PADDING = LANES

# Of each form, in two dimensions: matrix products, phases that are read and written, and outputs of a patch.
PRODUCTS_PER_PATCH = tuple(form.multiplications**2 for form in FORMS)
_PHASES_READ = tuple(4 if form.from_phases else 1 for form in FORMS)
_PHASES_WRITTEN = tuple(4 if form.to_phases else 1 for form in FORMS)
OUTPUTS_PER_PATCH = tuple(phases * form.output_size**2 for form, phases in zip(FORMS, _PHASES_WRITTEN, strict=True))


def product_depth(form: int, channels: int) -> int:
    """Return the depth of the matrix products: the channels of all phases that are read."""
    return _PHASES_READ[form] * channels


def product_columns(form: int, columns: int) -> int:
    """Return the number of columns of the matrix products: the columns of all phases that are written."""
    return _PHASES_WRITTEN[form] * columns


def scratch_elements(form: int, channels: int, columns: int) -> int:
    """Return the number of elements of the scratch array that `winograd` needs."""
    row = product_depth(form, channels) + product_columns(form, columns)
    return PRODUCTS_PER_PATCH[form] * (PATCHES_PER_BLOCK * row + 2 * CONFLICT_PADDING)


# --- transforms ---


def _transform_square(e: Emitter, matrix: Matrix, first: Any, row_stride: Any, column_stride: Any) -> list[Any]:
    """Write M S M^T for a square S of vectors; return the results, row by row.

    Pointers are advanced from vector to vector. The compiler would compute offsets (i * row_stride) before all loops,
    and keep dozens of them on the stack.

    first : pointer to vector (0, 0) of S.
    row_stride, column_stride : elements from one vector to the next, along a column and along a row.
    """
    columns = []
    for _ in matrix[0]:
        pointer, column = first, []
        for _ in matrix[0]:
            column.append(e.load(pointer))
            pointer = e.pointer(pointer, row_stride)
        columns.append(e.matrix_vector(matrix, column))
        first = e.pointer(first, column_stride)
    rows = [e.matrix_vector(matrix, [column[i] for column in columns]) for i in range(len(matrix))]
    return [result for row in rows for result in row]


class TransformArguments(NamedTuple):
    """Arguments of an input or filter transform M S M^T of a vector. Arrays: 1-d float32; offsets: elements."""

    source: Any  # vector (i, j) of the square starts at offset + i * row_stride + j * pixel_stride
    offset: Any
    row_stride: Any
    pixel_stride: Any
    target: Any  # result k, counted row by row, goes to target_offset + k * entry_stride
    target_offset: Any
    entry_stride: Any


def _reference_transform(matrix: Matrix, t: TransformArguments) -> None:
    lanes, side, m = np.arange(LANES), np.arange(len(matrix[0])), np.array(matrix, t.source.dtype)
    square = t.source[t.offset + side[:, None, None] * t.row_stride + side[:, None] * t.pixel_stride + lanes]
    result = np.einsum("ip,pqv,jq->ijv", m, square, m).reshape(-1, LANES)
    t.target[t.target_offset + np.arange(len(result))[:, None] * t.entry_stride + lanes] = result


def _write_transform(e: Emitter, matrix: Matrix, t: TransformArguments) -> None:
    target = e.pointer(t.target.data, t.target_offset)
    for result in _transform_square(e, matrix, e.pointer(t.source.data, t.offset), t.row_stride, t.pixel_stride):
        e.store(result, target)
        target = e.pointer(target, t.entry_stride)


def make_transform(matrix: Matrix) -> Callable[..., None]:
    """Return a function for compiled code that computes M S M^T for one vector of channels.

    S is a patch d and M = B^T, or S is a filter g and M = G. The arguments are those of `TransformArguments`.
    """
    return make_intrinsic(TransformArguments, _write_transform, _reference_transform, matrix)


class OutputArguments(NamedTuple):
    """Arguments of an output transform bias + A^T m A of a vector. Arrays are 1-d; offsets count elements."""

    sums: Any  # float32; sum (i, j) of the square m starts at sums_offset + (side * i + j) * entry_stride
    sums_offset: Any
    entry_stride: Any
    bias: Any  # float32; the bias of these columns starts at bias_offset
    bias_offset: Any
    c: Any  # float32, holds the outputs and the masks
    targets: Any  # int64, where in `c` each output pixel goes
    masks: Any  # int64, where in `c` the mask of each output pixel starts
    first: Any  # the patch's first output, an index of `targets` and `masks`; the others follow, row by row
    column: Any  # the first column of the vector, relative to the start of a pixel
    epilogue: Any  # what happens before a pixel is stored; see `tile`


def _reference_output_transform(matrix: Matrix, t: OutputArguments) -> None:
    side, m = len(matrix[0]), np.array(matrix, t.sums.dtype)
    entries = np.arange(side**2)[:, None] * t.entry_stride
    square = t.sums[t.sums_offset + entries + np.arange(LANES)].reshape(side, side, LANES)
    for k, total in enumerate(np.einsum("ip,pqv,jq->ijv", m, square, m).reshape(-1, LANES), t.first):
        total = total + t.bias[t.bias_offset : t.bias_offset + LANES]
        reference_epilogue(total, t.epilogue, t.c, t.targets[k] + t.column, t.masks[k] + t.column)


def _write_output_transform(e: Emitter, matrix: Matrix, t: OutputArguments) -> None:
    build = e.build
    bias, (add, relu, masked) = e.load(e.pointer(t.bias.data, t.bias_offset)), epilogue_flags(e, t.epilogue)
    row_stride = build.mul(t.entry_stride, e.int64(len(matrix[0])))
    first = e.pointer(t.sums.data, t.sums_offset)
    totals = [build.fadd(total, bias) for total in _transform_square(e, matrix, first, row_stride, t.entry_stride)]
    minimum = build.select(relu, e.zero, e.constant_vector(-math.inf))

    def pixel(table: Any, k: int) -> Any:
        """Return a pointer to where output k goes, or its mask is."""
        start = build.load(e.pointer(table.data, build.add(t.first, e.int64(k))))
        return e.pointer(t.c.data, build.add(start, t.column))

    with build.if_else(build.or_(add, masked)) as (general, simple):
        with simple:
            for k, total in enumerate(totals):
                below = build.fcmp_ordered("<", total, minimum)
                e.store(build.select(below, minimum, total), pixel(t.targets, k))
        with general:
            slot = e.stack_slot()
            for k, total in enumerate(totals):
                build.store(total, slot)
                write_epilogue(e, slot, (add, relu, masked), pixel(t.targets, k), pixel(t.masks, k))


def _make_output_transform(matrix: Matrix) -> Callable[..., None]:
    """Return a function for compiled code that computes bias + A^T m A for a vector of columns and stores the outputs.

    The arguments are those of `OutputArguments`.
    """
    return make_intrinsic(OutputArguments, _write_output_transform, _reference_output_transform, matrix)


# Some forms share their input transform, others their output transform.
_input_4, _input_6, _input_3_to_4, _input_5 = (
    make_transform(FORMS[form].input_transform) for form in (F2_3, F4_3, UP_F3_2, DOWN_F4_2)
)
_output_f2_3, _output_f4_3, _output_f3_2, _output_up_f3_2, _output_f4_2 = (
    _make_output_transform(FORMS[form].output_transform) for form in (F2_3, F4_3, DOWN_F3_2, UP_F3_2, DOWN_F4_2)
)


@inlined
def _input_transform(form, work, pixel, row_stride, pixel_stride, scratch, entry, entry_stride):  # type: ignore[no-untyped-def]
    """Run the input transform of a form; the arguments are named in `TransformArguments`."""
    if form in (DOWN_F4_2, UP_F4_2):
        _input_5(work, pixel, row_stride, pixel_stride, scratch, entry, entry_stride)
    elif form == F4_3:
        _input_6(work, pixel, row_stride, pixel_stride, scratch, entry, entry_stride)
    elif form == UP_F3_2:
        _input_3_to_4(work, pixel, row_stride, pixel_stride, scratch, entry, entry_stride)
    else:
        _input_4(work, pixel, row_stride, pixel_stride, scratch, entry, entry_stride)


@inlined
def _output_transform(  # type: ignore[no-untyped-def]
    form, scratch, sums, sum_stride, weights, bias, work, targets, masks, first, column, epilogue
):
    """Run the output transform of a form; the arguments are named in `OutputArguments`."""
    if form in (DOWN_F4_2, UP_F4_2):
        _output_f4_2(scratch, sums, sum_stride, weights, bias, work, targets, masks, first, column, epilogue)
    elif form == F4_3:
        _output_f4_3(scratch, sums, sum_stride, weights, bias, work, targets, masks, first, column, epilogue)
    elif form == DOWN_F3_2:
        _output_f3_2(scratch, sums, sum_stride, weights, bias, work, targets, masks, first, column, epilogue)
    elif form == UP_F3_2:
        _output_up_f3_2(scratch, sums, sum_stride, weights, bias, work, targets, masks, first, column, epilogue)
    else:
        _output_f2_3(scratch, sums, sum_stride, weights, bias, work, targets, masks, first, column, epilogue)


# --- the convolution ---


@inlined
def winograd(op, tables, weights, work, scratch, first_image, end_image):  # type: ignore[no-untyped-def]
    """Convolve the images from `first_image` to before `end_image` of a workspace.

    op : the instruction, with its fields

        form : an index of `FORMS`.
        patches, patches_per_image : position in `tables` of where each patch begins in the work.
        row_stride, channels : elements from one row of pixels to the next, and of a pixel (whole vectors).
        weights : position of the filters, a matrix of `product_depth` x `product_columns` for each entry, in `panels`.
        initial, zeros : positions in the weights of the bias, and of as many zeros as a matrix has columns.
        columns : of the result, whole vectors.
        targets, masks : positions in `tables` of where each output of each phase of each patch goes, and of the masks.
        epilogue : see `tile`.
        lines : position in `tables` of where in `scratch` the rows of the entries begin, then those of the sums;
            `PATCHES_PER_BLOCK` each.

    tables, weights, work : the arrays of a compiled network.
    scratch : an array of `scratch_elements`.
    """
    form, channels, columns = op.form, op.channels, op.columns
    skipped, count = op.patches_per_image * first_image, op.patches_per_image * (end_image - first_image)
    patches, lines = tables[op.patches + skipped :], tables[op.lines :]
    outputs_per_patch = OUTPUTS_PER_PATCH[form]
    targets = tables[op.targets + outputs_per_patch * skipped :]
    masks = tables[op.masks + outputs_per_patch * skipped :]
    read, written, products = _PHASES_READ[form], _PHASES_WRITTEN[form], PRODUCTS_PER_PATCH[form]
    outputs_per_phase = outputs_per_patch // written
    depth, sums_columns, stride = read * channels, written * columns, 2 if read > 1 else 1
    matrix_size = depth * ((sums_columns + PANEL - 1) // PANEL) * PANEL
    # scratch: first the entries of all patches of a block, then their sums
    entry_stride = PATCHES_PER_BLOCK * depth + CONFLICT_PADDING
    sum_stride = PATCHES_PER_BLOCK * sums_columns + CONFLICT_PADDING
    sums = products * entry_stride
    plain = np.int64(PLAIN)  # for a literal, Numba would compile the product again
    for first in range(0, count, PATCHES_PER_BLOCK):
        block = min(PATCHES_PER_BLOCK, count - first)
        for patch in range(block):
            for phase in range(read):
                pixel = patches[first + patch] + (phase // 2) * op.row_stride + (phase % 2) * channels
                target = patch * depth + phase * channels
                for c in range(0, channels, LANES):
                    _input_transform(
                        form, work, pixel + c, stride * op.row_stride, stride * channels,
                        scratch, target + c, entry_stride,
                    )  # fmt: skip
        for k in range(products):
            product(
                scratch[k * entry_stride :], lines[:PATCHES_PER_BLOCK], lines[:1], depth,
                weights, op.weights + k * matrix_size, weights, op.zeros, sums_columns,
                scratch[sums + k * sum_stride :], lines[PATCHES_PER_BLOCK:], block, plain, lines[PATCHES_PER_BLOCK:],
            )  # fmt: skip
        for patch in range(block):
            for phase in range(written):
                output = ((first + patch) * written + phase) * outputs_per_phase
                source = sums + patch * sums_columns + phase * columns
                for c in range(0, columns, LANES):
                    _output_transform(
                        form, scratch, source + c, sum_stride, weights, op.initial + c,
                        work, targets, masks, output, c, op.epilogue,
                    )  # fmt: skip
