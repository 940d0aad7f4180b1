"""Working through the grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numba

from hlf_np.checks import check_count
from hlf_np.data.source import Source
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.groundwork import Groundwork, lay_groundwork, source_of, training_config
from hlf_np.experiments.jobs import Progress, work_through
from hlf_np.experiments.measurements import Subject, collect, measure
from hlf_np.experiments.plugins import Plugin, plugin_errors
from hlf_np.experiments.results import Cell, CellResult
from hlf_np.experiments.store import Store
from hlf_np.models import Model
from hlf_np.threads import use_threads
from hlf_np.training import DivergedError, EpochLog, train

TRAINED = 0.7  # the share of a model's time that a progress bar takes training for


def check_grid(config: RunConfig, source: Source | None = None) -> None:
    """Refuse a grid that needs more images than there are, or other networks, before anything is stored.

    source : that of the configuration, if it is at hand.
    """
    source = source or source_of(config)
    check_count("sizes", max(config.sizes), 1, source.train_size)
    check_count("n_test", config.n_test, 1, source.test_size)
    check_count("n_vae", config.n_vae, 0, source.class_size)
    for name in ("n_oracle", "n_transfer"):
        check_count(name, getattr(config, name), 0, source.train_size)
    replace(config.architecture, classes=len(config.classes), image_shape=source.image_shape)


def run_grid(config: RunConfig, store: Store, progress: Progress, jobs: int = 1) -> list[CellResult]:
    """Compute every cell that the store does not have, and return all of them.

    Several jobs share the threads; the numbers depend on neither. The groundwork is laid before, in this process.
    """
    cells = list(config.cells())
    missing = [number for number, cell in enumerate(cells) if not store.has(cell)]
    jobs = min(jobs, len(missing))
    if jobs == 1:
        compute = _computing(config, store, progress)
        for number in missing:
            compute(number, progress)
    elif missing:
        lay_groundwork(config, store, progress)
        missing.sort(key=lambda number: cells[number].n_train, reverse=True)  # the largest first
        threads = max(1, numba.get_num_threads() // jobs)
        work_through(
            missing,
            partial(_computing_elsewhere, config.as_json(), config.plugins, store.folder, threads),
            jobs,
            progress,
        )
    return store.results()


def _computing(config: RunConfig, store: Store, progress: Progress) -> Callable[[int, Progress], None]:
    """What computes the cell of a number in the grid, and stores it."""
    ground, cells = lay_groundwork(config, store, progress), list(config.cells())

    def compute(number: int, progress: Progress) -> None:
        with plugin_errors():
            store.save(*run_cell(config, cells[number], ground, progress))

    return compute


def _computing_elsewhere(
    settings: dict[str, Any], plugins: tuple[Plugin, ...], folder: Path, threads: int
) -> Callable[[int, Progress], None]:
    """The same in a process of its own, beside the one that holds the folder's lock and has laid the groundwork."""
    use_threads(threads)
    with plugin_errors():
        config = RunConfig.from_json(settings, plugins)
        return _computing(config, Store(folder, config), lambda *said: None)


def run_cell(config: RunConfig, cell: Cell, ground: Groundwork, progress: Progress) -> tuple[CellResult, Model | None]:
    """Train and evaluate one model; if its training diverges, it has failed, and there is none."""
    started = time.perf_counter()
    model = Model(config.architecture, cell.seed)
    done = 0.0

    def reach(share: float, what: str) -> None:
        nonlocal done
        progress(f"{cell}: {what}", cell.name, share - done)
        done = share

    def epoch_done(entry: EpochLog) -> None:
        reach(TRAINED * entry.epoch / config.epochs, f"epoch {entry.epoch}/{config.epochs}")

    reach(0, "training")
    split = ground.dataset.train.take(slice(0, cell.n_train))
    settings = training_config(config, cell.training, ground.spaces)
    try:
        log = train(model, split, seed=cell.seed, config=settings, progress=epoch_done)
    except DivergedError as failure:
        reach(1, "failed")
        return CellResult(cell, {"seconds": time.perf_counter() - started}, {}, {}, str(failure)), None
    reach(TRAINED, "attack")
    shared = (ground.spaces, ground.oracle, ground.neighbours, ground.surrogate)
    subject, trained = Subject(model, ground.dataset.test, config, *shared, log), model.state_dict()
    measurements = measure(subject, config.measurements)
    model.load_state_dict(trained)  # whatever a measurement has done to it
    examples, distances = collect(subject)
    reach(1, "done")
    measurements["seconds"] = time.perf_counter() - started
    return CellResult(cell, measurements, examples, distances), model
