"""Working through the grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from hlf_np.checks import check_count
from hlf_np.experiments.config import Cell, RunConfig
from hlf_np.experiments.evaluation import evaluate
from hlf_np.experiments.groundwork import Groundwork, Progress, lay_groundwork, source_of
from hlf_np.experiments.source import Source
from hlf_np.experiments.store import CellResult, Store
from hlf_np.experiments.work import epoch_work, evaluation_work
from hlf_np.models import Model
from hlf_np.spaces import Space
from hlf_np.training import EpochLog, Training, TrainingConfig, perturbations, train


def check_grid(config: RunConfig, source: Source | None = None) -> None:
    """Refuse a grid that needs more images than there are, or other networks, before anything is stored.

    source : that of the configuration, if it is at hand.
    """
    source = source or source_of(config)
    check_count("sizes", max(config.sizes), 1, source.train_size)
    check_count("n_test", config.n_test, 1, source.test_size)
    check_count("n_vae", config.n_vae, 0, source.class_size)
    check_count("n_oracle", config.n_oracle, 0, source.train_size)
    replace(config.architecture, classes=len(config.classes), image_shape=source.image_shape)


def training_config(config: RunConfig, training: Training, spaces: Sequence[Space]) -> TrainingConfig:
    """How the models of a training are trained."""
    shares = perturbations(training, spaces, config.training_attack)
    return TrainingConfig(shares, config.epochs, config.batch_size, config.adam)


def run_grid(config: RunConfig, store: Store, progress: Progress) -> list[CellResult]:
    """Compute every cell that the store does not have, and return all of them."""
    missing = [cell for cell in config.cells() if not store.has(cell)]
    if missing:
        ground = lay_groundwork(config, store, progress)
        for cell in missing:
            store.save(*run_cell(config, cell, ground, progress))
    return store.results()


def run_cell(config: RunConfig, cell: Cell, ground: Groundwork, progress: Progress) -> tuple[CellResult, Model]:
    """Train and evaluate one model."""
    started = time.perf_counter()
    shape: tuple[int, int, int] = ground.dataset.test.images.shape[1:]
    architecture = replace(config.architecture, classes=len(ground.dataset.classes), image_shape=shape)
    model = Model(architecture, cell.seed)

    def epoch_done(entry: EpochLog) -> None:
        progress(f"{cell}: epoch {entry.epoch}/{config.epochs}", epoch_work(config, cell))

    progress(f"{cell}: training", 0)
    split = ground.dataset.train.take(slice(0, cell.n_train))
    settings = training_config(config, cell.training, ground.spaces)
    log = train(model, split, seed=cell.seed, config=settings, progress=epoch_done)
    progress(f"{cell}: attack", 0)
    measurements, examples, distances = evaluate(
        model, ground.dataset.test, config, ground.spaces, ground.oracle, ground.neighbours
    )
    progress(f"{cell}: done", evaluation_work(config, cell))
    measurements = replace(
        measurements,
        train_loss=log[-1].loss if log else measurements.train_loss,
        seconds=time.perf_counter() - started,
    )
    return CellResult(cell, measurements, examples, distances), model
