"""How long a run takes: a short trial, corrected by what finished models took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from hlf_np.data.dataset import Split
from hlf_np.data.source import Source
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.groundwork import oracle_config, spaces_of, training_config
from hlf_np.experiments.measurements import MEASUREMENTS, Subject, measure
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.experiments.store import Store
from hlf_np.manifolds import Vae, VaeLog, count_vaes, train_vae
from hlf_np.manifolds.oracle import has_oracle
from hlf_np.models import Model
from hlf_np.spaces import Space
from hlf_np.training import DivergedError, EpochLog, TrainingConfig, train
from hlf_np.trainings import NORMAL

UNITS = {"day": 86_400, "hour": 3600, "minute": 60}
TRIAL_IMAGES = 50  # that are attacked
ATTACKED = 0.5  # the share of steps that an attack takes: it leaves out misclassified images, and stops early


@dataclass(frozen=True)
class Estimate:
    """Seconds for every task that is left, by its name; models, finished : how many are left and how many there are.

    It is a guess as long as no model is finished.
    """

    seconds: Mapping[str, float]
    models: int = 0
    finished: int = 0

    def announcement(self, threads: int) -> str:
        """What is about to be done, and how long that takes."""
        whole = self.models + self.finished
        models = f"{self.models} of {whole} models" if self.finished else f"{self.models} models"
        on = f"{threads} thread{'s' * (threads > 1)}"
        basis = "by what the others took" if self.finished else "a guess from a short trial"
        return f"{models} to train and attack: {duration(sum(self.seconds.values()))} on {on}, {basis}."


def estimate(
    config: RunConfig, store: Store, source: Source, attempt: Callable[..., Mapping[str, float]] | None = None
) -> Estimate:
    """What is left of a run, and how long it takes; without a trial if nothing is left.

    attempt : guesses the seconds of every task, as `trial` does.
    """
    cells = list(config.cells())
    missing = [cell for cell in cells if not store.has(cell)]
    if not missing:
        return Estimate({}, finished=len(cells))
    guessed = (attempt or trial)(config, source)
    results = [result for result in store.results() if not result.failure]
    finished = by_training(results)

    def correction(found: Sequence[CellResult]) -> float:
        return sum(r.value("seconds") for r in found) / sum(guessed[r.cell.name] for r in found) if found else 1.0

    factors = {training: correction(finished.get(training, results)) for training in config.trainings}
    seconds = {cell.name: factors[cell.training] * guessed[cell.name] for cell in missing}
    done = {cell.name for cell in cells} | {f"class {label}" for label in range(count_vaes(store.manifolds))}
    done |= {"oracle"} if has_oracle(store.manifolds) else set()
    done |= {"surrogate"} if any(store.models.glob("surrogate-*.npz")) else set()
    shared = {task: guess for task, guess in guessed.items() if task not in done}
    return Estimate(seconds | shared, len(missing), len(cells) - len(missing))


def trial(config: RunConfig, source: Source) -> dict[str, float]:
    """Seconds of every task of a run, by its name: of each model, of each VAE, of the oracle and of the surrogate.

    From the second epoch of every training on a batch of images, and every attack on some of them: the first compiles.
    """
    split = source.dataset(min(config.batch_size, source.train_size), 0).train
    vaes = tuple(Vae(config.vae) for _ in config.classes) if config.n_vae else ()
    spaces = spaces_of(config, source, vaes)
    model = Model(config.architecture)

    def whole(settings: TrainingConfig, model: Model, images: int) -> float:
        """Of a training on so many images."""
        epochs: list[EpochLog] = []
        with suppress(DivergedError):  # which the run will tell of each model
            train(model, split, config=replace(settings, epochs=2), progress=epochs.append)
        return epochs[-1].seconds / len(split) * images * settings.epochs if epochs else 0.0

    largest = max(config.sizes)
    training = {
        t: whole(training_config(config, t, spaces), Model(config.architecture), largest) for t in config.trainings
    }
    few = split.take(slice(TRIAL_IMAGES))
    attack = replace(config.attack, restarts=1, stop_early=False)
    _try_additions(config, model, few, spaces)
    evaluation = _seconds(lambda: model.predict(split.images)) * config.n_test / len(split)
    for number, space in enumerate(space for space in spaces if space.measured):
        images = config.n_attacked if number == 0 else config.n_attacked_on_manifold
        restart = _seconds(lambda space=space: attack.find(model, few, space)) / len(few)  # type: ignore[misc]
        evaluation += ATTACKED * images * config.attack.restarts * restart
    found = {cell.name: evaluation + training[cell.training] * cell.n_train / largest for cell in config.cells()}
    if config.n_vae:
        letters = split.images[: 2 * config.vae.batch_size]
        log: list[VaeLog] = []
        train_vae(letters, replace(config.vae, epochs=2), progress=log.append)
        vae = log[-1].seconds * config.n_vae / len(letters) * config.vae.epochs
        found |= {f"class {label}": vae for label in range(len(config.classes))}
    if config.n_vae and config.n_oracle:
        recipe = oracle_config(config)
        found["oracle"] = whole(recipe.training, Model(recipe.architecture), config.n_oracle)
    if config.n_transfer:
        found["surrogate"] = whole(training_config(config, NORMAL, ()), model, config.n_transfer)
    return found


def _try_additions(config: RunConfig, model: Model, few: Split, spaces: Sequence[Space]) -> None:
    """Measure what plugins add once, on a few images, so that what is wrong with it shows before hours have passed."""
    count = len(few)
    small = replace(config, n_test=count, n_attacked=count, n_attacked_on_manifold=count, n_projected=0)
    oracle, surrogate = (model if asked else None for asked in (config.n_vae and config.n_oracle, config.n_transfer))
    subject = Subject(model, few, small, spaces, oracle, few.images, surrogate)
    measure(subject, [added for added in config.measurements if added not in MEASUREMENTS])


def _seconds(task: Callable[[], object]) -> float:
    """Of a task, the second time: the first compiles."""
    task()
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def duration(seconds: float) -> str:
    """A time as one says it, with an error of at most an eighth: "about 50 minutes"."""
    for unit, length in UNITS.items():
        if seconds >= 2 * length:
            number = seconds / length
            return f"about {round(number) if number >= 4 else round(2 * number) / 2:g} {unit}s"
    return f"about {10 * round(seconds / 10)} seconds" if seconds >= 15 else "a few seconds"
