"""Tiles of products over pixels, the gradients to weights; `tile` explains tiles.

Here the rows of A are weight positions and its columns pixels, so what a step of the sum needs, the numbers under one
pixel, lies side by side: a row of the window, its pixels' channels one after another. Such a *group* of rows is long in
most layers. Of an image of one channel it is no longer than the kernel is wide, and would fill only a third of a tile:
then several groups share one.
"""

from typing import Any

import numpy as np

from hlf_np.kernels.tile import LANES, PANEL, TILE_ROWS, Tile, emitted

# A tile of narrow groups has 16 rows of one vector, or on machines with fewer registers 4.
NARROW, GROUPS = 4, 4 if TILE_ROWS == 12 else 1


def _reference_outer_tile(vectors, a, a_at, a_steps, b, b_at, b_steps, depth, c, c_at, rows, add):  # type: ignore[no-untyped-def]
    width = vectors * LANES
    columns = a_at + np.asarray(a_steps)[:depth] + np.arange(rows)[:, None]
    panel = b_at + np.asarray(b_steps)[:depth, None] + np.arange(width)
    total = a[columns] @ b[panel]
    for m in range(rows):
        row = slice(c_at + m * PANEL, c_at + m * PANEL + width)
        c[row] = c[row] + total[m] if add else total[m]


def _write_outer_tile(e, vectors, a, a_at, a_steps, b, b_at, b_steps, depth, c, c_at, rows, add):  # type: ignore[no-untyped-def]
    build = e.build
    column, panel, target = e.at(a.data, a_at), e.at(b.data, b_at), e.at(c.data, c_at)
    e.begin(TILE_ROWS, [e.zero] * vectors)

    def step(k: Any) -> None:
        a_k = e.at(column, build.load(e.at(a_steps.data, k)))
        b_k = e.at(panel, build.load(e.at(b_steps.data, k)))
        e.accumulate([e.at(a_k, e.constant(m)) for m in range(TILE_ROWS)], b_k)

    e.repeat(depth, step)
    with e.finished_rows(rows) as (m, totals):
        row = e.at(target, build.mul(m, e.constant(PANEL)))
        for v, total in enumerate(totals):
            place = e.at(row, e.constant(v * LANES))
            with build.if_then(add):
                build.store(build.fadd(build.load(total), e.load(place)), total)
            e.store(build.load(total), place)


def make_outer_tile(vectors: int) -> Tile:
    """A tile of a product over pixels: A's rows lie side by side, its columns anywhere.

    - `a, a_at, a_steps, depth`: number k of row m of A is at `a_at + a_steps[k] + m`, for k below `depth`; all
      `TILE_ROWS` rows are read, so behind the last number of `a` that counts there must be as many more.
    - `b, b_at, b_steps`: row k of B starts at `b_at + b_steps[k]`.
    - `c, c_at, rows`: row m of C starts at `c_at + m * PANEL`; `rows` are stored, or added to what is there if `add`.
    """
    return emitted(_write_outer_tile, _reference_outer_tile, vectors)


def _reference_narrow_tile(a, groups, first, count, group, a_steps, b, b_at, b_steps, depth, c, c_at):  # type: ignore[no-untyped-def]
    panel = b[b_at + np.asarray(b_steps)[:depth, None] + np.arange(LANES)]
    for number, start in enumerate(groups[first : first + count]):
        for m in range(group):
            row = c_at + (number * group + m) * PANEL
            c[row : row + LANES] = a[start + np.asarray(a_steps)[:depth] + m] @ panel


def _write_narrow_tile(e, a, groups, first, count, group, a_steps, b, b_at, b_steps, depth, c, c_at):  # type: ignore[no-untyped-def]
    build = e.build
    panel, target = e.at(b.data, b_at), e.at(c.data, c_at)

    # Groups beyond `count` repeat the last one: their sums are computed in vain.
    last, starts = build.sub(count, e.constant(1)), []
    for g in range(GROUPS):
        clamped = build.select(build.icmp_signed("<", e.constant(g), count), e.constant(g), last)
        starts.append(e.at(a.data, build.load(e.at(groups.data, build.add(first, clamped)))))
    e.begin(GROUPS * NARROW, [e.zero])

    def step(k: Any) -> None:
        a_k = build.load(e.at(a_steps.data, k))
        b_k = e.at(panel, build.load(e.at(b_steps.data, k)))
        e.accumulate([e.at(e.at(start, a_k), e.constant(m)) for start in starts for m in range(NARROW)], b_k)

    e.repeat(depth, step)
    for index, (total,) in enumerate(e.sums):
        g, m = (e.constant(n) for n in divmod(index, NARROW))
        there = build.and_(build.icmp_signed("<", g, count), build.icmp_signed("<", m, group))
        with build.if_then(there):
            row = build.add(build.mul(g, group), m)
            e.store(build.load(total), e.at(target, build.mul(row, e.constant(PANEL))))


def make_narrow_tile() -> Tile:
    """A tile of the same product for `GROUPS` groups of at most `NARROW` rows, and one vector of columns.

    - `a, a_steps, b, b_at, b_steps, depth`: as above, but number k of row m of a group is at its beginning
      `+ a_steps[k] + m`; `NARROW` rows are read.
    - `groups, first, count, group`: the groups begin at `groups[first], groups[first + 1], ...`, `count` of them, with
      `group` rows each.
    - `c, c_at`: the rows of C, group after group, start `PANEL` apart.
    """
    return emitted(_write_narrow_tile, _reference_narrow_tile)
