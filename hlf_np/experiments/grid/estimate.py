"""Estimating the duration of a run: by a short trial, corrected by the times of finished models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from hlf_np.attacks import UNSEEN_ATTACKS
from hlf_np.data.dataset import Split
from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.grid.prepare import oracle_config, spaces_of, training_config
from hlf_np.experiments.measurements import Subject, measure
from hlf_np.experiments.measurements.built_in import MANIFOLDS_AND_IMAGES, MEASUREMENTS
from hlf_np.experiments.measurements.series import EPSILONS, THOROUGH_ATTACK
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.experiments.storage.store import Store
from hlf_np.manifolds import Vae, VaeLog, count_vaes, train_vae
from hlf_np.manifolds.distance import NeighbourSearch
from hlf_np.manifolds.learning import ALL_CLASSES, stored_all_classes_vae
from hlf_np.manifolds.oracle import has_oracle
from hlf_np.models import Model
from hlf_np.spaces import Space
from hlf_np.training import DivergedError, EpochLog, TrainingConfig, train
from hlf_np.trainings import NORMAL

SECONDS_PER_UNIT = {"day": 86_400, "hour": 3600, "minute": 60}
TRIAL_EPOCHS = 4
TRIAL_IMAGES = 50  # images attacked in a trial
TRIAL_STEPS = 3  # of Carlini and Wagner's attack
# The assumed share of its steps that an attack takes: it skips misclassified images and stops early.
ATTACK_STEP_FRACTION = 0.5


@dataclass(frozen=True)
class Estimate:
    """The expected duration of what is left of a run.

    Attributes
    ----------
    seconds : mapping of str to float
        Seconds of each remaining task, by its name.
    models, finished : int
        Number of models that are left, and that are finished.
    """

    seconds: Mapping[str, float]
    models: int = 0
    finished: int = 0

    def announcement(self, threads: int) -> str:
        """Return a sentence that says what is left to do and how long it will take."""
        total = self.models + self.finished
        models = f"{self.models} of {total} models" if self.finished else f"{self.models} models"
        thread_count = f"{threads} thread{'s' * (threads > 1)}"
        basis = "the finished models" if self.finished else "a short trial"
        time_left = duration(sum(self.seconds.values()))
        return f"{models} to train and attack: {time_left} on {thread_count}, estimated from {basis}."


def estimate(
    config: RunConfig,
    store: Store,
    source: Source,
    jobs: int = 1,
    attempt: Callable[..., Mapping[str, float]] | None = None,
) -> Estimate:
    """Estimate how long the rest of a run takes.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    store : Store
        Its results folder.
    source : Source
        Its images.
    jobs : int
        Number of models that are computed at once and share the threads, also of those that are finished. The trial has
        all threads.
    attempt : callable, optional
        Estimates the seconds of every task from `config` and `source`; `trial` by default. Not called if no model is
        left.

    Returns
    -------
    Estimate
        The remaining tasks. The times that the trial gives for models are corrected by those of finished models, of
        the same training where there are any.
    """
    cells = list(config.cells())
    missing = [cell for cell in cells if not store.has(cell)]
    if not missing:
        return Estimate({}, finished=len(cells))
    trial_seconds = (attempt or trial)(config, source)
    results = [result for result in store.results() if not result.failure]
    finished = by_training(results)

    def correction(cells: Sequence[CellResult]) -> float:
        if not cells:
            return 1.0
        return sum(r.value("seconds") for r in cells) / jobs / sum(trial_seconds[r.cell.name] for r in cells)

    factors = {training: correction(finished.get(training, results)) for training in config.trainings}
    seconds = {cell.name: factors[cell.training] * trial_seconds[cell.name] for cell in missing}
    done = {cell.name for cell in cells} | {f"class {label}" for label in range(count_vaes(store.manifolds))}
    done |= {ALL_CLASSES} if stored_all_classes_vae(store.manifolds) else set()
    done |= {"oracle"} if has_oracle(store.manifolds) else set()
    done |= {"surrogate"} if any(store.models.glob("surrogate-*.npz")) else set()
    shared = {task: guess for task, guess in trial_seconds.items() if task not in done}
    return Estimate(seconds | shared, len(missing), len(cells) - len(missing))


def trial(config: RunConfig, source: Source) -> dict[str, float]:
    """Estimate the duration of every task of a run by trying it on a few images.

    It times a few epochs of each training on one batch, of which the fastest counts, and the second attack in each
    space: the first ones include compilation.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    source : Source
        Its images.

    Returns
    -------
    dict of str to float
        Seconds of each model, each VAE, the oracle and the surrogate, by the name of the task.
    """
    split = source.dataset(min(config.batch_size, source.train_size), 0).train
    vaes = tuple(Vae(config.vae) for _ in config.classes) if config.n_vae else ()
    spaces = spaces_of(config, source, vaes, Vae(config.vae) if config.n_data_vae else None)
    model = Model.from_architecture(config.architecture)

    def training_seconds(settings: TrainingConfig, model: Model, images: int) -> float:
        """Estimate the seconds of a whole training on a number of images."""
        epochs: list[EpochLog] = []
        with suppress(DivergedError):  # the run will report it for each model
            train(model, split, config=replace(settings, epochs=TRIAL_EPOCHS), progress=epochs.append)
        seconds = min((entry.seconds for entry in epochs[1:]), default=0.0)
        return seconds / len(split) * images * settings.epochs

    largest = max(config.sizes)
    seconds_of = {
        t: training_seconds(training_config(config, t, spaces), Model.from_architecture(config.architecture), largest)
        for t in config.trainings
    }
    few = split.take(slice(TRIAL_IMAGES))
    attack = replace(config.attack, restarts=1, stop_early=False)
    _try_plugin_measurements(config, few, spaces)
    evaluation = _seconds(lambda: model.predict(split.images)) * config.n_test / len(split)
    evaluation += sum(unseen.queries for unseen in UNSEEN_ATTACKS) * evaluation * config.n_unseen / config.n_test
    tracked = thorough = 0.0
    for index, space in enumerate(space for space in spaces if space.measured):
        images = config.n_attacked if index == 0 else config.n_attacked_on_manifold
        restart = _seconds(lambda space=space: attack.find(model, few, space)) / len(few)  # type: ignore[misc]
        restart *= ATTACK_STEP_FRACTION
        restarts = config.attack.restarts * restart
        evaluation += images * (restarts + _further_seconds(config, model, few, space, restarts))
        tracked += config.epochs * config.n_tracked * restart if index < 2 else 0  # in image space and on one manifold
        if index == 0 and config.attack.steps:
            radii = math.log2(len(EPSILONS))  # by bisection
            steps = radii * THOROUGH_ATTACK.steps * (1 + THOROUGH_ATTACK.targets)
            thorough = config.n_thorough * restart * steps / config.attack.steps
    seconds = {
        c.name: evaluation
        + tracked
        + seconds_of[c.training] * c.n_train / largest
        + (thorough if config.attacks_thoroughly(c) else 0)
        for c in config.cells()
    }
    if config.n_vae or config.n_data_vae:
        images_of_vae = split.images[: 2 * config.vae.batch_size]
        log: list[VaeLog] = []
        train_vae(images_of_vae, replace(config.vae, epochs=TRIAL_EPOCHS), progress=log.append)
        per_image = min(entry.seconds for entry in log[1:]) / len(images_of_vae) * config.vae.epochs
        if config.n_vae:
            seconds |= {f"class {label}": per_image * config.n_vae for label in range(len(config.classes))}
        if config.n_data_vae:
            seconds[ALL_CLASSES] = per_image * config.n_data_vae
    if config.n_vae and config.n_oracle:
        oracle = oracle_config(config)
        oracle_model = Model.from_architecture(oracle.architecture)
        seconds["oracle"] = training_seconds(oracle.training, oracle_model, config.n_oracle)
    if config.n_transfer:
        seconds["surrogate"] = training_seconds(training_config(config, NORMAL, ()), model, config.n_transfer)
    return seconds


def _further_seconds(config: RunConfig, model: Model, few: Split, space: Space, attack: float) -> float:
    """Estimate the seconds for each image of the attacks by transfer and of Carlini and Wagner, if the run has them.

    `attack` is the number of seconds of the run's own attack, which transfer repeats on the surrogate.
    """
    if type(space) not in MANIFOLDS_AND_IMAGES:
        return 0.0
    seconds = attack if config.n_transfer else 0.0
    if config.carlini_wagner:
        short = replace(config.carlini_wagner, iterations=TRIAL_STEPS)
        step = _seconds(lambda: short.find(model, few, space)) / len(few) / TRIAL_STEPS
        seconds += config.carlini_wagner.iterations * step
    return seconds


def _try_plugin_measurements(config: RunConfig, few: Split, spaces: Sequence[Space]) -> None:
    """Compute the measurements of plugins once on a few images, so that their errors show up before the run.

    They get copies, as they may change what they measure.
    """
    of_plugins = [measurement for measurement in config.measurements if measurement not in MEASUREMENTS]
    if not of_plugins:
        return
    model, few, count = Model.from_architecture(config.architecture), few.take(np.arange(len(few))), len(few)
    few.images.flags.writeable = False  # as in the run
    small = replace(config, n_test=count, n_attacked=count, n_attacked_on_manifold=count, n_projected=0, n_tracked=0)
    oracle, surrogate = (model if needed else None for needed in (config.n_vae and config.n_oracle, config.n_transfer))
    subject = Subject(model, few, small, spaces, oracle, NeighbourSearch(few.images), surrogate)
    measure(subject, of_plugins)


def _seconds(task: Callable[[], object]) -> float:
    """Time the second execution of a task; the first includes compilation."""
    task()
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def duration(seconds: float) -> str:
    """Format a duration for people, such as "about 50 minutes", rounded by at most an eighth."""
    for unit, unit_seconds in SECONDS_PER_UNIT.items():
        if seconds >= 2 * unit_seconds:
            number = seconds / unit_seconds
            return f"about {round(number) if number >= 4 else round(2 * number) / 2:g} {unit}s"
    return f"about {10 * round(seconds / 10)} seconds" if seconds >= 15 else "a few seconds"
