"""The micro-kernel: a small tile of a matrix product, held in registers.

Every linear layer of this package, forward and backward, is a sum of the form::

    C[m, :] = start[:] + sum_k A[m, k] * B[k, :]

The processor's fastest instruction is the fused multiply-add of whole vectors, `acc += a * b`: with
512-bit registers 16 floats at once, two per cycle. To keep it fed, loads must be rarer than
multiply-adds. A *tile* of C, `TILE_ROWS` rows by 1 or 2 vectors of 16 columns, therefore lives in
registers for the whole sum. Step k loads 1 or 2 vectors of B, and for each row broadcasts one number of
A; with 12 rows and 2 vectors that is 14 loads for 24 multiply-adds, and 24 independent sums hide the 4
cycles each addition takes. The registers (32 of them) hold 24 sums, 2 vectors of B and one broadcast.

**Gathered rows.** The rows of A need not be evenly spaced: a table says where each row starts and a
second table where each of its segments starts relative to that. A convolution's row is the window under
an output pixel: `kh` segments of `kw * channels` contiguous numbers in a padded image. So no window is
ever copied (no `im2col`), and one kernel serves convolutions, their gradients and fully connected
layers. A third table says where the rows of C go.

Numba loops alone reload the sums from memory at each step, so the tile is written as LLVM instructions:
vectors of 16 values and `llvm.fmuladd`. LLVM splits them on machines with narrower registers. Loads and
stores of the sums go through stack slots which LLVM's `mem2reg` pass turns into registers.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

LANES = 16  # numbers in a vector: one 512-bit register of float32

# 512-bit registers hold 12 x 2 vectors of sums; 16 registers of 256 bits hold 6 x 1 (each vector takes two).
TILE_ROWS = 12 if llvm.get_host_cpu_features().get("avx512f") else 6

PLAIN, ADD, RELU, GATE = 0, 1, 2, 4  # what happens to the sums of a tile before they are stored

Tile = Callable[..., None]


def padded(columns: int) -> int:
    """`columns` rounded up to whole vectors."""
    return -(-columns // LANES) * LANES


def _reference_tile(vectors: int) -> Tile:
    """The tile in plain Python, for runs without compilation: the same arguments, indices checked by NumPy."""

    def tile(  # type: ignore[no-untyped-def]
        a,
        a_rows,
        segments,
        length,
        a_step,
        b,
        b_at,
        b_step,
        start,
        start_at,
        c,
        c_rows,
        column,
        first,
        count,
        finish,
        gates,
    ):
        width = vectors * LANES
        steps = (np.asarray(segments)[:, None] + np.arange(length) * a_step).ravel()
        panel = b[b_at + np.arange(steps.size)[:, None] * b_step + np.arange(width)]
        for m in range(first, first + count):
            total = start[start_at : start_at + width] + a[a_rows[m] + steps] @ panel
            at = c_rows[m] + column
            if finish & ADD:
                total = total + c[at : at + width]
            if finish & RELU:
                total = np.maximum(total, 0)
            if finish & GATE:
                gate = gates[m] + column
                total = np.where(c[gate : gate + width] > 0, total, 0)
            c[at : at + width] = total

    return tile


def _compiled_tile(vectors: int) -> Tile:
    """The tile as an LLVM function body; see `make_tile` for the arguments."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, a, a_rows, segments, length, a_step, b, b_at, b_step, start, start_at, c, c_rows, column, first, count,
        finish, gates,
    ):  # fmt: skip
        arguments = (
            a, a_rows, segments, length, a_step, b, b_at, b_step, start, start_at, c, c_rows, column, first, count,
            finish, gates,
        )  # fmt: skip
        number = a.dtype

        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            scalar = context.get_data_type(number)
            vector = ir.VectorType(scalar, LANES)
            int64, int32 = ir.IntType(64), ir.IntType(32)
            name = f"llvm.fmuladd.v{LANES}f{number.bitwidth}"
            multiply_add = cgutils.get_or_insert_function(build.module, ir.FunctionType(vector, [vector] * 3), name)

            def array(position: int) -> Any:
                return context.make_array(signature.args[position])(context, build, values[position])

            def constant(n: int) -> Any:
                return ir.Constant(int64, n)

            def load(pointer: Any) -> Any:
                loaded = build.load(build.bitcast(pointer, vector.as_pointer()))
                loaded.align = number.bitwidth // 8
                return loaded

            def store(value: Any, pointer: Any) -> None:
                build.store(value, build.bitcast(pointer, vector.as_pointer())).align = number.bitwidth // 8

            def broadcast(value: Any) -> Any:
                undefined = ir.Constant(vector, ir.Undefined)
                lane = build.insert_element(undefined, value, ir.Constant(int32, 0))
                everywhere = ir.Constant(ir.VectorType(int32, LANES), [0] * LANES)
                return build.shuffle_vector(lane, undefined, everywhere)

            a, a_rows, segments, b, start, c, c_rows, gates = (array(i) for i in (0, 1, 2, 5, 8, 10, 11, 16))
            length, a_step, b_at, b_step, start_at = (values[i] for i in (3, 4, 6, 7, 9))
            column, first, count, finish = values[12:16]
            segment_count = cgutils.unpack_tuple(build, segments.shape, 1)[0]

            zero = ir.Constant(vector, [0.0] * LANES)

            # Rows beyond `count` repeat the last one: their sums are computed and dropped.
            last = build.sub(count, constant(1))
            rows = []
            for m in range(TILE_ROWS):
                clamped = build.select(build.icmp_signed("<", constant(m), count), constant(m), last)
                rows.append(build.load(build.gep(a_rows.data, [build.add(first, clamped)])))

            sums = [[cgutils.alloca_once(build, vector) for _ in range(vectors)] for _ in range(TILE_ROWS)]
            for v in range(vectors):
                initial = load(build.gep(start.data, [build.add(start_at, constant(v * LANES))]))
                for m in range(TILE_ROWS):
                    build.store(initial, sums[m][v])

            with cgutils.for_range(build, segment_count) as outer:
                offset = build.load(build.gep(segments.data, [outer.index]))
                origins = [build.gep(a.data, [build.add(row, offset)]) for row in rows]
                b_row = build.add(b_at, build.mul(build.mul(outer.index, length), b_step))
                panel = build.gep(b.data, [b_row])

                def accumulate(k: Any) -> None:
                    b_k = build.gep(panel, [build.mul(k, b_step)])
                    columns = [load(build.gep(b_k, [constant(v * LANES)])) for v in range(vectors)]
                    step = build.mul(k, a_step)
                    for m in range(TILE_ROWS):
                        value = broadcast(build.load(build.gep(origins[m], [step])))
                        for v in range(vectors):
                            updated = build.call(multiply_add, [value, columns[v], build.load(sums[m][v])])
                            build.store(updated, sums[m][v])

                pairs = build.ashr(length, constant(1))
                with cgutils.for_range(build, pairs) as inner:
                    k = build.shl(inner.index, constant(1))
                    accumulate(k)
                    accumulate(build.add(k, constant(1)))
                with build.if_then(build.icmp_signed("!=", build.and_(length, constant(1)), constant(0))):
                    accumulate(build.sub(length, constant(1)))

            def finished(m: int, v: int, target: Any, gate: Any, flags: int) -> Any:
                total = build.load(sums[m][v])
                if flags & ADD:
                    total = build.fadd(total, load(target))
                if flags & RELU:
                    total = build.select(build.fcmp_ordered("<", total, zero), zero, total)
                if flags & GATE:
                    total = build.select(build.fcmp_ordered(">", load(gate), zero), total, zero)
                return total

            # one copy of the stores for each way to finish, so that the test is made once per tile
            for flags in (PLAIN, RELU, GATE, ADD, ADD | GATE):
                with build.if_then(build.icmp_signed("==", finish, constant(flags))):
                    for m in range(TILE_ROWS):
                        with build.if_then(build.icmp_signed("<", constant(m), count)):
                            row = build.add(first, constant(m))
                            at = build.add(build.load(build.gep(c_rows.data, [row])), column)
                            gate = build.add(build.load(build.gep(gates.data, [row])), column)
                            for v in range(vectors):
                                target = build.gep(c.data, [build.add(at, constant(v * LANES))])
                                opening = build.gep(c.data, [build.add(gate, constant(v * LANES))])
                                store(finished(m, v, target, opening, flags), target)
            return context.get_dummy_value()

        return types.void(*arguments), generate

    return tile


