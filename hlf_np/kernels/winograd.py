"""The kernel of Winograd's convolutions; `winograd_forms` explains them.

Three stages, for a block of patches at a time, so that everything stays in the cache: the entries B d B' of all
patches, one matrix product for each entry, and the outputs A m A' of all patches. A vector holds 16 channels, and the
whole patch is in registers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import cgutils

from hlf_np.kernels.compiling import pasted
from hlf_np.kernels.convolution import product
from hlf_np.kernels.tile import LANES, PANEL, PLAIN, Emitter, emitted, reference_finish
from hlf_np.kernels.winograd_forms import FORMS, FROM_THREE, SAME, TO_BIG, TO_SMALL, TO_THREE, Matrix

BLOCK = 48  # patches handled together: four tiles for each panel of weights
APART = LANES  # more, from one entry to the next: a power of two apart, all would share a few lines of the cache

# Of each form: products of a patch, and how many phases are read and written.
PRODUCTS = tuple(form.multiplications**2 for form in FORMS)
_READ = tuple(4 if form.from_phases else 1 for form in FORMS)
_WRITTEN = tuple(4 if form.to_phases else 1 for form in FORMS)
# Outputs of a patch, in all phases.
OUTPUTS = tuple(written * form.outputs**2 for form, written in zip(FORMS, _WRITTEN, strict=True))


def inputs(form: int, channels: int) -> int:
    """Numbers of a patch for each entry."""
    return _READ[form] * channels


def sums(form: int, columns: int) -> int:
    """Sums of a patch for each entry."""
    return _WRITTEN[form] * columns


def scratch(form: int, channels: int, columns: int) -> int:
    """How many numbers `winograd` needs to work in."""
    return PRODUCTS[form] * (BLOCK * (inputs(form, channels) + sums(form, columns)) + 2 * APART)


def _twice(e: Emitter, matrix: Matrix, load: Callable[[int, int], Any], store: Callable[[int, Any], None]) -> None:
    """M S M' of a square S of vectors; each is loaded when it is needed, and stored at once, to spare registers."""
    side = range(len(matrix[0]))
    columns = [e.combined(matrix, [load(i, j) for i in side]) for j in side]
    for i in range(len(matrix)):
        for j, result in enumerate(e.combined(matrix, [column[i] for column in columns])):
            store(len(matrix) * i + j, result)


def _reference_transform(matrix, a, at, row, pixel, c, c_at, entry):  # type: ignore[no-untyped-def]
    vector, side, m = np.arange(LANES), np.arange(len(matrix[0])), np.array(matrix, a.dtype)
    square = a[at + side[:, None, None] * row + side[:, None] * pixel + vector]
    result = np.einsum("ip,pqv,jq->ijv", m, square, m).reshape(-1, LANES)
    c[c_at + np.arange(len(result))[:, None] * entry + vector] = result


def _write_transform(e, matrix, a, at, row, pixel, c, c_at, entry):  # type: ignore[no-untyped-def]
    build = e.build
    lines = [e.at(a.data, build.add(at, build.mul(row, e.constant(i)))) for i in range(len(matrix[0]))]

    def load(i: int, j: int) -> Any:
        return e.load(e.at(lines[i], build.mul(pixel, e.constant(j))))

    def store(k: int, result: Any) -> None:
        e.store(result, e.at(c.data, build.add(c_at, build.mul(entry, e.constant(k)))))

    _twice(e, matrix, load, store)


def make_transform(matrix: Matrix) -> Callable[..., None]:
    """M S M' for a square S of vectors: B d B' for 16 channels of a patch d, or G g G' for 16 filters g.

    Vector (i, j) of the square is at `at + i row + j pixel` of `a`; number k of the results goes to `c_at + k entry`
    of `c`.
    """
    return emitted(_write_transform, _reference_transform, matrix)


def _reference_outputs(matrix, a, at, entry, start, start_at, c, targets, gates, first, column, finish):  # type: ignore[no-untyped-def]
    points, m = len(matrix[0]), np.array(matrix, a.dtype)
    found = a[at + np.arange(points**2)[:, None] * entry + np.arange(LANES)].reshape(points, points, LANES)
    for k, total in enumerate(np.einsum("ip,pqv,jq->ijv", m, found, m).reshape(-1, LANES), first):
        if targets[k] >= 0:
            total = total + start[start_at : start_at + LANES]
            reference_finish(total, finish, c, targets[k] + column, gates[k] + column)


