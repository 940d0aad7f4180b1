"""Computing the cells of the grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.configuration.plugins import Plugin, plugin_errors
from hlf_np.experiments.grid.jobs import Progress, work_through
from hlf_np.experiments.grid.prepare import Prepared, prepare, source_of, training_config
from hlf_np.experiments.measurements import (
    SUCCESS_BY_EPSILON,
    EpochTracker,
    Subject,
    attack_series,
    collect,
    measure,
    thorough_success,
)
from hlf_np.experiments.results import Cell, CellResult
from hlf_np.experiments.storage.store import Store
from hlf_np.models import Model
from hlf_np.support.checks import check_count
from hlf_np.support.threads import use_threads
from hlf_np.training import DivergedError, EpochLog, train

TRAINING_TIME_FRACTION = 0.7  # assumed share of training in the time of a cell, for the progress bar


def check_grid(config: RunConfig, source: Source | None = None) -> None:
    """Check that the images suffice for a grid and fit its networks, before anything is stored.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    source : Source, optional
        The source of its images, if it is already open.

    Raises
    ------
    UserError
        If there are too few images, or they do not fit the architecture.
    """
    source = source or source_of(config)
    check_count("sizes", max(config.sizes), 1, source.train_size)
    check_count("n_test", config.n_test, 1, source.test_size)
    check_count("n_vae", config.n_vae, 0, source.class_size)
    for name in ("n_oracle", "n_transfer"):
        check_count(name, getattr(config, name), 0, source.train_size)
    replace(config.architecture, classes=len(config.classes), image_shape=source.image_shape)


def run_grid(config: RunConfig, store: Store, progress: Progress, jobs: int = 1) -> list[CellResult]:
    """Compute the cells that the store does not have yet.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    store : Store
        Its results folder.
    progress : callable
        Receives the progress of all tasks.
    jobs : int
        Number of processes, which share the threads. The results depend neither on it nor on the number of threads.

    Returns
    -------
    list of CellResult
        All cells of the grid.
    """
    cells = list(config.cells())
    missing = [index for index, cell in enumerate(cells) if not store.has(cell)]
    jobs = min(jobs, len(missing))
    if jobs == 1:
        compute = _cell_function(config, store, progress)
        for index in missing:
            compute(index, progress)
    elif missing:
        prepare(config, store, progress)  # once, in this process
        missing.sort(key=lambda index: cells[index].n_train, reverse=True)  # the largest first
        threads = max(1, numba.get_num_threads() // jobs)
        work_through(
            missing,
            partial(_worker_cell_function, config.as_json(), config.plugins, store.folder, threads),
            jobs,
            progress,
        )
    return store.results()


def _cell_function(config: RunConfig, store: Store, progress: Progress) -> Callable[[int, Progress], None]:
    """Return a function that computes and stores the cell with a given index in the grid."""
    prepared, cells = prepare(config, store, progress), list(config.cells())

    def compute(index: int, progress: Progress) -> None:
        with plugin_errors():
            store.save(*run_cell(config, cells[index], prepared, progress))

    return compute


def _worker_cell_function(
    settings: dict[str, Any], plugins: tuple[Plugin, ...], folder: Path, threads: int
) -> Callable[[int, Progress], None]:
    """Do what `_cell_function` does in a worker process, whose parent holds the lock and has called `prepare`."""
    use_threads(threads)
    with plugin_errors():
        config = RunConfig.from_json(settings, plugins)
        return _cell_function(config, Store(folder, config), lambda *progress: None)


def run_cell(config: RunConfig, cell: Cell, prepared: Prepared, progress: Progress) -> tuple[CellResult, Model | None]:
    """Train one model, attack it and measure it.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    cell : Cell
        The cell to compute.
    prepared : Prepared
        What all cells share.
    progress : callable
        Receives the progress of the cell.

    Returns
    -------
    result : CellResult
        The results; they name the reason if the training diverged.
    model : Model or None
        The trained model; None if the training diverged.
    """
    started = time.perf_counter()
    model = Model.from_architecture(config.architecture, cell.seed)
    done = 0.0

    def report(share: float, step: str) -> None:
        nonlocal done
        progress(f"{cell}: {step}", cell.name, share - done)
        done = share

    tracker = None
    if config.n_tracked:
        count, once = config.n_tracked, replace(config.attack, restarts=1)
        tracked = replace(config, attack=once, n_attacked=count, n_attacked_on_manifold=count)
        tracker = EpochTracker(prepared.dataset.test, tracked, prepared.test_spaces)

    def epoch_done(entry: EpochLog) -> None:
        if tracker:
            tracker.measure(model)
        report(TRAINING_TIME_FRACTION * entry.epoch / config.epochs, f"epoch {entry.epoch}/{config.epochs}")

    report(0, "training")
    split = prepared.dataset.train.take(slice(0, cell.n_train))
    settings = training_config(config, cell.training, prepared.training_spaces)
    try:
        log = train(model, split, seed=cell.seed, config=settings, progress=epoch_done)
    except DivergedError as failure:
        report(1, "failed")
        return CellResult(cell, {"seconds": time.perf_counter() - started}, {}, {}, str(failure)), None
    report(TRAINING_TIME_FRACTION, "attack")
    shared = (prepared.test_spaces, prepared.oracle, prepared.neighbours, prepared.surrogate)
    subject, trained = Subject(model, prepared.dataset.test, config, *shared, log), model.state_dict()
    measurements = measure(subject, config.measurements)
    model.load_state_dict(trained)  # in case a measurement has changed it
    examples, distances = collect(subject)
    series = (tracker.series() if tracker else {}) | attack_series(subject)
    if config.attacks_thoroughly(cell):
        attacked = subject.test.take(np.flatnonzero(subject.correct)[: config.n_thorough])
        series[SUCCESS_BY_EPSILON] = thorough_success(model, attacked, config.attack_seed)
    report(1, "done")
    measurements["seconds"] = time.perf_counter() - started
    return CellResult(cell, measurements, examples, distances, series=series), model
