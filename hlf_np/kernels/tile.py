"""The micro-kernel: a small tile of a matrix product, held in registers.

Every linear layer of this package, forward and backward, is a sum of the form::

    C[m, :] = start[:] + sum_k A[m, k] * B[k, :]

The processor's fastest instruction is the fused multiply-add of whole vectors, `acc += a * b`: with
512-bit registers 16 floats at once, two per cycle. To keep it fed, loads must be rarer than
multiply-adds. A *tile* of C, `TILE_ROWS` rows by 1 or 2 vectors of 16 columns, therefore lives in
registers for the whole sum. Step k loads 1 or 2 vectors of B, and for each row broadcasts one number of
A; with 12 rows and 2 vectors that is 14 loads for 24 multiply-adds, and 24 independent sums hide the 4
cycles each addition takes. The registers (32 of them) hold 24 sums, 2 vectors of B and one broadcast.

**Gathered rows.** The rows of A need not be evenly spaced: a table says where each row starts and a second table where
each of its segments starts relative to that. A convolution's row is the window under an output pixel: `kh` segments of
`kw * channels` contiguous numbers in a padded image. So no window is ever copied (no `im2col`), and one kernel serves
convolutions, their gradients and fully connected layers. A third table says where the rows of C go.

Numba loops alone reload the sums from memory at each step, so the tile is written as LLVM instructions:
vectors of 16 values and `llvm.fmuladd`. LLVM splits them on machines with narrower registers. Loads and
stores of the sums go through stack slots which LLVM's `mem2reg` pass turns into registers.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

LANES = 16  # numbers in a vector: one 512-bit register of float32
PANEL = 2 * LANES  # columns that are computed together

# 512-bit registers hold 12 x 2 vectors of sums; 16 registers of 256 bits hold 6 x 1 (each vector takes two).
TILE_ROWS = 12 if llvm.get_host_cpu_features().get("avx512f") else 6

PLAIN, ADD, RELU, GATE = 0, 1, 2, 4  # what happens to the sums of a tile before they are stored

Tile = Callable[..., None]


def padded(columns: int) -> int:
    """`columns` rounded up to whole vectors."""
    return -(-columns // LANES) * LANES


class Emitter:
    """Writes the instructions that tiles are made of: vectors of float32, and a block of sums in registers."""

    vector = ir.VectorType(ir.FloatType(), LANES)
    zero = ir.Constant(vector, [0.0] * LANES)

    def __init__(self, build: Any) -> None:
        self.build = build
        self.sums: list[list[Any]] = []

    def constant(self, n: int) -> Any:
        return ir.Constant(ir.IntType(64), n)

    def number(self, value: float) -> Any:
        """A vector of the same number."""
        return ir.Constant(self.vector, [float(value)] * LANES)

    def at(self, pointer: Any, offset: Any) -> Any:
        return self.build.gep(pointer, [offset])

    def load(self, pointer: Any) -> Any:
        loaded = self.build.load(self.build.bitcast(pointer, self.vector.as_pointer()))
        loaded.align = 4
        return loaded

    def store(self, value: Any, pointer: Any) -> None:
        self.build.store(value, self.build.bitcast(pointer, self.vector.as_pointer())).align = 4

    def broadcast(self, value: Any) -> Any:
        """A vector of the same value, of any type."""
        undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        lane = self.build.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.build.shuffle_vector(lane, undefined, everywhere)

    def intrinsic(self, name: str, result: Any, *arguments: Any) -> Any:
        """What one of LLVM's own functions gives."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.build.call(cgutils.get_or_insert_function(self.build.module, kind, name), arguments)

    def multiply_add(self, left: Any, right: Any, addend: Any) -> Any:
        return self.intrinsic(f"llvm.fmuladd.v{LANES}f32", self.vector, left, right, addend)

    def combined(self, matrix: tuple[tuple[float, ...], ...], given: list[Any]) -> list[Any]:
        """The products of a matrix and vectors; most of its entries are -1, 0 and 1."""
        results = []
        for row in matrix:
            terms = sorted(((entry, v) for entry, v in zip(row, given, strict=True) if entry), key=lambda t: t[0] != 1)
            result = terms[0][1] if terms[0][0] == 1 else self.build.fmul(self.number(terms[0][0]), terms[0][1])
            for entry, v in terms[1:]:
                if abs(entry) == 1:
                    result = (self.build.fadd if entry > 0 else self.build.fsub)(result, v)
                else:
                    result = self.multiply_add(self.number(entry), v, result)
            results.append(result)
        return results

    def begin(self, rows: int, initial: list[Any]) -> None:
        """A block of sums; every row's start with these vectors."""
        self.sums = [[cgutils.alloca_once(self.build, self.vector) for _ in initial] for _ in range(rows)]
        for row in self.sums:
            for slot, value in zip(row, initial, strict=True):
                self.build.store(value, slot)

    def accumulate(self, a: list[Any], b: Any) -> None:
        """Add the products of one number of each row, at the pointers `a`, and the vectors from `b` on."""
        columns = [self.load(self.at(b, self.constant(v * LANES))) for v in range(len(self.sums[0]))]
        for row, pointer in zip(self.sums, a, strict=True):
            value = self.broadcast(self.build.load(pointer))
            for slot, column in zip(row, columns, strict=True):
                self.build.store(self.multiply_add(value, column, self.build.load(slot)), slot)

    def repeat(self, count: Any, step: Callable[[Any], None]) -> None:
        """`step` for each number below `count`, two at a time."""
        one = self.constant(1)
        with cgutils.for_range(self.build, self.build.ashr(count, one)) as pairs:
            k = self.build.shl(pairs.index, one)
            step(k)
            step(self.build.add(k, one))
        odd = self.build.icmp_signed("!=", self.build.and_(count, one), self.constant(0))
        with self.build.if_then(odd):
            step(self.build.sub(count, one))

    @contextmanager
    def finished_rows(self, count: Any) -> Iterator[tuple[Any, list[Any]]]:
        """A loop over the first rows: the row's number, and where its sums lie.

        They go through the stack, so that a short loop can finish them.
        """
        vectors, slots = len(self.sums[0]), [slot for row in self.sums for slot in row]
        finished = cgutils.alloca_once(self.build, self.vector, size=self.constant(len(slots)))
        for position, slot in enumerate(slots):
            self.build.store(self.build.load(slot), self.at(finished, self.constant(position)))
        with cgutils.for_range(self.build, count) as loop:
            begin = self.build.mul(loop.index, self.constant(vectors))
            yield loop.index, [self.at(finished, self.build.add(begin, self.constant(v))) for v in range(vectors)]

    def asked(self, finish: Any) -> tuple[Any, ...]:
        """Which of ADD, RELU and GATE a number asks for."""
        flags = (self.build.and_(finish, self.constant(flag)) for flag in (ADD, RELU, GATE))
        return tuple(self.build.icmp_signed("!=", flag, self.constant(0)) for flag in flags)

    def finish(self, total: Any, asked: tuple[Any, ...], target: Any, gate: Any) -> None:
        """What happens to a vector of sums, in the slot `total`, before it is stored at `target`."""
        build = self.build
        added, rectified, gated = asked
        with build.if_then(added):
            build.store(build.fadd(build.load(total), self.load(target)), total)
        with build.if_then(rectified):
            value = build.load(total)
            build.store(build.select(build.fcmp_ordered("<", value, self.zero), self.zero, value), total)
        with build.if_then(gated):
            opened = build.fcmp_ordered(">", self.load(gate), self.zero)
            build.store(build.select(opened, build.load(total), self.zero), total)
        self.store(build.load(total), target)


