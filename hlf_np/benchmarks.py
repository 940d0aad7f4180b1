"""What this machine can do, and how near the package comes: the `bench` command.

The yardstick is the micro-kernel itself on a tile whose data lie in the first-level cache: the most multiply-adds per
second that any of the other numbers can reach.

An attack's share counts the arithmetic of the layers as they are written. Winograd's convolutions take less of it (see
`kernels.winograd_forms`), and so an attack may be faster than its products.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from hlf_np import models, training
from hlf_np.arrays import Integers
from hlf_np.attacks import PGD
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import Fonts, load_prototypes
from hlf_np.kernels import executor
from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner
from hlf_np.kernels.convolution import product
from hlf_np.kernels.instructions import Winograd, decoded
from hlf_np.kernels.linking import floats, integer, matrix, table
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.tile import PANEL, PLAIN, TILE_ROWS
from hlf_np.kernels.winograd import PRODUCTS, inputs, sums
from hlf_np.programs.evaluation import Program
from hlf_np.spaces import ImageBall

SECONDS = 0.5  # of repetitions behind each number
PEAK_DEPTH = 256


@dataclass(frozen=True)
class Measurement:
    """A rate; `share` of the micro-kernel's peak on as many threads, where arithmetic is what counts."""

    name: str
    threads: int
    rate: float
    unit: str
    share: float | None = None


def _seconds(task: Callable[[], object]) -> float:
    """The median time of a task, warmed up."""
    task()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        started = time.perf_counter()
        task()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@inner
def tiles(thread, a, a_rows, segments, b, start, c, c_rows, repeats):  # type: ignore[no-untyped-def]
    """The same tile again and again."""
    columns, rows, plain = np.int64(PANEL), np.int64(TILE_ROWS), np.int64(PLAIN)
    for _ in range(repeats):
        product(a, a_rows, segments, PEAK_DEPTH, b, 0, start, 0, columns, c[thread], c_rows, rows, plain, c_rows)


TILES = Parallel(tiles, floats, table, table, floats, floats, matrix, table, integer)
_tiles = TILES.spread


@kernel
def _peak(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    _tiles(addresses, threads, *arguments)


def peak(threads: int) -> float:
    """Floating-point operations per second of the micro-kernel, float32."""
    numba.set_num_threads(threads)
    random = np.random.default_rng(0)
    a = random.random(TILE_ROWS * PEAK_DEPTH, np.float32)
    b = random.random(PEAK_DEPTH * PANEL, np.float32)
    c = np.zeros((threads, TILE_ROWS * PANEL), np.float32)
    a_rows, c_rows = np.arange(TILE_ROWS) * PEAK_DEPTH, np.arange(TILE_ROWS) * PANEL
    segments, zeros, repeats = np.zeros(1, np.int64), np.zeros(PANEL, np.float32), 2000
    seconds = _seconds(lambda: _peak(TILES.addresses, threads, a, a_rows, segments, b, zeros, c, c_rows, repeats))
    return 2 * TILE_ROWS * PEAK_DEPTH * PANEL * repeats * threads / seconds


def _data(count: int) -> Split:
    random = np.random.default_rng(0)
    return Split(random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count))


def _matrices(instruction: Any, lanes: int) -> tuple[int, int, int, int]:
    """How many products of matrices an instruction is; their rows, depth and columns."""
    if isinstance(instruction, Winograd):
        form, patches = instruction.form, instruction.patches_per_image * lanes
        return PRODUCTS[form], patches, inputs(form, instruction.channels), sums(form, instruction.columns)
    return 1, instruction.pixels * lanes, instruction.segment_count * instruction.length, instruction.columns


def _kernels(single_peak: float) -> Iterator[Measurement]:
    """The products of the CNN's program, one by one, on one thread."""
    program = Program(models.cnn().network, (28, 28, 1))
    weights = program.pack()[0]
    work, room = (np.zeros(size, np.float32) for size in program.sizes)
    lanes = program.lanes
    for direction, steps in (("forward", program.forward), ("backward", program.backward)):
        for row in steps:
            count, rows, depth, columns = _matrices(decoded(row), lanes)

            def repeat(row: Integers = row) -> None:
                for _ in range(100):
                    executor.run_instructions(row[None], program.tables, weights, work, room, 0, lanes)

            rate = 100 * 2 * count * rows * depth * columns / _seconds(repeat)
            name = f"{direction} {f'{count} times ' if count > 1 else ''}{rows} x {depth} x {columns}"
            yield Measurement(name, 1, rate / 1e9, "GFLOP/s", rate / single_peak)


def _attacks(threads: int, peak_rate: float) -> Iterator[Measurement]:
    makers: dict[str, tuple[Callable[[], models.Model], int, int]] = {
        "cnn": (models.cnn, 500, 40),
        "mlp": (models.mlp, 1000, 40),
        "resnet (16)": (lambda: models.resnet(widths=(16, 32, 64)), 96, 10),
        "resnet (64)": (models.resnet, 24, 10),
        "vgg": (models.vgg, 24, 10),
    }
    for name, (make, count, steps) in makers.items():
        model, split = make(), _data(count)
        attack = PGD(steps, stop_early=False)
        seconds = _seconds(lambda: attack.find(model, split, ImageBall()))  # noqa: B023
        rate = count * steps / seconds
        program = Program(model.network, model.image_shape)
        share = rate * program.operations_per_step / peak_rate
        yield Measurement(f"attack on {name}", threads, rate, "image-steps/s", share)


def _others(threads: int) -> Iterator[Measurement]:
    split = _data(1000)
    model, config = models.cnn(), training.TrainingConfig(epochs=1)
    seconds = _seconds(lambda: training.train(model, split, config=config))
    yield Measurement("training of cnn", threads, len(split) / seconds, "images/s")
    fonts, indices = Fonts(load_prototypes()), np.arange(20_000)
    yield Measurement("FONTS", threads, len(indices) / _seconds(lambda: fonts.split(indices)), "images/s")


def measure(threads: int) -> Iterator[Measurement]:
    """Every number, one after another as it is found."""
    single = peak(1)
    yield Measurement("micro-kernel, the peak", 1, single / 1e9, "GFLOP/s", 1.0)
    yield from _kernels(single)
    counts = sorted({1, *(2**k for k in range(10) if 2**k < threads), threads})
    for count in counts:
        most = peak(count)
        numba.set_num_threads(count)
        if count > 1:
            yield Measurement("micro-kernel, the peak", count, most / 1e9, "GFLOP/s", 1.0)
        yield from _attacks(count, most)
        yield from _others(count)


def line(measurement: Measurement) -> str:
    """A row of the table."""
    m = measurement
    share = "" if m.share is None else f"{m.share:>6.0%}"
    return f"{m.name:<32}{m.threads:>8}{m.rate:>14,.0f} {m.unit:<14}{share}"


HEAD = f"{'':<32}{'threads':>8}{'rate':>14} {'':<14}of peak"
