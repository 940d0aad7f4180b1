"""Benchmarks of the `bench` command: the speed of this machine, and the efficiency of the kernels.

The reference is the peak rate of the processor: its floating-point operations per second in multiply-adds on registers,
without loading anything. No kernel can exceed it.

The fraction of the peak that an attack reaches is computed from the operations of the layers as defined. Winograd
convolutions need fewer operations (see `kernels.winograd.forms`), so an attack can reach a larger fraction than the
matrix products that it consists of.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

from hlf_np import models, training
from hlf_np.attacks import PGD
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import Fonts, load_prototypes
from hlf_np.kernels.instructions.encoding import decoded
from hlf_np.kernels.instructions.propagation import Product, Winograd
from hlf_np.kernels.interpreter import executor
from hlf_np.kernels.numba_internals.processor import SHAPE
from hlf_np.kernels.products.peak import run_peak, run_products
from hlf_np.kernels.winograd.winograd import PATCHES_PER_BLOCK, PRODUCTS_PER_PATCH, product_columns, product_depth
from hlf_np.programs.evaluation import Program
from hlf_np.spaces import ImageBall
from hlf_np.support.arrays import Integers

MIN_SECONDS = 0.5  # total duration of the repetitions of a measurement
MIN_REPETITIONS = 3
PEAK_REPETITIONS = 1_000_000  # of a multiply-add on each register, without returning to Python
KERNEL_REPETITIONS = 100


@dataclass(frozen=True)
class BenchmarkResult:
    """A measured rate.

    Parameters
    ----------
    name : str
        What was measured.
    threads : int
        Number of threads.
    rate : float
        The rate.
    unit : str
        Unit of the rate.
    share : float, optional
        Fraction of the peak of the processor with the same number of threads; None for tasks that are not limited
        by arithmetic.
    """

    name: str
    threads: int
    rate: float
    unit: str
    share: float | None = None


def median_seconds(task: Callable[[], object]) -> float:
    """Return the median duration of a task, after one warm-up call."""
    task()
    times: list[float] = []
    while sum(times) < MIN_SECONDS or len(times) < MIN_REPETITIONS:
        started = time.perf_counter()
        task()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_rate(threads: int) -> float:
    """Measure the float32 operations per second of multiply-adds on registers."""
    numba.set_num_threads(threads)
    return run_peak(threads, PEAK_REPETITIONS) / median_seconds(lambda: run_peak(threads, PEAK_REPETITIONS))


def _random_split(count: int) -> Split:
    random = np.random.default_rng(0)
    return Split(random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count))


def _matrix_products(instruction: Any, lanes: int) -> tuple[int, int, int, int]:
    """Return the number of matrix products of an instruction, and their rows, depth and columns."""
    if isinstance(instruction, Winograd):
        form, patches = instruction.form, instruction.patches_per_image * lanes
        return (
            PRODUCTS_PER_PATCH[form],
            patches,
            product_depth(form, instruction.channels),
            product_columns(form, instruction.columns),
        )
    return 1, instruction.pixels * lanes, instruction.segment_count * instruction.length, instruction.columns


def _benchmark_kernels(peak: float) -> Iterator[BenchmarkResult]:
    """Measure the matrix products of the CNN's program one by one, on one thread.

    Those of a Winograd convolution are measured alone, and together with the transforms around them.
    """
    program = Program(models.cnn().network, (28, 28, 1))
    weights = program.packed_weights()[0]
    work, scratch = (np.zeros(size, np.float32) for size in program.sizes)
    lanes = program.capacity

    def result(name: str, operations: int, task: Callable[[], object]) -> BenchmarkResult:
        rate = KERNEL_REPETITIONS * operations / median_seconds(task)
        return BenchmarkResult(name, 1, rate / 1e9, "GFLOP/s", rate / peak)

    for direction, steps in (("forward", program.forward), ("backward", program.backward)):
        for row in (row for row in steps if isinstance(decoded(row), (Product, Winograd))):
            count, rows, depth, columns = _matrix_products(decoded(row), lanes)

            def repeat(row: Integers = row) -> None:
                for _ in range(KERNEL_REPETITIONS):
                    executor.run_instructions(row[None], program.tables, weights, work, scratch, 0, lanes)

            operations = 2 * count * rows * depth * columns
            if count == 1:
                yield result(f"{direction} {rows} x {depth} x {columns}", operations, repeat)
                continue
            block = min(rows, PATCHES_PER_BLOCK)
            products = partial(run_products, KERNEL_REPETITIONS, count, block, depth, columns)
            name = f"{direction} {count} times {block} x {depth} x {columns}"
            yield result(name, operations * block // rows, products)
            yield result(f"{direction} convolution, {rows} patches", operations, repeat)


def _benchmark_attacks(threads: int, peak: float) -> Iterator[BenchmarkResult]:
    """Measure attacks on the paper's architectures."""
    tasks: dict[str, tuple[Callable[[], models.Model], int, int]] = {  # model, images, steps
        "cnn": (models.cnn, 500, 40),
        "mlp": (models.mlp, 1000, 40),
        "resnet (16)": (lambda: models.resnet(widths=(16, 32, 64)), 96, 10),
        "resnet (64)": (models.resnet, 24, 10),
        "vgg": (models.vgg, 24, 10),
    }
    for name, (make_model, count, steps) in tasks.items():
        model, split = make_model(), _random_split(count)
        attack = PGD(steps, stop_early=False)
        seconds = median_seconds(lambda: attack.find(model, split, ImageBall()))  # noqa: B023
        rate = count * steps / seconds
        program = Program(model.network, model.image_shape)
        share = rate * program.operations_per_step / peak
        yield BenchmarkResult(f"attack on {name}", threads, rate, "image-steps/s", share)


