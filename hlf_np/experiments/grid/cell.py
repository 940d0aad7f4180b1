"""Computing one cell of the grid."""

from __future__ import annotations

import time
from dataclasses import replace

import numba
import numpy as np

from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.grid.prepare import Prepared, Progress, training_config
from hlf_np.experiments.measurements import Subject, measure
from hlf_np.experiments.measurements.series import SUCCESS_BY_EPSILON, EpochTracker, attack_series, thorough_success
from hlf_np.experiments.measurements.subject import collect
from hlf_np.experiments.results import Cell, CellResult
from hlf_np.kernels.numba_internals.processor import SHAPE
from hlf_np.models import Model
from hlf_np.models.model import NotANumberError
from hlf_np.support.version import code_version
from hlf_np.training import DivergedError, EpochLog, train

TRAINING_TIME_FRACTION = 0.7  # assumed share of training in the time of a cell, for the progress bar
COMPUTED_BY = f"hlf_np {code_version()}, Numba {numba.__version__}, kernels for {SHAPE.name}"


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
    model.class_names = config.classes
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
            with np.errstate(over="ignore", invalid="ignore"):  # weights that diverge are reported below
                tracker.measure(model)
        report(TRAINING_TIME_FRACTION * entry.epoch / config.epochs, f"epoch {entry.epoch}/{config.epochs}")

    report(0, "training")
    split = prepared.dataset.train.take(slice(0, cell.n_train))
    settings = training_config(config, cell.training, prepared.training_spaces)
    try:
        log = train(model, split, seed=cell.seed, config=settings, progress=epoch_done)
        report(TRAINING_TIME_FRACTION, "attack")
        shared = (prepared.test_spaces, prepared.oracle, prepared.neighbours, prepared.surrogate)
        subject = Subject(model, prepared.dataset.test, config, *shared, log)
        measurements = measure(subject, config.measurements)
    except (DivergedError, NotANumberError) as failure:
        report(1, "failed")
        seconds = {"seconds": time.perf_counter() - started}
        return CellResult(cell, seconds, {}, {}, str(failure), computed_by=COMPUTED_BY), None
    examples, distances = collect(subject)
    series = (tracker.series() if tracker else {}) | attack_series(subject)
    if config.attacks_thoroughly(cell):
        attacked = subject.test.take(np.flatnonzero(subject.correct)[: config.n_thorough])
        series[SUCCESS_BY_EPSILON] = thorough_success(model, attacked, config.attack_seed)
    report(1, "done")
    measurements["seconds"] = time.perf_counter() - started
    return CellResult(cell, measurements, examples, distances, series=series, computed_by=COMPUTED_BY), model
