"""Overlapping patches, added up to an image (`col2im`, also called overlap-add); `programs.blocks` explains its use.

Blocks are shorter than a vector, so a loop compiled by Numba would spend most of its time on checks before and after
the vector instructions. Here whole vectors are loaded and stored, one block after the other: what a vector holds beyond
its block is not needed, and the next block overwrites it.
"""

from typing import Any, NamedTuple

from hlf_np.kernels.instructions.propagation import OverlapAdd
from hlf_np.kernels.numba_internals.compiling import inlined
from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.numba_internals.named_tuples import decoder
from hlf_np.kernels.products.tile import LANES

_decode = decoder(OverlapAdd)


class OverlapArguments(NamedTuple):
    """Arguments of `_add_pieces`. Arrays are 1-d; offsets count elements."""

    work: Any  # float32, holds the pieces and the blocks
    sources: Any  # int64, where the first piece of each block starts
    pieces: Any  # int64, where the pieces of a block start, relative to the first
    weights: Any  # float32, holds the initial values of a block, whole vectors
    initial: Any  # where they start
    target: Any  # where the first block goes; the blocks follow each other
    size: Any  # elements per block
    count: Any  # number of blocks


def _reference_pieces(t: OverlapArguments) -> None:
    for k in range(t.count):
        for first in range(0, t.size, LANES):
            total = t.weights[t.initial + first : t.initial + first + LANES].copy()
            for piece in t.pieces:
                start = t.sources[k] + piece + first
                total += t.work[start : start + LANES]
            target = t.target + k * t.size + first
            t.work[target : target + LANES] = total


def _write_pieces(e: Emitter, t: OverlapArguments) -> None:
    build, lanes, slot = e.build, e.int64(LANES), e.stack_slot()
    initial, target = e.pointer(t.weights.data, t.initial), e.pointer(t.work.data, t.target)
    vectors = build.udiv(build.add(t.size, e.int64(LANES - 1)), lanes)
    with e.loop(t.count) as k:
        source = e.pointer(t.work.data, build.load(e.pointer(t.sources.data, k)))
        block = e.pointer(target, build.mul(k, t.size))
        with e.loop(vectors) as vector:
            first = build.mul(vector, lanes)
            build.store(e.load(e.pointer(initial, first)), slot)
            with e.loop(e.length(t.pieces)) as index:
                piece = build.add(build.load(e.pointer(t.pieces.data, index)), first)
                build.store(build.fadd(build.load(slot), e.load(e.pointer(source, piece))), slot)
            e.store(build.load(slot), e.pointer(block, first))  # the next block overwrites what is too much


_add_pieces = make_intrinsic(OverlapArguments, _write_pieces, _reference_pieces)


@inlined
def overlap_add(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    """Add up the pieces of every block, for the images from `first` to before `end`; row : an `OverlapAdd`."""
    op = _decode(row)
    pieces = tables[op.pieces : op.pieces + op.piece_count]
    for image in range(first, end):
        sources, target = tables[op.sources + image * op.blocks :], op.targets + image * op.target_stride
        _add_pieces(work, sources, pieces, weights, op.initial, target, op.size, op.blocks)
