"""The peak of a core: multiply-adds on registers alone, as many at once as a tile has sums."""

from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.products.tile import LANES, TILE_ROWS

SUMS = 2 * TILE_ROWS  # vectors


class PeakArguments(NamedTuple):
    """Arguments of `multiply_add_registers`."""

    factors: Any  # float32, two vectors
    sums: Any  # float32, SUMS vectors; the product of the factors is added to each, again and again
    repetitions: Any  # how often


def _reference_peak(p: PeakArguments) -> None:
    left, right = p.factors.reshape(2, LANES)
    p.sums[:] += np.tile(p.repetitions * left * right, SUMS)


def _write_peak(e: Emitter, p: PeakArguments) -> None:
    left, right = (e.load(e.pointer(p.factors.data, e.int64(k * LANES))) for k in range(2))
    slots = [e.stack_slot() for _ in range(SUMS)]
    places = [e.pointer(p.sums.data, e.int64(k * LANES)) for k in range(SUMS)]
    for slot, place in zip(slots, places, strict=True):
        e.build.store(e.load(place), slot)
    with e.loop(p.repetitions):
        for slot in slots:
            e.build.store(e.multiply_add(left, right, e.build.load(slot)), slot)
    for slot, place in zip(slots, places, strict=True):
        e.store(e.build.load(slot), place)


multiply_add_registers = make_intrinsic(PeakArguments, _write_peak, _reference_peak)