def _benchmark_training_and_data(threads: int) -> Iterator[BenchmarkResult]:
    """Measure the training of the CNN and the generation of FONTS."""
    split = _random_split(1000)
    model, config = models.cnn(), training.TrainingConfig(epochs=1)
    seconds = median_seconds(lambda: training.train(model, split, config=config))
    yield BenchmarkResult("training of cnn", threads, len(split) / seconds, "images/s")
    fonts, indices = Fonts(load_prototypes()), np.arange(20_000)
    yield BenchmarkResult("FONTS", threads, len(indices) / median_seconds(lambda: fonts.split(indices)), "images/s")


def measure(threads: int) -> Iterator[BenchmarkResult]:
    """Run all benchmarks, with 1, 2, 4, ... and the given number of threads.

    Parameters
    ----------
    threads : int
        Largest number of threads.

    Yields
    ------
    BenchmarkResult
        Each result as soon as it is measured.
    """
    for count in sorted({1, *(2**k for k in range(10) if 2**k < threads), threads}):
        peak = peak_rate(count)
        yield BenchmarkResult("multiply-adds (peak)", count, peak / 1e9, "GFLOP/s", 1.0)
        if count == 1:
            yield from _benchmark_kernels(peak)
        yield from _benchmark_attacks(count, peak)
        yield from _benchmark_training_and_data(count)


TILE = (
    f"Tile for {SHAPE.name}: {SHAPE.rows} rows of 2 vectors of {SHAPE.lanes} values, in"
    f" {SHAPE.registers_of_tile} of {SHAPE.registers} registers."
)
TABLE_HEADER = f"{'':<32}{'threads':>8}{'rate':>14} {'':<14}of peak"


def table_row(result: BenchmarkResult) -> str:
    """Format a result as a row of the table below `TABLE_HEADER`."""
    share = "" if result.share is None else f"{result.share:>6.0%}"
    return f"{result.name:<32}{result.threads:>8}{result.rate:>14,.0f} {result.unit:<14}{share}"
