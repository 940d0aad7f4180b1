"""Working through the grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from hlf_np.spaces import ImageBall, Space, Transformations, TrueManifold
from hlf_np.training import SPACES, EpochLog, Training, TrainingConfig, perturbations, train

# Called with what goes on and how much work (in image passes) has been done since the last call.
Progress = Callable[[str, float], None]

# The measurement of the success rate of attacks in a space.
REGULAR = "regular_success"
MEASURED: dict[type[Space], str] = {ImageBall: REGULAR, TrueManifold: "on_true_manifold_success"}


def check_grid(config: RunConfig) -> None:
    """Refuse a grid that needs images or spaces that there are not, before anything is stored."""
    fonts = fonts_of(config)
    check_count("sizes", max(config.sizes), 1, fonts.train_size)
    check_count("n_test", config.n_test, 1, fonts.test_size)
    for training in config.trainings:
        perturbations(training, spaces_of(config, fonts))


def fonts_of(config: RunConfig) -> Fonts:
    """The generator of a run's images."""
    return Fonts(load_prototypes(), config.difficulty, config.data_seed)


def spaces_of(config: RunConfig, fonts: Fonts) -> tuple[Space, ...]:
    """The spaces that models are trained and attacked in: whoever adds a space to runs adds it here."""
    return (
        ImageBall(config.epsilon),
        TrueManifold(fonts, epsilon=config.latent_epsilon),
        Transformations(fonts.box, epsilon=config.latent_epsilon),
    )


def load_dataset(config: RunConfig, fonts: Fonts) -> Dataset:
    """As many images as the largest cell needs.

    Raises
    ------
    UserError : if the dataset is too small.
    """
    return fonts.dataset(max(config.sizes), config.n_test)


def training_config(config: RunConfig, training: Training, spaces: Sequence[Space]) -> TrainingConfig:
    """How the models of a training are trained."""
    shares = perturbations(training, spaces, config.training_attack)
    return TrainingConfig(shares, config.epochs, config.batch_size, config.adam)


def classes_of(config: RunConfig) -> tuple[str, ...]:
    """The names of the dataset's classes."""
    return LETTERS


def epoch_work(config: RunConfig, cell: Cell) -> float:
    """The cost of an epoch in forward passes of one image; a backward pass counts as two."""
    attacked = SPACES[cell.training] and cell.training is not Training.RANDOM_TRANSFORMATIONS
    return cell.n_train * (3 + (config.training_attack.steps if attacked else 0))  # 2 per step, for half of the images


def evaluation_work(config: RunConfig, cell: Cell) -> float:
    """The cost of testing and attacking; normally trained models give in after a few steps."""
    steps = config.attack.steps * (0.1 if cell.training is Training.NORMAL else 0.6)
    attacked = config.n_attacked + config.n_attacked_on_manifold
    return config.n_test + attacked * config.attack.restarts * 2 * steps


def total_work(config: RunConfig, store: Store) -> float:
    """The cost of all cells that are not finished."""
    missing = (cell for cell in config.cells() if not store.has(cell))
    return sum(config.epochs * epoch_work(config, cell) + evaluation_work(config, cell) for cell in missing)


def run_grid(config: RunConfig, store: Store, progress: Progress) -> list[CellResult]:
    """Compute every cell that the store does not have, and return all of them."""
    missing = [cell for cell in config.cells() if not store.has(cell)]
    if missing:
        fonts = fonts_of(config)
        dataset, spaces = load_dataset(config, fonts), spaces_of(config, fonts)
        for cell in missing:
            store.save(*run_cell(config, cell, dataset, spaces, progress))
    return store.results()


def run_cell(
    config: RunConfig, cell: Cell, dataset: Dataset, spaces: Sequence[Space], progress: Progress
) -> tuple[CellResult, Model]:
    """Train and evaluate one model."""
    started = time.perf_counter()
    model = Model(replace(config.architecture, classes=len(dataset.classes)), cell.seed)

    def epoch_done(entry: EpochLog) -> None:
        progress(f"{cell}: epoch {entry.epoch}/{config.epochs}", epoch_work(config, cell))

    progress(f"{cell}: training", 0)
    split = dataset.train.take(slice(0, cell.n_train))
    settings = training_config(config, cell.training, spaces)
    log = train(model, split, seed=cell.seed, config=settings, progress=epoch_done)
    progress(f"{cell}: attack", 0)
    measurements, examples = evaluate(model, dataset.test, config, spaces)
    progress(f"{cell}: done", evaluation_work(config, cell))
    measurements = replace(
        measurements,
        train_loss=log[-1].loss if log else measurements.train_loss,
        seconds=time.perf_counter() - started,
    )
    return CellResult(cell, measurements, examples), model


def evaluate(model: Model, test: Split, config: RunConfig, spaces: Sequence[Space]) -> tuple[Measurements, Examples]:
    """Test error of all test images; success rates and regular examples from attacks on the first of them."""
    check_labels(test.labels, model.classes, len(test))
    correct = model.predict(test.images) == test.labels
    rates: dict[str, float] = {}
    for space in spaces:
        name = MEASURED.get(type(space))
        if name is None:
            continue
        count = config.n_attacked if name == REGULAR else config.n_attacked_on_manifold
        attacked = test.take(np.flatnonzero(correct[:count]))
        result = attacks.run(model, attacked, space, config.attack, config.attack_seed)
        rate = SuccessRate.of(result)
        rates |= {name: rate.average, f"{name}_worst": rate.worst}
        if name == REGULAR:
            shown = first_of_each_class(attacked.labels, result.success)[: config.n_examples]
            images = result.images[shown]
            examples = Examples(attacked.images[shown], images, attacked.labels[shown], model.predict(images))
    return Measurements(float(1 - correct.mean()), **rates), examples


def first_of_each_class(labels: Integers, allowed: Booleans) -> Integers:
    """Indices of the first allowed image of every class that has one."""
    candidates = np.flatnonzero(allowed)
    _, first = np.unique(labels[candidates], return_index=True)
    return candidates[first]
