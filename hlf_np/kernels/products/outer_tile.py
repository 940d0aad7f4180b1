"""Tiles of products over pixels, the gradients with respect to weights; `tile` explains tiles.

The gradient of a matrix of weights is a sum of outer products, one for each output pixel k:

    C[m, :] = sum_k A[m, k] * B[k, :]      A[:, k] : the window under pixel k      B[k, :] : the gradient of pixel k

                                 B[k, 0:32]    gradient with respect to the output pixel
                              +-------------+
        window[0] of pixel k  |   sum 0,v   |     C[0, :]   gradient of the weights that meet value 0 of a window
        window[1] of pixel k  |   sum 1,v   |     C[1, :]
               ...            |     ...     |       ...
                              +-------------+

Here the rows of A are positions in a window and its columns are pixels. So what step k needs, the values under pixel k,
lies side by side in memory: a segment of the window. Such a *group* of rows is long in most layers. In an image of one
channel it is only as long as the kernel is wide, and would fill a third of a tile; then 4 groups of up to 4 rows share
one (a *narrow* tile):

    4 x 4 kernel, 1 channel:       row 0 of the window    w0 w1 w2 w3     4 rows of the tile
                                   row 1 of the window    w0 w1 w2 w3     4 rows
                                   row 2 of the window    w0 w1 w2 w3     4 rows
                                   row 3 of the window    w0 w1 w2 w3     4 rows, by one vector of columns
"""

from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.products.tile import LANES, PANEL, TILE_ROWS, Tile

MAX_NARROW_ROWS = 4  # of a group in a narrow tile
GROUPS_PER_TILE = 4 if TILE_ROWS == 12 else 3  # 16 or 12 sums of one vector each


class OuterTileArguments(NamedTuple):
    """Arguments of a tile over pixels. Arrays are 1-d; offsets count elements."""

    a: Any  # float32, holds the windows; value m of the window under pixel k is at a_offset + a_steps[k] + m.
    a_offset: Any  # All TILE_ROWS values are read, so `a` must have as many more elements after the last window.
    a_steps: Any  # int64, where the window of each pixel starts
    b: Any  # float32, holds the gradients; row k of B starts at b_offset + b_steps[k]
    b_offset: Any
    b_steps: Any  # int64, where the gradient of each pixel starts
    depth: Any  # number of pixels
    c: Any  # float32, holds a panel of C; its row m starts at c_offset + m * PANEL
    c_offset: Any
    rows: Any  # number of rows that are stored, at most TILE_ROWS
    add: Any  # whether they are added to the values that C holds


def _reference_outer_tile(vectors: int, t: OuterTileArguments) -> None:
    width = vectors * LANES
    columns = t.a_offset + np.asarray(t.a_steps)[: t.depth] + np.arange(t.rows)[:, None]
    panel = t.b_offset + np.asarray(t.b_steps)[: t.depth, None] + np.arange(width)
    total = t.a[columns] @ t.b[panel]
    for m in range(t.rows):
        row = slice(t.c_offset + m * PANEL, t.c_offset + m * PANEL + width)
        t.c[row] = t.c[row] + total[m] if t.add else total[m]


def _write_outer_tile(e: Emitter, vectors: int, t: OuterTileArguments) -> None:
    build = e.build
    window, gradient, target = (
        e.pointer(t.a.data, t.a_offset), e.pointer(t.b.data, t.b_offset), e.pointer(t.c.data, t.c_offset)
    )  # fmt: skip
    e.begin_sums(TILE_ROWS, [e.zero] * vectors)

    def step(k: Any) -> None:
        a_k = e.pointer(window, build.load(e.pointer(t.a_steps.data, k)))
        b_k = e.pointer(gradient, build.load(e.pointer(t.b_steps.data, k)))
        e.accumulate([e.pointer(a_k, e.int64(m)) for m in range(TILE_ROWS)], b_k)

    e.unrolled_loop(t.depth, step)
    with e.loop_over_sums(t.rows) as (m, totals):
        row = e.pointer(target, build.mul(m, e.int64(PANEL)))
        for v, total in enumerate(totals):
            pointer = e.pointer(row, e.int64(v * LANES))
            with build.if_then(t.add):
                build.store(build.fadd(build.load(total), e.load(pointer)), total)
            e.store(build.load(total), pointer)


