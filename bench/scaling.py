"""How attacks and training steps scale to more threads than a machine has, by simulation.

    python bench/scaling.py [--threads 2,4,8,16,64]

What can be computed at the same time is known: the images of an attack, the parts of a batch, the panels of weight
gradients. Their durations are measured on one thread and distributed among more threads as the kernels do. The speedup
is the sum of all durations over the longest path; memory that threads share is not modelled, so it is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import numba
import numpy as np
from tasks import STEPS, make_model, random_images

from hlf_np.cli.benchmarks import median_seconds


def attack_speedup(architecture: str, images: int) -> Callable[[int], float]:
    """Measure the passes of an attack by their number of images; return the speedup for a number of threads."""
    from hlf_np.kernels.interpreter import executor
    from hlf_np.kernels.products.tile import TILE_ROWS
    from hlf_np.programs.evaluation import Program

    model = make_model(architecture)
    program = Program(model.network, model.image_shape)
    work, scratch = (np.zeros(size, np.float32) for size in program.sizes)
    rows, weights = np.concatenate([program.forward, program.backward]), program.packed_weights()[0]

    def measure(count: int) -> float:
        return median_seconds(lambda: executor.run_instructions(rows, program.tables, weights, work, scratch, 0, count))

    passes = [0.0, *(measure(count) for count in range(1, program.capacity + 1))]

    def duration(threads: int) -> float:
        """Return the time of the thread with the most images; its slots are refilled when images are finished."""
        share = -(-images // threads)
        slots = min(program.capacity, -(-share // TILE_ROWS) * TILE_ROWS)
        full, rest = divmod(share, slots)
        return (STEPS + 1) * (full * passes[slots] + passes[rest])

    return lambda threads: duration(1) / duration(threads)


def training_speedup(batch_size: int) -> Callable[[int], float]:
    """Measure a training step of the CNN by its number of parts; return the speedup for a number of threads."""
    from hlf_np.optim import AdamConfig
    from hlf_np.programs.training import IMAGES_PER_PART
    from hlf_np.train_step import make_train_step

    step = make_train_step(make_model("cnn"), AdamConfig())
    images, labels = random_images(batch_size)
    parts = -(-batch_size // IMAGES_PER_PART)

    def measure(count: int) -> float:
        chosen = slice(0, count * IMAGES_PER_PART)
        return median_seconds(lambda: step.step(images[chosen], images[chosen], labels[chosen], 0.01))

    few, many = measure(1), measure(parts)
    per_part = (many - few) / max(1, parts - 1)
    fixed = few - per_part  # reductions, update and filter transforms; taken as serial, which they are not quite
    return lambda threads: (fixed + parts * per_part) / (fixed + -(-parts // threads) * per_part)


@click.command()
@click.option("--threads", default="2,4,8,16,64", show_default=True, help="Numbers of threads.")
def main(threads: str) -> None:
    """Print the speedups."""
    numba.set_num_threads(1)
    counts = [int(count) for count in threads.split(",")]
    tasks = {f"attack on {name}, {n} images": attack_speedup(name, n) for name in ("cnn", "mlp") for n in (100, 1000)}
    tasks |= {f"training step, batch of {n}": training_speedup(n) for n in (100, 1000)}
    click.echo(f"{'speedup with threads':<28}" + "".join(f"{count:>8}" for count in counts))
    for name, speedup in tasks.items():
        click.echo(f"{name:<28}" + "".join(f"{speedup(count):>7.1f}x" for count in counts))


if __name__ == "__main__":
    main()