def make_tile(vectors: int) -> Tile:
    """A function that computes one tile of C, `TILE_ROWS` x `vectors * LANES`, callable from Numba code.

    Parameters
    ----------
    vectors : width of the tile in vectors of `LANES` columns.

    The function's arguments; all arrays are flat, offsets count elements:

    - `a, a_rows, segments, length, a_step`: row m of A starts at `a_rows[m]`; it consists of the segments that begin
      at `segments[0], segments[1], ...` from there, each with `length` numbers `a_step` apart.
    - `b, b_at, b_step`: row k of B starts at `b_at + k * b_step`.
    - `start, start_at`: the initial sums.
    - `c, c_rows, column`: row m of C starts at `c_rows[m]`; the tile's first column is number `column`.
    - `first, count`: the tile's rows, 1 to `TILE_ROWS` of them.
    - `finish, gates`: what happens to the sums before they are stored: `PLAIN`, nothing; `RELU`; `ADD`, to what is in
      C; `GATE`, zero where C holds nothing positive at row `gates[m]` (the gradient of a ReLU whose output lies in
      the same buffer); `ADD | GATE`.
    """
    interpreted = config.DISABLE_JIT  # type: ignore[attr-defined]
    return _reference_tile(vectors) if interpreted else _compiled_tile(vectors)
