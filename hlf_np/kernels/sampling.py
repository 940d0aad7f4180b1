"""Bilinear samples of an image at many positions, as vector instructions.

Each of 16 lanes has a position of its own. *Gathers* fetch the four pixels around it: instructions that load every
lane of a vector from another address. LLVM makes single loads of them on machines that have none. Numba's loops do
not become gathers here, so the loop over vectors of positions is written as LLVM instructions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from hlf_np.kernels.tile import LANES

Sampler = Callable[..., None]


def _reference_sampler() -> Sampler:
    """The samples in plain Python, for runs without compilation: the same arguments, indices checked by NumPy."""

    def sample(plane, width, x, y, count, maps, at, most, values, columns, lines):  # type: ignore[no-untyped-def]
        a, b, u, c, d, v = maps[at : at + 6]
        x, y = x[:count], y[:count]
        column, line = a * x + (b * y + u), c * x + (d * y + v)
        inside_column, inside_line = (
            np.minimum(np.fmax(position, 0), bound) for position, bound in zip((column, line), most[:2], strict=True)
        )
        first, top = inside_column.astype(np.int32), inside_line.astype(np.int32)
        p, q = inside_column - first.astype(x.dtype), inside_line - top.astype(x.dtype)
        corner = top * width + first
        upper, lower = plane[corner], plane[corner + width]
        upper_slope, lower_slope = plane[corner + 1] - upper, plane[corner + width + 1] - lower
        upper, lower = upper + p * upper_slope, lower + p * lower_slope
        inside = (column == inside_column) & (line == inside_line)
        values[:count] = upper + q * (lower - upper)
        columns[:count] = np.where(inside, upper_slope + q * (lower_slope - upper_slope), 0)
        lines[:count] = np.where(inside, lower - upper, 0)

    return sample


def _compiled_sampler() -> Sampler:
    """The samples as an LLVM function body; see `make_sampler` for the arguments."""

    @intrinsic
    def sample(typing, plane, width, x, y, count, maps, at, most, values, columns, lines):  # type: ignore[no-untyped-def]
        arguments = (plane, width, x, y, count, maps, at, most, values, columns, lines)
        number = plane.dtype

        def generate(context, build, signature, given):  # type: ignore[no-untyped-def]
            scalar, int64, int32 = context.get_data_type(number), ir.IntType(64), ir.IntType(32)
            vector, integers = ir.VectorType(scalar, LANES), ir.VectorType(int32, LANES)
            longs = ir.VectorType(int64, LANES)
            switches = ir.VectorType(ir.IntType(1), LANES)
            bits, size = f"f{number.bitwidth}", number.bitwidth // 8

            def function(name: str, result: Any, *parameters: Any) -> Any:
                return cgutils.get_or_insert_function(build.module, ir.FunctionType(result, parameters), name)

            multiply_add = function(f"llvm.fmuladd.v{LANES}{bits}", vector, *[vector] * 3)
            masked_store = function(
                f"llvm.masked.store.v{LANES}{bits}.p0v{LANES}{bits}",
                ir.VoidType(), vector, vector.as_pointer(), int32, switches,
            )  # fmt: skip
            alignment, zero = ir.Constant(int32, size), ir.Constant(vector, [0.0] * LANES)

            def splat(value: Any, kind: Any) -> Any:
                undefined = ir.Constant(kind, ir.Undefined)
                lane = build.insert_element(undefined, value, ir.Constant(int32, 0))
                return build.shuffle_vector(
                    lane, undefined, ir.Constant(ir.VectorType(int32, kind.count), [0] * kind.count)
                )

            def data(position: int) -> Any:
                return context.make_array(signature.args[position])(context, build, given[position]).data

            def vector_at(array: Any, k: Any) -> Any:
                loaded = build.load(build.bitcast(build.gep(array, [k]), vector.as_pointer()))
                loaded.align = size
                return loaded

            def long(n: int) -> Any:
                return ir.Constant(int64, n)

            plane, x, y, maps, most, values, columns, lines = (data(i) for i in (0, 2, 3, 5, 7, 8, 9, 10))
            width, count, at = given[1], given[4], given[6]
            a, b, u, c, d, v = (splat(build.load(build.gep(maps, [build.add(at, long(k))])), vector) for k in range(6))
            most_column, most_line = (splat(build.load(build.gep(most, [long(k)])), vector) for k in range(2))
            row = splat(build.trunc(width, int32), integers)

            def clamp(position: Any, bound: Any) -> Any:
                position = build.select(build.fcmp_ordered(">", position, zero), position, zero)
                return build.select(build.fcmp_ordered("<", position, bound), position, bound)

            def gather(index: Any, kind: Any, name: str) -> Any:
                """Numbers of some kind that begin at plane[index], one for each lane of the index."""
                lanes = index.type.count
                result, wanted = ir.VectorType(kind, lanes), ir.VectorType(ir.IntType(1), lanes)
                pointers = ir.VectorType(kind.as_pointer(), lanes)
                # llvmlite knows of single indices only, LLVM of vectors, too; a gather then adds up the addresses
                address = ir.instructions.GEPInstr(build.block, plane, [ir.Constant(int32, 0)], False, "addresses")
                address.indices, address.type = [index], ir.VectorType(plane.type, lanes)
                build._insert(address)
                address = build.bitcast(address, pointers)
                full_name = f"llvm.masked.gather.v{lanes}{name}.v{lanes}p0{name}"
                masked_gather = function(full_name, result, pointers, int32, wanted, result)
                every, nothing = ir.Constant(wanted, [1] * lanes), ir.Constant(result, ir.Undefined)
                return build.call(masked_gather, [address, alignment, every, nothing])

            def neighbours(index: Any) -> tuple[Any, Any]:
                """plane[index] and plane[index + 1]."""
                if size == 8:
                    one = ir.Constant(integers, [1] * LANES)
                    return gather(index, scalar, bits), gather(build.add(index, one), scalar, bits)
                halves = []  # two numbers of 32 bits are fetched as one of 64: half the loads
                for first in (0, LANES // 2):
                    chosen = ir.Constant(ir.VectorType(int32, LANES // 2), list(range(first, first + LANES // 2)))
                    both = gather(build.shuffle_vector(index, index, chosen), int64, "i64")
                    halves.append(build.bitcast(both, vector))
                left, right = (ir.Constant(integers, list(range(first, 2 * LANES, 2))) for first in (0, 1))
                return build.shuffle_vector(*halves, left), build.shuffle_vector(*halves, right)

            def fused(left: Any, right: Any, addend: Any) -> Any:
                return build.call(multiply_add, [left, right, addend])

            vectors = build.sdiv(build.add(count, long(LANES - 1)), long(LANES))
            with cgutils.for_range(build, vectors) as loop:
                k = build.mul(loop.index, long(LANES))
                x_k, y_k = vector_at(x, k), vector_at(y, k)
                column, line = fused(a, x_k, fused(b, y_k, u)), fused(c, x_k, fused(d, y_k, v))
                inside_column, inside_line = clamp(column, most_column), clamp(line, most_line)
                first, top = build.fptosi(inside_column, integers), build.fptosi(inside_line, integers)
                p = build.fsub(inside_column, build.sitofp(first, vector))
                q = build.fsub(inside_line, build.sitofp(top, vector))
                corner = build.add(build.mul(top, row), first)
                upper, upper_right = neighbours(corner)
                lower, lower_right = neighbours(build.add(corner, row))
                upper_slope, lower_slope = build.fsub(upper_right, upper), build.fsub(lower_right, lower)
                upper, lower = fused(p, upper_slope, upper), fused(p, lower_slope, lower)
                difference = build.fsub(lower, upper)
                inside = build.and_(
                    build.fcmp_ordered("==", column, inside_column), build.fcmp_ordered("==", line, inside_line)
                )
                results = (
                    (values, fused(q, difference, upper)),
                    (columns, build.select(inside, fused(q, build.fsub(lower_slope, upper_slope), upper_slope), zero)),
                    (lines, build.select(inside, difference, zero)),
                )
                lanes = build.add(splat(k, longs), ir.Constant(longs, list(range(LANES))))
                wanted = build.icmp_signed("<", lanes, splat(count, longs))
                for array, result in results:
                    target = build.bitcast(build.gep(array, [k]), vector.as_pointer())
                    build.call(masked_store, [result, target, alignment, wanted])
            return context.get_dummy_value()

        return types.void(*arguments), generate

    return sample


def make_sampler() -> Sampler:
    """A function that samples a plane under an affine map, callable from Numba code.

    The function's arguments; all arrays are flat:

    - `plane, width`: the pixels, row after row.
    - `x, y, count`: the positions to be mapped; the arrays are filled up to whole vectors.
    - `maps, at`: six numbers from `at` on: column = a x + b y + u, line = c x + d y + v.
    - `most`: the largest column and line. Positions are brought between 0 and these; beyond, the plane has to have one
      more column and line.
    - `values, columns, lines`: the samples, and their derivatives to column and line, zero where the position was
      brought inside; `count` of each.
    """
    interpreted = config.DISABLE_JIT  # type: ignore[attr-defined]
    return _reference_sampler() if interpreted else _compiled_sampler()
