"""The micro-kernel: a small tile of a matrix product, held in registers.

Every linear layer of this package, forward and backward, is a sum of the form:

    C[m, :] = start[:] + sum_k A[m, k] * B[k, :]

Each row is summed by itself, in the order of k, so it does not depend on the rows that are computed with it.

The processor's fastest instruction is the fused multiply-add of whole vectors, `acc += a * b`: with 512-bit registers
16 float32 values at once, two per cycle. To keep it busy, loads must be rarer than multiply-adds. A *tile* of C,
`TILE_ROWS` = 12 rows by 1 or 2 vectors of 16 columns, therefore stays in registers during the whole sum:

                               B[k, 0:16]  B[k, 16:32]      2 vectors, loaded in step k
                              +-----------+-----------+
        A[0, k]  broadcast    |  sum 0,0  |  sum 0,1  |     C[0, 0:32]
        A[1, k]  broadcast    |  sum 1,0  |  sum 1,1  |     C[1, 0:32]
          ...                 |    ...    |    ...    |       ...
        A[11, k] broadcast    |  sum 11,0 |  sum 11,1 |     C[11, 0:32]
                              +-----------+-----------+
                               sum m,v += A[m, k] * B[k, 16 v : 16 v + 16]

The numbers are those of AVX-512; `numba_internals.processor` chooses the shape for other registers. Step k loads the 2
vectors of B, and for each row copies one value of A to all lanes of a vector (*broadcast*): 14 loads for 24
multiply-adds. The 24 sums do not depend on each other, which hides the 4 cycles that each multiply-add takes. Of the 32
registers, 24 hold sums, 2 vectors of B and the others what is broadcast.

**Gathered rows.** The rows of A need not be evenly spaced: a table says where each row starts, and a second table where
each *segment* of a row starts, relative to that. For a convolution, a row is the window under an output pixel, `kh`
segments of `kw * channels` contiguous values in an image with a halo:

    image  . . . . . . . .       row m, for 3 x 3 windows:
           . [x x x] . . .         segment 0 at a_rows[m] + segments[0],  3 * channels values
           . [x x x] . . .         segment 1 at a_rows[m] + segments[1],  3 * channels values
           . [x x x] . . .         segment 2 at a_rows[m] + segments[2],  3 * channels values

So no window is ever copied (no `im2col`), and the same kernel serves convolutions, their gradients and fully connected
layers. A third table says where the rows of C go.

**Panels.** The columns of B are cut into *panels* of `PANEL` = 32 columns, stored one after another, each row by row.
A tile then reads its panel from one end to the other:

    B (K, 80)  =  [ panel 0: K rows of 32 | panel 1: K rows of 32 | panel 2: K rows of 16, filled up to 32 ]

Row by row through the whole of B, the tile would jump from row to row, and if these are a power of two apart, all of
them compete for the same few lines of the cache. While a panel is read, the next one, which follows it in memory, is
*prefetched*: brought from afar into the second-level cache.

A loop compiled by Numba loads and stores the sums in each step. So the tile is written as LLVM instructions (see
`numba_internals.llvm_emitter`): vectors of 16 values and `llvm.fmuladd`, which LLVM splits for narrower registers.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.numba_internals.processor import LANES as LANES
from hlf_np.kernels.numba_internals.processor import SHAPE

PANEL = 2 * LANES  # columns of the largest tile
TILE_ROWS = SHAPE.rows
CACHE_LINE = 16  # float32 values

# The epilogue of a product: what happens to the sums before they are stored; a sum of these flags.
PLAIN = 0  # nothing
ADD = 1  # the values that C holds are added
RELU = 2  # negative values become zero
MASK = 4  # zero where another value, the *mask*, is not positive: the gradient of a ReLU, masked by its output

Tile = Callable[..., None]


def padded(columns: int) -> int:
    """Return `columns` rounded up to whole vectors."""
    return -(-columns // LANES) * LANES


class TileArguments(NamedTuple):
    """Arguments of a tile function. Arrays are 1-d; offsets count elements."""

    a: Any  # float32, holds the rows of A
    a_rows: Any  # int64, where each row of A starts in `a`
    segments: Any  # int64, where each segment of a row starts, relative to the row
    length: Any  # number of values in a segment
    b: Any  # float32, holds a panel of B
    b_offset: Any  # row k of the panel starts at b_offset + k * PANEL
    start: Any  # float32, holds the initial sums of a row
    start_offset: Any  # where in `start` the tile's begin
    c: Any  # float32, holds C and the masks
    c_rows: Any  # int64, where each row of C starts in `c`
    column: Any  # the tile's first column, relative to the start of a row
    first: Any  # the tile's first row, an index of `a_rows`, `c_rows` and `masks`
    count: Any  # number of its rows, 1 to TILE_ROWS
    epilogue: Any  # PLAIN, or a sum of ADD, RELU and MASK
    masks: Any  # int64, where the mask of each row starts in `c`


def _reference_tile(vectors: int, t: TileArguments) -> None:
    width = vectors * LANES
    steps = (np.asarray(t.segments)[:, None] + np.arange(t.length)).ravel()
    panel = t.b[t.b_offset + np.arange(steps.size)[:, None] * PANEL + np.arange(width)]
    for m in range(t.first, t.first + t.count):
        total = t.start[t.start_offset : t.start_offset + width] + t.a[t.a_rows[m] + steps] @ panel
        reference_epilogue(total, t.epilogue, t.c, t.c_rows[m] + t.column, t.masks[m] + t.column)


def _write_tile(e: Emitter, vectors: int, t: TileArguments) -> None:
    complete = e.build.icmp_signed("==", t.count, e.int64(TILE_ROWS))
    with e.build.if_else(complete, likely=True) as (then, otherwise):
        with then:  # the numbers of the rows need no registers
            _write_rows(e, vectors, t, complete=True)
        with otherwise:
            _write_rows(e, vectors, t, complete=False)


def _write_rows(e: Emitter, vectors: int, t: TileArguments, complete: bool) -> None:
    build = e.build

    # Rows beyond `count` repeat the last one: the same values are computed and stored again.
    last = build.sub(t.count, e.int64(1))

    def of_each_row(table: Any) -> list[Any]:
        """Load the entries of a table that belong to the tile's rows."""
        begin, numbers = e.pointer(table.data, t.first), [e.int64(m) for m in range(TILE_ROWS)]
        if not complete:
            numbers = [build.select(build.icmp_signed("<", m, t.count), m, last) for m in numbers]
        return [build.load(e.pointer(begin, m)) for m in numbers]

    rows = of_each_row(t.a_rows)

    def sums_and_pointers(table: Any) -> list[tuple[Any, Any]]:
        """Pair each sum with a pointer to its 16 values in the rows of `c` that start where a table says."""
        starts = [e.pointer(t.c.data, build.add(row, t.column)) for row in of_each_row(table)]
        return [
            (slot, e.pointer(start, e.int64(v * LANES)))
            for sums, start in zip(e.sums, starts, strict=True)
            for v, slot in enumerate(sums)
        ]

    start = e.pointer(t.start.data, t.start_offset)
    e.begin_sums(TILE_ROWS, [e.load(e.pointer(start, e.int64(v * LANES))) for v in range(vectors)])

    panel_size = build.mul(build.mul(e.length(t.segments), t.length), e.int64(PANEL))
    with e.loop(e.length(t.segments)) as segment:
        offset = build.load(e.pointer(t.segments.data, segment))
        origins = [e.pointer(t.a.data, build.add(row, offset)) for row in rows]
        first_step = build.mul(build.mul(segment, t.length), e.int64(PANEL))
        panel = e.pointer(t.b.data, build.add(t.b_offset, first_step))
        next_panel = e.pointer(panel, panel_size)

        def step(k: Any) -> None:
            row = build.mul(k, e.int64(PANEL))
            for first in range(0, PANEL if vectors == 2 else 0, CACHE_LINE):  # one vector leaves no time for it
                e.prefetch(e.pointer(next_panel, build.add(row, e.int64(first))))
            e.accumulate([e.pointer(a, k) for a in origins], e.pointer(panel, row))

        e.unrolled_loop(t.length, step)

    add, relu, mask = epilogue_flags(e, t.epilogue)
    with build.if_then(add):  # all rows are read before the first is stored, as rows may be repeated
        for slot, pointer in sums_and_pointers(t.c_rows):
            build.store(build.fadd(build.load(slot), e.load(pointer)), slot)
    with build.if_then(mask):
        for slot, pointer in sums_and_pointers(t.masks):
            positive = build.fcmp_ordered(">", e.load(pointer), e.zero)
            build.store(build.select(positive, build.load(slot), e.zero), slot)
    minimum = build.select(relu, e.zero, e.constant_vector(-math.inf))
    for slot, pointer in sums_and_pointers(t.c_rows):
        total = build.load(slot)
        e.store(build.select(build.fcmp_ordered("<", total, minimum), minimum, total), pointer)