def make_outer_tile(vectors: int) -> Tile:
    """Return a function for compiled code that computes a tile over pixels, `TILE_ROWS` rows by 1 or 2 `vectors`.

    Its arguments are those of `OuterTileArguments`, by position.
    """
    return make_intrinsic(OuterTileArguments, _write_outer_tile, _reference_outer_tile, vectors)


class NarrowTileArguments(NamedTuple):
    """Arguments of a narrow tile over pixels. Arrays are 1-d; offsets count elements."""

    a: Any  # float32, holds the windows; value m of a group under pixel k is at groups[g] + a_steps[k] + m.
    groups: Any  # int64, where each group starts, relative to a window. MAX_NARROW_ROWS values of each are read.
    first: Any  # the tile's first group, an index of `groups`
    count: Any  # number of its groups, 1 to GROUPS_PER_TILE
    group_rows: Any  # rows of a group, at most MAX_NARROW_ROWS
    a_steps: Any  # int64, where the window of each pixel starts
    b: Any  # float32, holds the gradients; row k of B starts at b_offset + b_steps[k]
    b_offset: Any
    b_steps: Any  # int64, where the gradient of each pixel starts
    depth: Any  # number of pixels
    c: Any  # float32, holds a panel of C; its rows, group after group, start PANEL apart, the first at c_offset
    c_offset: Any


def _reference_narrow_tile(t: NarrowTileArguments) -> None:
    panel = t.b[t.b_offset + np.asarray(t.b_steps)[: t.depth, None] + np.arange(LANES)]
    for g, start in enumerate(t.groups[t.first : t.first + t.count]):
        for m in range(t.group_rows):
            row = t.c_offset + (g * t.group_rows + m) * PANEL
            t.c[row : row + LANES] = t.a[start + np.asarray(t.a_steps)[: t.depth] + m] @ panel


def _write_narrow_tile(e: Emitter, t: NarrowTileArguments) -> None:
    build = e.build
    gradient, target = e.pointer(t.b.data, t.b_offset), e.pointer(t.c.data, t.c_offset)

    # Groups beyond `count` repeat the last one; their sums are not stored.
    last, starts = build.sub(t.count, e.int64(1)), []
    for g in range(GROUPS_PER_TILE):
        clamped = build.select(build.icmp_signed("<", e.int64(g), t.count), e.int64(g), last)
        starts.append(e.pointer(t.a.data, build.load(e.pointer(t.groups.data, build.add(t.first, clamped)))))
    e.begin_sums(GROUPS_PER_TILE * MAX_NARROW_ROWS, [e.zero])

    def step(k: Any) -> None:
        a_k = build.load(e.pointer(t.a_steps.data, k))
        b_k = e.pointer(gradient, build.load(e.pointer(t.b_steps.data, k)))
        windows = [e.pointer(start, a_k) for start in starts]
        e.accumulate([e.pointer(window, e.int64(m)) for window in windows for m in range(MAX_NARROW_ROWS)], b_k)

    e.unrolled_loop(t.depth, step)
    for index, (total,) in enumerate(e.sums):
        g, m = (e.int64(n) for n in divmod(index, MAX_NARROW_ROWS))
        exists = build.and_(build.icmp_signed("<", g, t.count), build.icmp_signed("<", m, t.group_rows))
        with build.if_then(exists):
            row = build.add(build.mul(g, t.group_rows), m)
            e.store(build.load(total), e.pointer(target, build.mul(row, e.int64(PANEL))))


def make_narrow_tile() -> Tile:
    """Return a function for compiled code that computes a narrow tile, several groups by one vector of columns.

    Its arguments are those of `NarrowTileArguments`, by position.
    """
    return make_intrinsic(NarrowTileArguments, _write_narrow_tile, _reference_narrow_tile)
