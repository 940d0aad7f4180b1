"""Winograd's convolution: four outputs of a 3x3 window for 16 multiplications instead of 36.

Two neighbouring outputs of a filter (g0, g1, g2) over four numbers (d0, ..., d3) share work. They are::

    y0 = d0 g0 + d1 g1 + d2 g2 = m0 + m1 + m2        m0 = (d0 - d2) g0          m1 = (d1 + d2) (g0 + g1 + g2) / 2
    y1 = d1 g0 + d2 g1 + d3 g2 = m1 - m2 - m3        m3 = (d1 - d3) g2          m2 = (d2 - d1) (g0 - g1 + g2) / 2

which is 4 multiplications, not 6: the sums over the filter are known beforehand, and those over the numbers are shared
by all filters. In two dimensions, rows and then columns, a *patch* d of 4x4 pixels gives 2x2 outputs

    Y = A [(G g G') * (B d B')] A'        (* entry by entry)

with the matrices `SUMS` (A), `FILTER` (G) and `PATCH` (B) below. With many channels the 16 entries are 16 matrix
products, patches times channels by channels times filters, for which there is the micro-kernel. What is saved is
arithmetic, 36 / 16 = 2.25 times; what it costs is moving the patches to and fro, so it pays where there are many
channels. (S. Winograd, *Arithmetic Complexity of Computations*, 1980; for networks A. Lavin and S. Gray, *Fast
Algorithms for Convolutional Neural Networks*, CVPR 2016. Their larger patches save more and lose digits; with 4x4 the
entries of all matrices are 0, 1 or 1/2, up to the sign.)

The gradient to the input of a 3x3 convolution of stride 1 is such a convolution, too, of the turned filter, whose
G g G' is the same numbers in another order: `TURNED`.
"""

from typing import Any

import numpy as np
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from hlf_np.arrays import Floats
from hlf_np.kernels.compiling import inner
from hlf_np.kernels.convolution import product
from hlf_np.kernels.tile import ADD, GATE, LANES, PANEL, PLAIN, RELU, Emitter, Tile

Matrix = tuple[tuple[int, ...], ...]

PATCH: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
SUMS: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
FILTER = np.array([(1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)])
TURNED = (3, 1, 2, 0)

SIDE = 4  # of a patch
ENTRIES = SIDE * SIDE
BLOCK = 48  # patches handled together: four tiles for each panel of weights, and their entries stay in the cache
APART = LANES  # more, from one entry to the next: a power of two apart, all would share a few lines of the cache


def transformed(weight: Floats) -> Floats:
    """G g G' of all filters: (O, C, 3, 3) to (O, C, 4, 4)."""
    wide = np.kron(FILTER, FILTER)  # (16, 9)
    return (weight.reshape(-1, 9) @ wide.T).astype(weight.dtype).reshape(*weight.shape[:2], SIDE, SIDE)


def scratch(channels: int, columns: int) -> int:
    """How many numbers `winograd` needs to work in."""
    return ENTRIES * (BLOCK * (channels + columns) + 2 * APART)


def _reference_entries(a, at, row, pixel, c, c_at, entry):  # type: ignore[no-untyped-def]
    """`_entries` in plain Python, for runs without compilation."""
    vector = np.arange(LANES)
    patch = a[at + np.arange(SIDE)[:, None, None] * row + np.arange(SIDE)[:, None] * pixel + vector]
    matrix = np.array(PATCH, np.float32)
    c[c_at + np.arange(ENTRIES)[:, None] * entry + vector] = np.einsum("ip,pqv,jq->ijv", matrix, patch, matrix).reshape(
        ENTRIES, LANES
    )


def _reference_outputs(a, at, entry, start, start_at, c, targets, gates, first, column, finish):  # type: ignore[no-untyped-def]
    """`_outputs` in plain Python."""
    entries = a[at + np.arange(ENTRIES)[:, None] * entry + np.arange(LANES)].reshape(SIDE, SIDE, LANES)
    matrix = np.array(SUMS, np.float32)
    totals = np.einsum("ip,pqv,jq->ijv", matrix, entries, matrix).reshape(-1, LANES)
    for k, total in enumerate(totals, first):
        if targets[k] < 0:
            continue
        to, gate = targets[k] + column, gates[k] + column
        total = total + start[start_at : start_at + LANES]
        if finish & ADD:
            total = total + c[to : to + LANES]
        if finish & RELU:
            total = np.maximum(total, 0)
        if finish & GATE:
            total = np.where(c[gate : gate + LANES] > 0, total, 0)
        c[to : to + LANES] = total


def _twice(e: Emitter, matrix: Matrix, square: list[list[Any]]) -> list[Any]:
    """M S M' of a square of vectors, row after row."""
    columns = [e.combined(matrix, [line[j] for line in square]) for j in range(SIDE)]
    return [v for i in range(len(matrix)) for v in e.combined(matrix, [column[i] for column in columns])]