def make_tile(vectors: int) -> Tile:
    """Return a function for compiled code that computes a tile of C, `TILE_ROWS` rows by 1 or 2 `vectors`.

    Its arguments are those of `TileArguments`, by position.
    """
    return make_intrinsic(TileArguments, _write_tile, _reference_tile, vectors)


# --- the epilogue of a single vector, for tiles that store their sums one by one ---


def reference_epilogue(total, epilogue, c, offset, mask):  # type: ignore[no-untyped-def]
    """Apply the epilogue to a row of sums and store it at `offset` in `c`; its mask starts at `mask`."""
    width = total.size
    if epilogue & ADD:
        total = total + c[offset : offset + width]
    if epilogue & RELU:
        total = np.maximum(total, 0)
    if epilogue & MASK:
        total = np.where(c[mask : mask + width] > 0, total, 0)
    c[offset : offset + width] = total


def epilogue_flags(e: Emitter, epilogue: Any) -> tuple[Any, ...]:
    """Return which of ADD, RELU and MASK are set."""
    flags = (e.build.and_(epilogue, e.int64(flag)) for flag in (ADD, RELU, MASK))
    return tuple(e.build.icmp_signed("!=", flag, e.int64(0)) for flag in flags)


def write_epilogue(e: Emitter, slot: Any, flags: tuple[Any, ...], target: Any, mask: Any) -> None:
    """Write `reference_epilogue` for a vector of sums in a stack slot; target, mask : pointers into `c`."""
    build = e.build
    add, relu, masked = flags
    with build.if_then(add):
        build.store(build.fadd(build.load(slot), e.load(target)), slot)
    with build.if_then(relu):
        value = build.load(slot)
        build.store(build.select(build.fcmp_ordered("<", value, e.zero), e.zero, value), slot)
    with build.if_then(masked):
        positive = build.fcmp_ordered(">", e.load(mask), e.zero)
        build.store(build.select(positive, build.load(slot), e.zero), slot)
    e.store(build.load(slot), target)
