"""Bilinear sampling of an image at many positions, in vector instructions.

Each lane of a vector has a position of its own, between four pixels:

    upper, upper_right       value = (1 - q) ((1 - p) upper + p upper_right) + q ((1 - p) lower + p lower_right)
         x (p, q)
    lower, lower_right       p, q : fractions of the position between columns and lines, in [0, 1)

*Gathers* fetch these pixels: instructions that load every lane of a vector from another address. LLVM replaces them by
single loads on processors that have none. Loops compiled by Numba do not become gathers, so the loop over vectors of
positions is written as LLVM instructions; see `numba_internals.llvm_emitter`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.products.tile import LANES


class SamplerArguments(NamedTuple):
    """Arguments of the sampler. Arrays are 1-d float32."""

    plane: Any  # the pixels, row after row
    width: Any  # of a row of the plane
    x: Any  # the points to be mapped; x and y are padded to whole vectors
    y: Any
    count: Any  # number of points
    maps: Any  # six coefficients from `offset` on: column = a x + b y + u, line = c x + d y + v
    offset: Any
    limits: Any  # largest column and line; positions are clipped to [0, limit], and the plane has one more of each
    values: Any  # results: the samples
    columns: Any  # results: their derivatives with respect to the column, zero where the position was clipped
    lines: Any  # results: their derivatives with respect to the line


def _reference_sampler(t: SamplerArguments) -> None:
    a, b, u, c, d, v = t.maps[t.offset : t.offset + 6]
    x, y, width = t.x[: t.count], t.y[: t.count], t.width
    column, line = a * x + (b * y + u), c * x + (d * y + v)
    clipped_column, clipped_line = (
        np.minimum(np.fmax(position, 0), limit) for position, limit in zip((column, line), t.limits[:2], strict=True)
    )
    first, top = clipped_column.astype(np.int32), clipped_line.astype(np.int32)
    p, q = clipped_column - first.astype(x.dtype), clipped_line - top.astype(x.dtype)
    corner = top * width + first
    upper, lower = t.plane[corner], t.plane[corner + width]
    upper_slope, lower_slope = t.plane[corner + 1] - upper, t.plane[corner + width + 1] - lower
    upper, lower = upper + p * upper_slope, lower + p * lower_slope
    inside = (column == clipped_column) & (line == clipped_line)
    t.values[: t.count] = upper + q * (lower - upper)
    t.columns[: t.count] = np.where(inside, upper_slope + q * (lower_slope - upper_slope), 0)
    t.lines[: t.count] = np.where(inside, lower - upper, 0)


def _write_sampler(e: Emitter, t: SamplerArguments) -> None:
    build, fma = e.build, e.multiply_add

    def clip(position: Any, limit: Any) -> Any:
        """Clip positions to [0, limit]; NaN becomes 0."""
        position = build.select(build.fcmp_ordered(">", position, e.zero), position, e.zero)
        return build.select(build.fcmp_ordered("<", position, limit), position, limit)

    coefficients = e.pointer(t.maps.data, t.offset)
    a, b, u, c, d, v = (e.broadcast(build.load(e.pointer(coefficients, e.int64(k)))) for k in range(6))
    column_limit, line_limit = (e.broadcast(build.load(e.pointer(t.limits.data, e.int64(k)))) for k in range(2))
    width = e.broadcast(build.trunc(t.width, e.int32))
    vectors = build.sdiv(build.add(t.count, e.int64(LANES - 1)), e.int64(LANES))
    with e.loop(vectors) as index:
        k = build.mul(index, e.int64(LANES))
        x, y = e.load(e.pointer(t.x.data, k)), e.load(e.pointer(t.y.data, k))
        column, line = fma(a, x, fma(b, y, u)), fma(c, x, fma(d, y, v))
        clipped_column, clipped_line = clip(column, column_limit), clip(line, line_limit)
        first, top = build.fptosi(clipped_column, e.int_vector), build.fptosi(clipped_line, e.int_vector)
        p = build.fsub(clipped_column, build.sitofp(first, e.vector))
        q = build.fsub(clipped_line, build.sitofp(top, e.vector))
        corner = build.add(build.mul(top, width), first)
        upper, upper_right = e.gather_neighbours(t.plane.data, corner)
        lower, lower_right = e.gather_neighbours(t.plane.data, build.add(corner, width))
        upper_slope, lower_slope = build.fsub(upper_right, upper), build.fsub(lower_right, lower)
        upper, lower = fma(p, upper_slope, upper), fma(p, lower_slope, lower)
        difference = build.fsub(lower, upper)
        inside = build.and_(
            build.fcmp_ordered("==", column, clipped_column), build.fcmp_ordered("==", line, clipped_line)
        )
        slope = fma(q, build.fsub(lower_slope, upper_slope), upper_slope)
        mask = e.mask_below(k, t.count)
        for array, result in (
            (t.values, fma(q, difference, upper)),
            (t.columns, build.select(inside, slope, e.zero)),
            (t.lines, build.select(inside, difference, e.zero)),
        ):
            e.masked_store(result, e.pointer(array.data, k), mask)


def make_sampler() -> Callable[..., None]:
    """Return a function for compiled code that samples a plane under an affine map.

    Its arguments are those of `SamplerArguments`, by position.
    """
    return make_intrinsic(SamplerArguments, _write_sampler, _reference_sampler)
