"""What a core can reach: multiply-adds on registers alone, as many at once as a tile has sums, and products alone."""

from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.kernels.numba_internals.llvm_emitter import Emitter, make_intrinsic
from hlf_np.kernels.numba_internals.numba_types import float32_1d, float32_2d, int64
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.products.product import product
from hlf_np.kernels.products.tile import LANES, PANEL, PLAIN, TILE_ROWS, padded

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


_multiply_add_registers = make_intrinsic(PeakArguments, _write_peak, _reference_peak)


@callee
def repeat_multiply_adds(thread, factors, sums, repetitions):  # type: ignore[no-untyped-def]
    """Keep the arithmetic units of a core busy, without touching memory."""
    _multiply_add_registers(factors, sums[thread], repetitions)


PEAK = ParallelLoop(repeat_multiply_adds, float32_1d, float32_2d, int64)
_parallel_loop = PEAK.parallel_for


@kernel
def _run_peak(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    _parallel_loop(addresses, threads, *arguments)


def run_peak(threads: int, repetitions: int) -> int:
    """Multiply and add on `threads` cores, and return the number of floating-point operations."""
    factors, sums = np.zeros(2 * LANES, np.float32), np.zeros((threads, SUMS * LANES), np.float32)
    _run_peak(PEAK.addresses, threads, factors, sums, repetitions)
    return 2 * sums.size * repetitions


@kernel
def _repeat_products(repetitions, count, a, b, c, a_rows, c_rows, depth, columns):  # type: ignore[no-untyped-def]
    segments, start, epilogue = np.zeros(1, np.int64), np.zeros(columns, np.float32), np.int64(PLAIN)
    a_size, b_size, c_size = a.size // count, b.size // count, c.size // count
    for _ in range(repetitions):
        for k in range(count):
            product(
                a[k * a_size :], a_rows, segments, depth, b, k * b_size, start, 0, columns, c[k * c_size :], c_rows,
                a_rows.size, epilogue, c_rows,
            )  # fmt: skip


def run_products(repetitions: int, count: int, rows: int, depth: int, columns: int) -> None:
    """Compute `count` different products of matrices (rows, depth) and (depth, columns), again and again.

    That is what lies between the transforms of a Winograd convolution.
    """
    columns = padded(columns)
    panels = -(-columns // PANEL)
    a, b, c = (
        np.ones(count * (size + LANES), np.float32) for size in (rows * depth, depth * panels * PANEL, rows * columns)
    )
    _repeat_products(repetitions, count, a, b, c, np.arange(rows) * depth, np.arange(rows) * columns, depth, columns)