def emitted(write: Callable[..., None], reference: Callable[..., None], *settings: Any) -> Callable[..., None]:
    """A function for compiled code whose instructions `write` writes.

    write : called with an `Emitter`, the settings, and the function's arguments: LLVM's values, arrays as structures.
    reference : the function in plain Python, for runs without compilation, where NumPy checks the indices; called with
        the settings and the arguments.
    """
    plain = partial(reference, *settings)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return plain

    def definition(typing, *arguments):  # type: ignore[no-untyped-def]
        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            given = (
                context.make_array(kind)(context, build, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, values, strict=True)
            )
            write(Emitter(build), *settings, *given)
            return context.get_dummy_value()

        return types.void(*arguments), generate

    definition.__name__ = write.__name__  # for Numba's messages
    typing = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(plain).parameters.values()
    definition.__signature__ = inspect.Signature([typing, *parameters])  # type: ignore[attr-defined]
    compiled: Callable[..., None] = intrinsic(definition)
    return compiled


def reference_finish(total, finish, c, at, gate):  # type: ignore[no-untyped-def]
    """`Emitter.finish` in plain Python, for a row of any width."""
    width = total.size
    if finish & ADD:
        total = total + c[at : at + width]
    if finish & RELU:
        total = np.maximum(total, 0)
    if finish & GATE:
        total = np.where(c[gate : gate + width] > 0, total, 0)
    c[at : at + width] = total