@intrinsic
def _compiled_entries(typing, a, at, row, pixel, c, c_at, entry):  # type: ignore[no-untyped-def]
    """B d B' for a vector of channels of a patch d, all 16 vectors in registers at once.

    Pixel (i, j) of the patch is the vector at `at + i row + j pixel` of `a`; number k of the 16 results goes to
    `c_at + k entry` of `c`.
    """
    arguments = (a, at, row, pixel, c, c_at, entry)

    def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
        e = Emitter(context, build, a.dtype, vectors=0)
        source, target = (e.array(signature.args[k], values[k]).data for k in (0, 4))
        at, row, pixel, c_at, entry = (values[k] for k in (1, 2, 3, 5, 6))
        lines = [e.at(source, build.add(at, build.mul(row, e.constant(i)))) for i in range(SIDE)]
        patch = [[e.load(e.at(line, build.mul(pixel, e.constant(j)))) for j in range(SIDE)] for line in lines]
        for k, result in enumerate(_twice(e, PATCH, patch)):
            e.store(result, e.at(target, build.add(c_at, build.mul(entry, e.constant(k)))))
        return context.get_dummy_value()

    return types.void(*arguments), generate


@intrinsic
def _compiled_outputs(  # type: ignore[no-untyped-def]
    typing, a, at, entry, start, start_at, c, targets, gates, first, column, finish
):  # fmt: skip
    """start + A m A' for a vector of columns of the 16 sums m, which lie `entry` apart from `at` on.

    The 2x2 pixels go to `targets[first], ...` in `c`, column `column`; what happens before is told by `finish`, see
    `make_tile`.
    """
    arguments = (a, at, entry, start, start_at, c, targets, gates, first, column, finish)

    def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
        e = Emitter(context, build, a.dtype, vectors=0)
        source, start, target, targets, gates = (e.array(signature.args[k], values[k]).data for k in (0, 3, 5, 6, 7))
        at, entry, start_at, first, column, finish = (values[k] for k in (1, 2, 4, 8, 9, 10))
        sums = [e.load(e.at(source, build.add(at, build.mul(entry, e.constant(k))))) for k in range(ENTRIES)]
        bias, asked = e.load(e.at(start, start_at)), e.asked(finish)
        slot = cgutils.alloca_once(build, e.vector)
        square = [sums[SIDE * i : SIDE * (i + 1)] for i in range(SIDE)]
        for k, total in enumerate(_twice(e, SUMS, square)):
            pixel = build.add(first, e.constant(k))
            to, gate = (build.load(e.at(table, pixel)) for table in (targets, gates))
            with build.if_then(build.icmp_signed(">=", to, e.constant(0))):
                build.store(build.fadd(total, bias), slot)
                place, gate = (e.at(target, build.add(where, column)) for where in (to, gate))
                e.finish(slot, asked, place, gate)
        return context.get_dummy_value()

    return types.void(*arguments), generate


_interpreted = config.DISABLE_JIT  # type: ignore[attr-defined]
_entries: Tile = _reference_entries if _interpreted else _compiled_entries
_outputs: Tile = _reference_outputs if _interpreted else _compiled_outputs


@inner
def winograd(  # type: ignore[no-untyped-def]
    work, patches, row, channels, weights, at, start, zeros, columns, targets, gates, finish, scratch, lines, count
):  # fmt: skip
    """A 3x3 convolution of stride 1 over `count` patches, from and to a flat workspace.

    patches : (count,), where each begins; row : from one of its rows to the next; channels : whole vectors.
    weights, at : 16 matrices (channels, columns), each in `panels`; start, zeros : where among the weights the bias is,
    and as many zeros.
    targets, gates : (4 count,), where the outputs of each patch go, -1 where there is none, and their gates.
    scratch : where there is room; lines : (2, BLOCK), where the rows of a matrix (BLOCK, channels) begin, and of one
    (BLOCK, columns).
    """
    size = channels * ((columns + PANEL - 1) // PANEL) * PANEL
    entry, sums_entry = BLOCK * channels + APART, BLOCK * columns + APART
    sums = scratch + ENTRIES * entry
    for first in range(0, count, BLOCK):
        several = min(BLOCK, count - first)
        for patch in range(several):
            for c in range(0, channels, LANES):
                _entries(work, patches[first + patch] + c, row, channels, work, scratch + patch * channels + c, entry)
        for k in range(ENTRIES):
            product(
                work[scratch + k * entry :], lines[:BLOCK], lines[:1], channels, weights, at + k * size, weights, zeros,
                columns, work[sums + k * sums_entry :], lines[BLOCK:], PANEL, several, PLAIN, lines[BLOCK:],
            )  # fmt: skip
        for patch in range(several):
            for c in range(0, columns, LANES):
                _outputs(
                    work, sums + patch * columns + c, sums_entry, weights, start + c, work, targets, gates,
                    4 * (first + patch), c, finish,
                )  # fmt: skip
