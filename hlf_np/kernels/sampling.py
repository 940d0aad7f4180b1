"""Bilinear samples of an image at many positions, as vector instructions.

Each of 16 lanes has a position of its own. *Gathers* fetch the four pixels around it: instructions that load every
lane of a vector from another address. LLVM makes single loads of them on machines that have none. Numba's loops do
not become gathers here, so the loop over vectors of positions is written as LLVM instructions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from hlf_np.kernels.tile import LANES, emitted


def _reference_sampler(plane, width, x, y, count, maps, at, most, values, columns, lines):  # type: ignore[no-untyped-def]
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


def _write_sampler(e, plane, width, x, y, count, maps, at, most, values, columns, lines):  # type: ignore[no-untyped-def]
    build, fused = e.build, e.multiply_add
    int32, int64, switch = ir.IntType(32), ir.IntType(64), ir.IntType(1)
    integers, alignment = ir.VectorType(int32, LANES), ir.Constant(int32, 4)

    def clamp(position: Any, bound: Any) -> Any:
        position = build.select(build.fcmp_ordered(">", position, e.zero), position, e.zero)
        return build.select(build.fcmp_ordered("<", position, bound), position, bound)

    def gather(index: Any) -> Any:
        """plane[i] and plane[i + 1] as one number of 64 bits, half the loads of two, for each lane i of an index."""
        lanes = index.type.count
        pairs, pointers = ir.VectorType(int64, lanes), ir.VectorType(int64.as_pointer(), lanes)
        # llvmlite knows of single indices only, LLVM of vectors, too; a gather then adds up the addresses
        address = ir.instructions.GEPInstr(build.block, plane.data, [ir.Constant(int32, 0)], False, "addresses")
        address.indices, address.type = [index], ir.VectorType(plane.data.type, lanes)
        build._insert(address)
        every, nothing = ir.Constant(ir.VectorType(switch, lanes), [1] * lanes), ir.Constant(pairs, ir.Undefined)
        name = f"llvm.masked.gather.v{lanes}i64.v{lanes}p0i64"
        return e.intrinsic(name, pairs, build.bitcast(address, pointers), alignment, every, nothing)

    def neighbours(index: Any) -> tuple[Any, Any]:
        """plane[index] and plane[index + 1]."""
        halves = []
        for first in (0, LANES // 2):
            chosen = ir.Constant(ir.VectorType(int32, LANES // 2), list(range(first, first + LANES // 2)))
            halves.append(build.bitcast(gather(build.shuffle_vector(index, index, chosen)), e.vector))
        left, right = (ir.Constant(integers, list(range(first, 2 * LANES, 2))) for first in (0, 1))
        return build.shuffle_vector(*halves, left), build.shuffle_vector(*halves, right)

    origin = e.at(maps.data, at)
    a, b, u, c, d, v = (e.broadcast(build.load(e.at(origin, e.constant(k)))) for k in range(6))
    most_column, most_line = (e.broadcast(build.load(e.at(most.data, e.constant(k)))) for k in range(2))
    row = e.broadcast(build.trunc(width, int32))
    vectors = build.sdiv(build.add(count, e.constant(LANES - 1)), e.constant(LANES))
    with cgutils.for_range(build, vectors) as loop:
        k = build.mul(loop.index, e.constant(LANES))
        x_k, y_k = e.load(e.at(x.data, k)), e.load(e.at(y.data, k))
        column, line = fused(a, x_k, fused(b, y_k, u)), fused(c, x_k, fused(d, y_k, v))
        inside_column, inside_line = clamp(column, most_column), clamp(line, most_line)
        first, top = build.fptosi(inside_column, integers), build.fptosi(inside_line, integers)
        p = build.fsub(inside_column, build.sitofp(first, e.vector))
        q = build.fsub(inside_line, build.sitofp(top, e.vector))
        corner = build.add(build.mul(top, row), first)
        upper, upper_right = neighbours(corner)
        lower, lower_right = neighbours(build.add(corner, row))
        upper_slope, lower_slope = build.fsub(upper_right, upper), build.fsub(lower_right, lower)
        upper, lower = fused(p, upper_slope, upper), fused(p, lower_slope, lower)
        difference = build.fsub(lower, upper)
        inside = build.and_(
            build.fcmp_ordered("==", column, inside_column), build.fcmp_ordered("==", line, inside_line)
        )
        slope = fused(q, build.fsub(lower_slope, upper_slope), upper_slope)
        lanes = build.add(e.broadcast(k), ir.Constant(ir.VectorType(int64, LANES), list(range(LANES))))
        wanted = build.icmp_signed("<", lanes, e.broadcast(count))
        for array, result in (
            (values, fused(q, difference, upper)),
            (columns, build.select(inside, slope, e.zero)),
            (lines, build.select(inside, difference, e.zero)),
        ):
            target = build.bitcast(e.at(array.data, k), e.vector.as_pointer())
            name = f"llvm.masked.store.v{LANES}f32.p0v{LANES}f32"
            e.intrinsic(name, ir.VoidType(), result, target, alignment, wanted)


def make_sampler() -> Callable[..., None]:
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
    return emitted(_write_sampler, _reference_sampler)