def _reference_tile(  # type: ignore[no-untyped-def]
    vectors, a, a_rows, segments, length, b, b_at, start, start_at, c, c_rows, column, first, count, finish, gates
):
    width = vectors * LANES
    steps = (np.asarray(segments)[:, None] + np.arange(length)).ravel()
    panel = b[b_at + np.arange(steps.size)[:, None] * PANEL + np.arange(width)]
    for m in range(first, first + count):
        total = start[start_at : start_at + width] + a[a_rows[m] + steps] @ panel
        reference_finish(total, finish, c, c_rows[m] + column, gates[m] + column)


def _write_tile(  # type: ignore[no-untyped-def]
    e, vectors, a, a_rows, segments, length, b, b_at, start, start_at, c, c_rows, column, first, count, finish, gates
):
    build = e.build

    # Rows beyond `count` repeat the last one: what is computed and stored for them is the same again.
    last = build.sub(count, e.constant(1))
    numbers = []
    for m in range(TILE_ROWS):
        clamped = build.select(build.icmp_signed("<", e.constant(m), count), e.constant(m), last)
        numbers.append(build.add(first, clamped))
    rows = [build.load(e.at(a_rows.data, row)) for row in numbers]

    def places(table: Any) -> list[tuple[Any, Any]]:
        """All sums, and where the rows in a table have their numbers."""
        starts = [e.at(c.data, build.add(build.load(e.at(table.data, row)), column)) for row in numbers]
        return [
            (slot, e.at(start, e.constant(v * LANES)))
            for sums, start in zip(e.sums, starts, strict=True)
            for v, slot in enumerate(sums)
        ]

    from_start = e.at(start.data, start_at)
    e.begin(TILE_ROWS, [e.load(e.at(from_start, e.constant(v * LANES))) for v in range(vectors)])

    with cgutils.for_range(build, cgutils.unpack_tuple(build, segments.shape, 1)[0]) as outer:
        offset = build.load(e.at(segments.data, outer.index))
        origins = [e.at(a.data, build.add(row, offset)) for row in rows]
        panel = e.at(b.data, build.add(b_at, build.mul(build.mul(outer.index, length), e.constant(PANEL))))

        def step(k: Any) -> None:
            e.accumulate([e.at(origin, k) for origin in origins], e.at(panel, build.mul(k, e.constant(PANEL))))

        e.repeat(length, step)

    added, rectified, gated = e.asked(finish)
    with build.if_then(added):  # all are read before the first is stored, as rows may be repeated
        for slot, place in places(c_rows):
            build.store(build.fadd(build.load(slot), e.load(place)), slot)
    with build.if_then(gated):
        for slot, place in places(gates):
            opened = build.fcmp_ordered(">", e.load(place), e.zero)
            build.store(build.select(opened, build.load(slot), e.zero), slot)
    least = build.select(rectified, e.zero, e.number(-math.inf))
    for slot, place in places(c_rows):
        total = build.load(slot)
        e.store(build.select(build.fcmp_ordered("<", total, least), least, total), place)


def make_tile(vectors: int) -> Tile:
    """A function that computes one tile of C, `TILE_ROWS` x `vectors * LANES`, callable from Numba code.

    The function's arguments; all arrays are flat, offsets count elements:

    - `a, a_rows, segments, length`: row m of A starts at `a_rows[m]`; it consists of the segments that begin at
      `segments[0], segments[1], ...` from there, each with `length` numbers.
    - `b, b_at`: row k of B starts at `b_at + k * PANEL`.
    - `start, start_at`: the initial sums.
    - `c, c_rows, column`: row m of C starts at `c_rows[m]`; the tile's first column is number `column`.
    - `first, count`: the tile's rows, 1 to `TILE_ROWS` of them.
    - `finish, gates`: what happens to the sums before they are stored: `PLAIN`, nothing; `RELU`; `ADD`, to what is in
      C; `GATE`, zero where C holds nothing positive at row `gates[m]` (the gradient of a ReLU whose output lies in
      the same buffer); or several of these.
    """
    return emitted(_write_tile, _reference_tile, vectors)
