"""Working through the grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hlf_np import attacks
from hlf_np.arrays import Booleans, Integers
from hlf_np.attacks import SuccessRate
from hlf_np.checks import check_count, check_labels
from hlf_np.data.dataset import Dataset, Split
from hlf_np.data.fonts import LETTERS, Fonts, load_prototypes
from hlf_np.experiments.config import Cell, RunConfig
from hlf_np.experiments.store import CellResult, Examples, Measurements, Store
from hlf_np.models import Model
from hlf_np.spaces import ImageBall
from hlf_np.training import EpochLog, Training, train

# Called with what goes on and how much work (in image passes) has been done since the last call.
Progress = Callable[[str, float], None]


def check_sizes(config: RunConfig) -> None:
    """Refuse a grid that needs more images than there are, before anything is stored."""
    fonts = _fonts(config)
    check_count("sizes", max(config.sizes), 1, fonts.train_size)
    check_count("n_test", config.n_test, 1, fonts.test_size)


def _fonts(config: RunConfig) -> Fonts:
    return Fonts(load_prototypes(), config.difficulty, config.data_seed)


def load_dataset(config: RunConfig) -> Dataset:
    """As many images as the largest cell needs.

    Raises
    ------
    UserError : if the dataset is too small.
    """
    return _fonts(config).dataset(max(config.sizes), config.n_test)


def classes_of(config: RunConfig) -> tuple[str, ...]:
    """The names of the dataset's classes."""
    return LETTERS


def epoch_work(config: RunConfig, cell: Cell) -> float:
    """The cost of an epoch in forward passes of one image; a backward pass counts as two."""
    attacked = 0 if cell.training is Training.NORMAL else config.training_config(cell).adversarial_fraction
    return cell.n_train * (3 + attacked * 2 * config.training_attack.steps)


def evaluation_work(config: RunConfig, cell: Cell) -> float:
    """The cost of testing and attacking; normally trained models give in after a few steps."""
    steps = config.attack.steps * (0.1 if cell.training is Training.NORMAL else 0.6)
    return config.n_test + config.n_attacked * config.attack.restarts * 2 * steps


def total_work(config: RunConfig, store: Store) -> float:
    """The cost of all cells that are not finished."""
    missing = (cell for cell in config.cells() if not store.has(cell))
    return sum(config.epochs * epoch_work(config, cell) + evaluation_work(config, cell) for cell in missing)


def run_grid(config: RunConfig, store: Store, progress: Progress) -> list[CellResult]:
    """Compute every cell that the store does not have, and return all of them."""
    missing = [cell for cell in config.cells() if not store.has(cell)]
    if missing:
        dataset = load_dataset(config)
        for cell in missing:
            store.save(*run_cell(config, cell, dataset, progress))
    return store.results()


def run_cell(config: RunConfig, cell: Cell, dataset: Dataset, progress: Progress) -> tuple[CellResult, Model]:
    """Train and evaluate one model."""
    started = time.perf_counter()
    model = Model(replace(config.architecture, classes=len(dataset.classes)), cell.seed)

    def epoch_done(entry: EpochLog) -> None:
        progress(f"{cell}: epoch {entry.epoch}/{config.epochs}", epoch_work(config, cell))

    progress(f"{cell}: training", 0)
    training = dataset.train.take(slice(0, cell.n_train))
    log = train(model, training, seed=cell.seed, config=config.training_config(cell), progress=epoch_done)
    progress(f"{cell}: attack", 0)
    measurements, examples = evaluate(model, dataset.test, config)
    progress(f"{cell}: done", evaluation_work(config, cell))
    measurements = replace(
        measurements,
        train_loss=log[-1].loss if log else measurements.train_loss,
        seconds=time.perf_counter() - started,
    )
    return CellResult(cell, measurements, examples), model


def evaluate(model: Model, test: Split, config: RunConfig) -> tuple[Measurements, Examples]:
    """Test error of all test images; success rate and examples from attacks on the first of them."""
    check_labels(test.labels, model.classes, len(test))
    correct = model.predict(test.images) == test.labels
    test_error = float(1 - correct.mean())
    attacked = test.take(np.flatnonzero(correct[: config.n_attacked]))
    if not len(attacked):
        return Measurements(test_error), Examples(attacked.images, attacked.images, attacked.labels, attacked.labels)
    result = attacks.run(model, attacked, ImageBall(config.epsilon), config.attack, config.attack_seed)
    rate = SuccessRate.of(result)
    shown = first_of_each_class(attacked.labels, result.success)[: config.n_examples]
    examples = Examples(
        attacked.images[shown],
        result.images[shown],
        attacked.labels[shown],
        model.predict(result.images[shown]),
    )
    return Measurements(test_error, rate.average, regular_success_worst=rate.worst), examples


def first_of_each_class(labels: Integers, allowed: Booleans) -> Integers:
    """Indices of the first allowed image of every class that has one."""
    candidates = np.flatnonzero(allowed)
    _, first = np.unique(labels[candidates], return_index=True)
    return candidates[first]
