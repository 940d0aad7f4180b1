"""Functions for compiled code whose LLVM instructions are written by hand.

Numba translates Python bytecode into the intermediate representation (IR) of LLVM, an assembly language with types and
any number of registers, which LLVM then optimizes and turns into machine code. Where that does not result in the vector
instructions that are needed, a *writer*, a Python function, writes the IR itself. For example:

    def write(e, x):                                    # e : Emitter, x : an argument of the function
        pointer = e.pointer(x.data, e.int64(16))        # pointer to x[16], computed when the code runs
        e.store(e.build.fadd(e.load(pointer), e.zero), pointer)

Python runs the writer once, at compile time: its Python loops are unrolled in the machine code, and its variables are
names of registers, not values. `make_intrinsic` makes a function of it that compiled code can call.

Beside each writer stands a *reference*, the same function in NumPy: what a reader should read first, and what runs
without compilation (NUMBA_DISABLE_JIT=1), where NumPy refuses indices out of bounds.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from hlf_np.kernels.numba_internals.processor import LANES


class Emitter:
    """Writes LLVM instructions on vectors of `LANES` float32 values, and for a block of sums in registers.

    Scalar and integer arithmetic is written by `build`, llvmlite's `IRBuilder`: `build.add(i, j)` on integers,
    `build.fadd(x, y)` on floats, `build.fcmp_ordered(">", x, y)`, `build.select(condition, x, y)`.
    """

    int32 = ir.IntType(32)
    vector = ir.VectorType(ir.FloatType(), LANES)
    int_vector = ir.VectorType(int32, LANES)
    zero = ir.Constant(vector, [0.0] * LANES)

    def __init__(self, build: Any) -> None:
        self.build = build
        self.sums: list[list[Any]] = []

    # --- values, memory, loops ---

    def int64(self, value: int) -> Any:
        """Return a constant integer."""
        return ir.Constant(ir.IntType(64), value)

    def constant_vector(self, value: float) -> Any:
        """Return a vector whose lanes all hold the same constant."""
        return ir.Constant(self.vector, [float(value)] * LANES)

    def broadcast(self, value: Any) -> Any:
        """Return a vector whose lanes all hold the same value, of any type."""
        undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        lane = self.build.insert_element(undefined, value, ir.Constant(self.int32, 0))
        return self.build.shuffle_vector(lane, undefined, ir.Constant(self.int_vector, [0] * LANES))

    def pointer(self, pointer: Any, offset: Any) -> Any:
        """Return a pointer `offset` elements further on."""
        return self.build.gep(pointer, [offset])

    def load(self, pointer: Any) -> Any:
        """Load a vector; it need not be aligned."""
        loaded = self.build.load(self.build.bitcast(pointer, self.vector.as_pointer()))
        loaded.align = 4
        return loaded

    def store(self, value: Any, pointer: Any) -> None:
        """Store a vector; it need not be aligned."""
        self.build.store(value, self.build.bitcast(pointer, self.vector.as_pointer())).align = 4

    def prefetch(self, pointer: Any) -> None:
        """Ask the processor to bring a cache line into its second-level cache; the pointer may be invalid."""
        address = self.build.bitcast(pointer, ir.IntType(8).as_pointer())
        read, second_level, data = (ir.Constant(self.int32, value) for value in (0, 2, 1))
        self.llvm_intrinsic("llvm.prefetch.p0", ir.VoidType(), address, read, second_level, data)

    def stack_slot(self) -> Any:
        """Return a pointer to a vector on the stack, which LLVM's pass `mem2reg` turns into a register."""
        return cgutils.alloca_once(self.build, self.vector)

    def length(self, array: Any) -> Any:
        """Return the length of a 1-d array."""
        return cgutils.unpack_tuple(self.build, array.shape, 1)[0]

    @contextmanager
    def loop(self, count: Any) -> Iterator[Any]:
        """Repeat the body of the `with` statement `count` times; yield the index."""
        with cgutils.for_range(self.build, count) as loop:
            yield loop.index

    def unrolled_loop(self, count: Any, step: Callable[[Any], None]) -> None:
        """Repeat `step(k)` for k = 0, ..., count - 1, two steps in each iteration."""
        one = self.int64(1)
        with self.loop(self.build.ashr(count, one)) as pair:
            k = self.build.shl(pair, one)
            step(k)
            step(self.build.add(k, one))
        odd = self.build.icmp_signed("!=", self.build.and_(count, one), self.int64(0))
        with self.build.if_then(odd):
            step(self.build.sub(count, one))

    # --- arithmetic ---

    def llvm_intrinsic(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call one of LLVM's own functions."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.build.call(cgutils.get_or_insert_function(self.build.module, kind, name), arguments)

    def multiply_add(self, left: Any, right: Any, addend: Any) -> Any:
        """Return left * right + addend, rounded once (FMA)."""
        return self.llvm_intrinsic(f"llvm.fmuladd.v{LANES}f32", self.vector, left, right, addend)

    def matrix_vector(self, matrix: Sequence[Sequence[float]], vectors: list[Any]) -> list[Any]:
        """Return `matrix @ vectors` for a constant matrix; for its entries 0, 1 and -1 nothing is multiplied."""
        results = []
        for row in matrix:
            terms = sorted(
                ((entry, v) for entry, v in zip(row, vectors, strict=True) if entry), key=lambda t: t[0] != 1
            )
            first, v = terms[0]
            result = v if first == 1 else self.build.fmul(self.constant_vector(first), v)
            for entry, v in terms[1:]:
                if abs(entry) == 1:
                    result = (self.build.fadd if entry > 0 else self.build.fsub)(result, v)
                else:
                    result = self.multiply_add(self.constant_vector(entry), v, result)
            results.append(result)
        return results

    # --- gathers and masks ---

    def gather_neighbours(self, pointer: Any, index: Any) -> tuple[Any, Any]:
        """Return the vectors pointer[index] and pointer[index + 1] for a vector of int32 indices.

        Both float32 values of a lane are loaded as one integer of 64 bits, in two gathers of 8 lanes each:

            index            i0        i1        ...       i7
            64-bit gather    p[i0] p[i0+1]   p[i1] p[i1+1]   ...   p[i7] p[i7+1]     = 16 lanes of 32 bits
            even positions   p[i0], p[i1], ...            odd positions   p[i0+1], p[i1+1], ...
        """
        build, halves = self.build, []
        for first in (0, LANES // 2):
            lanes = ir.Constant(ir.VectorType(self.int32, LANES // 2), list(range(first, first + LANES // 2)))
            pairs = self._gather_int64(pointer, build.shuffle_vector(index, index, lanes))
            halves.append(build.bitcast(pairs, self.vector))
        even, odd = (ir.Constant(self.int_vector, list(range(first, 2 * LANES, 2))) for first in (0, 1))
        return build.shuffle_vector(*halves, even), build.shuffle_vector(*halves, odd)

    def _gather_int64(self, pointer: Any, index: Any) -> Any:
        """Load 64 bits at pointer + index, for each lane of `index`."""
        build, int64, lanes = self.build, ir.IntType(64), index.type.count
        values, pointers = ir.VectorType(int64, lanes), ir.VectorType(int64.as_pointer(), lanes)
        # LLVM's `getelementptr` takes vectors of indices, but llvmlite's builder does not: so it is assembled by hand
        addresses = ir.instructions.GEPInstr(build.block, pointer, [ir.Constant(self.int32, 0)], False, "addresses")
        addresses.indices, addresses.type = [index], ir.VectorType(pointer.type, lanes)
        build._insert(addresses)
        every_lane = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes)
        alignment, undefined = ir.Constant(self.int32, 4), ir.Constant(values, ir.Undefined)
        name = f"llvm.masked.gather.v{lanes}i64.v{lanes}p0i64"
        return self.llvm_intrinsic(name, values, build.bitcast(addresses, pointers), alignment, every_lane, undefined)

    def mask_below(self, first: Any, count: Any) -> Any:
        """Return a mask of the lanes for which first + lane < count."""
        lanes = ir.Constant(ir.VectorType(ir.IntType(64), LANES), list(range(LANES)))
        return self.build.icmp_signed("<", self.build.add(self.broadcast(first), lanes), self.broadcast(count))

    def masked_store(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes of a vector that a mask selects."""
        target = self.build.bitcast(pointer, self.vector.as_pointer())
        alignment = ir.Constant(self.int32, 4)
        name = f"llvm.masked.store.v{LANES}f32.p0v{LANES}f32"
        self.llvm_intrinsic(name, ir.VoidType(), value, target, alignment, mask)

    # --- a block of sums, rows x vectors ---

    def begin_sums(self, rows: int, initial: list[Any]) -> None:
        """Make a block of sums in registers; those of every row start with these vectors."""
        self.sums = [[self.stack_slot() for _ in initial] for _ in range(rows)]
        for row in self.sums:
            for slot, value in zip(row, initial, strict=True):
                self.build.store(value, slot)

    def accumulate(self, a: list[Any], b: Any) -> None:
        """Add a[m] * b to the sums of each row m.

        a : for each row a pointer to one float32 value.
        b : pointer to the vectors of a row of B, side by side.
        """
        columns = [self.load(self.pointer(b, self.int64(v * LANES))) for v in range(len(self.sums[0]))]
        for row, pointer in zip(self.sums, a, strict=True):
            value = self.broadcast(self.build.load(pointer))
            for slot, column in zip(row, columns, strict=True):
                self.build.store(self.multiply_add(value, column, self.build.load(slot)), slot)

    @contextmanager
    def loop_over_sums(self, count: Any) -> Iterator[tuple[Any, list[Any]]]:
        """Repeat the body of the `with` statement for the first `count` rows; yield its index and pointers to its sums.

        The sums are copied to an array on the stack, as registers cannot be indexed.
        """
        vectors, slots = len(self.sums[0]), [slot for row in self.sums for slot in row]
        copies = cgutils.alloca_once(self.build, self.vector, size=self.int64(len(slots)))
        for position, slot in enumerate(slots):
            self.build.store(self.build.load(slot), self.pointer(copies, self.int64(position)))
        with self.loop(count) as row:
            begin = self.build.mul(row, self.int64(vectors))
            yield row, [self.pointer(copies, self.build.add(begin, self.int64(v))) for v in range(vectors)]


def make_intrinsic(
    arguments: Any, write: Callable[..., None], reference: Callable[..., None], *settings: Any
) -> Callable[..., None]:
    """Return a function for compiled code whose instructions are written by `write`.

    arguments : a NamedTuple class, whose fields are the function's positional arguments.
    write : called as `write(emitter, *settings, arguments)` at compile time. Scalar arguments are LLVM values; arrays
        have attributes `data`, a pointer, and `shape`.
    reference : called as `reference(*settings, arguments)` in runs without compilation.
    settings : anything that is known at compile time.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return lambda *values: reference(*settings, arguments(*values))

    def definition(typing, *kinds):  # type: ignore[no-untyped-def]
        def generate(context, build, signature, values):  # type: ignore[no-untyped-def]
            unpacked = (
                context.make_array(kind)(context, build, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, values, strict=True)
            )
            write(Emitter(build), *settings, arguments(*unpacked))
            return context.get_dummy_value()

        return types.void(*kinds), generate

    definition.__name__ = write.__name__  # for Numba's messages
    names = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("typing", *arguments._fields)
    ]
    definition.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    compiled: Callable[..., None] = intrinsic(definition)
    return compiled