def _write_outputs(e, matrix, a, at, entry, start, start_at, c, targets, gates, first, column, finish):  # type: ignore[no-untyped-def]
    build, points = e.build, len(matrix[0])
    bias, asked = e.load(e.at(start.data, start_at)), e.asked(finish)
    slot = cgutils.alloca_once(build, e.vector)

    def load(i: int, j: int) -> Any:
        return e.load(e.at(a.data, build.add(at, build.mul(entry, e.constant(points * i + j)))))

    def store(k: int, total: Any) -> None:
        pixel = build.add(first, e.constant(k))
        to, gate = (build.load(e.at(table.data, pixel)) for table in (targets, gates))
        with build.if_then(build.icmp_signed(">=", to, e.constant(0))):
            build.store(build.fadd(total, bias), slot)
            place, gate = (e.at(c.data, build.add(where, column)) for where in (to, gate))
            e.finish(slot, asked, place, gate)

    _twice(e, matrix, load, store)


def _make_outputs(matrix: Matrix) -> Callable[..., None]:
    """start + A m A' for a vector of columns of the sums m, which lie `entry` apart from `at` on.

    The pixels go to `targets[first], ...` in `c`, column `column`; what happens before is told by `finish`, see
    `make_tile`.
    """
    return emitted(_write_outputs, _reference_outputs, matrix)


# some forms share the entries of their patches, others the outputs
_entries_of_four, _entries_of_three, _entries_of_five = (
    make_transform(FORMS[form].entries) for form in (SAME, FROM_THREE, TO_SMALL)
)
_two_outputs, _three_outputs, _outputs_from_three, _four_outputs = (
    _make_outputs(FORMS[form].sums) for form in (SAME, TO_THREE, FROM_THREE, TO_SMALL)
)


@pasted
def _entries(form, work, at, row, pixel, room, to, entry):  # type: ignore[no-untyped-def]
    if form in (TO_SMALL, TO_BIG):
        _entries_of_five(work, at, row, pixel, room, to, entry)
    elif form == FROM_THREE:
        _entries_of_three(work, at, row, pixel, room, to, entry)
    else:
        _entries_of_four(work, at, row, pixel, room, to, entry)


@pasted
def _outputs(form, room, at, entry, weights, start, work, targets, gates, first, column, finish):  # type: ignore[no-untyped-def]
    if form in (TO_SMALL, TO_BIG):
        _four_outputs(room, at, entry, weights, start, work, targets, gates, first, column, finish)
    elif form == TO_THREE:
        _three_outputs(room, at, entry, weights, start, work, targets, gates, first, column, finish)
    elif form == FROM_THREE:
        _outputs_from_three(room, at, entry, weights, start, work, targets, gates, first, column, finish)
    else:
        _two_outputs(room, at, entry, weights, start, work, targets, gates, first, column, finish)


@pasted
def winograd(  # type: ignore[no-untyped-def]
    form, work, patches, row, channels, weights, at, start, zeros, columns, targets, gates, finish, room, lines, count,
):  # fmt: skip
    """A convolution over `count` patches, from and to a flat workspace.

    form : see `FORMS`.
    patches : (count,), where each begins; row : from one row of pixels to the next; channels : of a pixel, whole
    vectors.
    weights, at : a matrix for each entry, in `panels`, from channels of all phases to columns of all phases; start,
    zeros : where among the weights the bias of `columns` is, and as many zeros as a matrix has columns.
    targets, gates : (OUTPUTS[form] count,), where the outputs of each phase of each patch go, -1 where there is none,
    and their gates.
    room : to work in, of the size `scratch`; lines : (2, BLOCK), where there the rows of a matrix of entries begin, and
    those of one of sums.
    """
    read, written, products = _READ[form], _WRITTEN[form], PRODUCTS[form]
    per_phase = OUTPUTS[form] // written
    wide, sums_wide, stride = read * channels, written * columns, 2 if read > 1 else 1
    size = wide * ((sums_wide + PANEL - 1) // PANEL) * PANEL
    entry, sums_entry = BLOCK * wide + APART, BLOCK * sums_wide + APART
    sums = products * entry
    plain = np.int64(PLAIN)  # for a literal, Numba would compile the product again
    for first in range(0, count, BLOCK):
        several = min(BLOCK, count - first)
        for patch in range(several):
            for phase in range(read):
                pixel = patches[first + patch] + (phase // 2) * row + (phase % 2) * channels
                to = patch * wide + phase * channels
                for c in range(0, channels, LANES):
                    _entries(form, work, pixel + c, stride * row, stride * channels, room, to + c, entry)
        for k in range(products):
            product(
                room[k * entry :], lines[:BLOCK], lines[:1], wide, weights, at + k * size, weights, zeros,
                sums_wide, room[sums + k * sums_entry :], lines[BLOCK:], several, plain, lines[BLOCK:],
            )  # fmt: skip
        for patch in range(several):
            for phase in range(written):
                output = ((first + patch) * written + phase) * per_phase
                of = sums + patch * sums_wide + phase * columns
                for c in range(0, columns, LANES):
                    _outputs(
                        form, room, of + c, sums_entry, weights, start + c, work, targets, gates, output, c, finish
                    )  # fmt: skip
