"""Operations on single pixels: an affine map of their channels, and the end of a residual block.

Where pixels have few channels, a loop compiled by Numba would spend most of its time on checks before and after the
vector instructions. So `scale` is written as LLVM instructions.
"""

from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.instructions.propagation import ResidualAdd, Scale
from hlf_np.kernels.numba_internals.compiling import inlined
from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.numba_internals.named_tuples import decoder
from hlf_np.kernels.products.tile import LANES, epilogue_flags, reference_epilogue, write_epilogue

_decode_scale, _decode_residual_add = decoder(Scale), decoder(ResidualAdd)


class ScaleArguments(NamedTuple):
    """Arguments of `_scale_pixels`. Arrays are 1-d; offsets count elements."""

    work: Any  # float32, holds the pixels and the masks
    sources: Any  # int64, where the pixels start
    targets: Any  # int64, where the results go
    masks: Any  # int64, where the masks start
    weights: Any  # float32, holds factors and offsets, one of each per channel
    factors: Any  # where the factors start
    offsets: Any  # where the offsets start
    channels: Any  # whole vectors
    count: Any  # number of pixels
    epilogue: Any  # see `tile`


def _reference_scale(t: ScaleArguments) -> None:
    factors, offsets = (t.weights[start : start + t.channels] for start in (t.factors, t.offsets))
    for k in range(t.count):
        total = factors * t.work[t.sources[k] : t.sources[k] + t.channels] + offsets
        reference_epilogue(total, t.epilogue, t.work, t.targets[k], t.masks[k])


def _write_scale(e: Emitter, t: ScaleArguments) -> None:
    build, slot, flags = e.build, e.stack_slot(), epilogue_flags(e, t.epilogue)
    with e.loop(t.count) as k:
        source, target, mask = (
            e.pointer(t.work.data, build.load(e.pointer(table.data, k))) for table in (t.sources, t.targets, t.masks)
        )
        with e.loop(build.udiv(t.channels, e.int64(LANES))) as vector:
            c = build.mul(vector, e.int64(LANES))
            factor, offset = (
                e.load(e.pointer(t.weights.data, build.add(start, c))) for start in (t.factors, t.offsets)
            )
            build.store(e.multiply_add(factor, e.load(e.pointer(source, c)), offset), slot)
            write_epilogue(e, slot, flags, e.pointer(target, c), e.pointer(mask, c))


_scale_pixels = make_intrinsic(ScaleArguments, _write_scale, _reference_scale)


@inlined
def scale(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    """Map the channels of pixels, for the images from `first` to before `end`; row : an instruction `Scale`."""
    op = _decode_scale(row)
    skipped = op.pixels * first
    _scale_pixels(
        work, tables[op.sources + skipped :], tables[op.targets + skipped :], tables[op.masks + skipped :], weights,
        op.factors, op.offsets, op.channels, op.pixels * (end - first), op.epilogue,
    )  # fmt: skip


@inlined
def residual_add(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    """End residual blocks, for the images from `first` to before `end`; row : an instruction `ResidualAdd`."""
    op = _decode_residual_add(row)
    for pixel in range(op.pixels * first, op.pixels * end):
        body, shortcut = work[tables[op.bodies + pixel] :], work[tables[op.shortcuts + pixel] :]
        total = work[tables[op.targets + pixel] :]
        for c in range(op.channels):
            total[c] = max(body[c] + shortcut[c], np.float32(0))
