"""How long a run takes: its work, and this machine's speed, which a short trial measures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numba
import numpy as np

from hlf_np import attacks
from hlf_np.attacks import Attack
from hlf_np.data.dataset import Split
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.store import Store
from hlf_np.experiments.work import step_work, total_work
from hlf_np.models import Model
from hlf_np.programs.evaluation import IMAGES
from hlf_np.spaces import ImageBall

SECONDS = 0.3  # of the trial, at least
UNITS = {"day": 86_400, "hour": 3600, "minute": 60}


def measured_speed(config: RunConfig, clock: Callable[[], float] = time.perf_counter) -> float:
    """Work per second: some steps of an attack on the run's architecture, after one that compiles it."""
    model, random = Model(config.architecture), np.random.default_rng(0)
    count = 4 * IMAGES * numba.get_num_threads()
    images = random.random((count, *model.image_shape), np.float32)
    split = Split(images, random.integers(0, model.classes, count))

    def seconds(steps: int) -> float:
        started = clock()
        attacks.run(model, split, ImageBall(), Attack(steps, stop_early=False))
        return clock() - started

    seconds(1)
    steps, spent = 1, seconds(1)
    while spent < SECONDS:
        steps = max(2 * steps, math.ceil(steps * SECONDS / spent)) if spent > 0 else 2 * steps
        spent = seconds(steps)
    return count * steps * step_work(config, ImageBall) / spent


def announcement(config: RunConfig, store: Store, speed: float, threads: int) -> str:
    """What is about to be done, and how long that takes at a speed in work per second."""
    cells = list(config.cells())
    missing = sum(not store.has(cell) for cell in cells)
    models = f"{missing} of {len(cells)} models" if missing < len(cells) else f"{missing} models"
    on = f"{threads} thread{'s' * (threads > 1)}"
    return f"{models} to train and attack: {duration(total_work(config, store) / speed)} on {on}."


def duration(seconds: float) -> str:
    """A time as one says it, with an error of at most an eighth: "about 50 minutes"."""
    for unit, length in UNITS.items():
        if seconds >= 2 * length:
            number = seconds / length
            return f"about {round(number) if number >= 4 else round(2 * number) / 2:g} {unit}s"
    return f"about {10 * round(seconds / 10)} seconds" if seconds >= 15 else "a few seconds"
