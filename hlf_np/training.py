"""Training: normal, or on perturbed images found anew for every batch.

A training is a list of *perturbed shares*: each replaces a part of every batch by images from some space,
the worst that an attack finds there or random ones. Normal training has none. Adversarial training (Madry
et al., 2018), by the paper's recipe, has one that takes half of the batch. The attack sees the model in
evaluation mode (frozen batch-norm statistics), takes all its steps, and keeps the code of highest loss;
the update sees the whole batch in training mode.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np

from hlf_np import attacks
from hlf_np.arrays import Floats
from hlf_np.attacks import Attack, Start
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_batches, check_choice, check_count, check_images, check_labels
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.errors import UserError
from hlf_np.learners import Learner, learner
from hlf_np.models import Model
from hlf_np.optim import AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import ImageBall, LearnedManifold, Space, Transformations, TrueManifold


class Training(StrEnum):
    """The ways to train, by their names in the results."""

    NORMAL = "normal"
    ADVERSARIAL = "adversarial"
    ON_TRUE_MANIFOLD_ADVERSARIAL = "on_true_manifold_adversarial"
    ON_LEARNED_MANIFOLD_ADVERSARIAL = "on_learned_manifold_adversarial"
    ADVERSARIAL_TRANSFORMATIONS = "adversarial_transformations"
    RANDOM_TRANSFORMATIONS = "random_transformations"
    REGULAR_AND_ON_TRUE_MANIFOLD_ADVERSARIAL = "regular_and_on_true_manifold_adversarial"

    @property
    def label(self) -> str:
        """As a person would write it."""
        return self.value.replace("_", " ").capitalize()


class Variant(StrEnum):
    """How much of a batch is perturbed, and how thoroughly.

    HALF : half of it, by the full attack; the paper's main recipe.
    FULL : all of it.
    WEAK : half of it, by an attack that stops at the first label change.
    """

    HALF = "half"
    FULL = "full"
    WEAK = "weak"


# Where each training perturbs; those with two spaces perturb equal shares in them.
SPACES: dict[Training, tuple[type[Space], ...]] = {
    Training.NORMAL: (),
    Training.ADVERSARIAL: (ImageBall,),
    Training.ON_TRUE_MANIFOLD_ADVERSARIAL: (TrueManifold,),
    Training.ON_LEARNED_MANIFOLD_ADVERSARIAL: (LearnedManifold,),
    Training.ADVERSARIAL_TRANSFORMATIONS: (Transformations,),
    Training.RANDOM_TRANSFORMATIONS: (Transformations,),
    Training.REGULAR_AND_ON_TRUE_MANIFOLD_ADVERSARIAL: (ImageBall, TrueManifold),
}
TRAINING_ATTACK = Attack(stop_early=False)  # the paper's inner maximisation


@dataclass(frozen=True)
class Perturbation:
    """A share of every batch that is perturbed.

    space : where.
    attack : what finds the perturbations; one of no steps leaves them where it starts, at random.
    fraction : of the batch, from 0 to 1.
    """

    space: Space
    attack: Attack = TRAINING_ATTACK
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise UserError(f"the fraction of a perturbation must lie between 0 and 1, not {self.fraction}")


def perturbations(
    training: str,
    spaces: Sequence[Space] = (),
    attack: Attack = TRAINING_ATTACK,
    variant: str = "half",
) -> tuple[Perturbation, ...]:
    """The perturbed shares of a training.

    Parameters
    ----------
    training : its name.
    spaces : at least those that the training perturbs in, in any order; a missing `ImageBall` is the
        paper's.
    attack : the inner maximisation. Random transformations take none of its steps: they are what adversarial ones
        start from, so that the two differ by the adversary alone.
    variant : see `Variant`.

    Raises
    ------
    UserError : for unknown names, or if a space is missing.

    Examples
    --------
    >>> perturbations(Training.NORMAL), perturbations(Training.ADVERSARIAL)[0].space
    ((), ImageBall(epsilon=0.3, norm=<Norm.LINF: 'linf'>))
    """
    name, variant = check_choice("training", training, Training), check_choice("variant", variant, Variant)
    needed = SPACES[name]
    attack = replace(attack, stop_early=variant is Variant.WEAK)
    fraction = 1.0 if variant is Variant.FULL else 0.5
    if name is Training.RANDOM_TRANSFORMATIONS:
        attack = replace(attack, steps=0, start=Start.RANDOM, restarts=1)
    return tuple(Perturbation(_of_kind(kind, spaces, name), attack, fraction / len(needed)) for kind in needed)


def _of_kind(kind: type[Space], spaces: Sequence[Space], training: Training) -> Space:
    for space in spaces:
        if isinstance(space, kind):
            return space
    if kind is ImageBall:
        return ImageBall()
    raise UserError(f"training {training} needs to know its space: give space={kind.__name__}(...)")


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training; the defaults are the paper's.

    perturbations : the shares of each batch that are perturbed, together at most the whole batch; see
        the function `perturbations`.
    epochs, batch_size : passes over the data, images per update.
    adam : the optimiser.
    engine : what computes the steps.
    """

    perturbations: tuple[Perturbation, ...] = ()
    epochs: int = 20
    batch_size: int = 100
    adam: AdamConfig = field(default_factory=AdamConfig)
    engine: Engine = Engine.PROGRAM

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs, least=0)
        check_count("batch_size", self.batch_size)
        object.__setattr__(self, "engine", check_choice("engine", self.engine, Engine))
        if math.fsum(share.fraction for share in self.perturbations) > 1:
            raise UserError("the fractions of all perturbations add up to more than the whole batch: lower them")


@dataclass(frozen=True)
class EpochLog:
    """One epoch: its number from 1, mean loss and error of the batches as trained on, learning rate, seconds."""

    epoch: int
    loss: float
    error: float
    learning_rate: float
    seconds: float


Progress = Callable[[EpochLog], None]


class DivergedError(UserError):
    """A training that ended in numbers which are none."""

    def __init__(self, problem: str, epoch: int) -> None:
        super().__init__(f"{problem} in epoch {epoch}: lower the learning rate")


def train(
    model: Model,
    split: Split,
    training: str = "normal",
    epochs: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    config: TrainingConfig | None = None,
    progress: Progress | None = None,
    space: Space | Sequence[Space] = (),
    variant: str = "half",
) -> list[EpochLog]:
    """Train a model in place.

    Parameters
    ----------
    model : changed in place.
    split : the training data.
    training : "normal", "adversarial" or another name of `Training`.
    epochs, batch_size : see `TrainingConfig`. The last batch of an epoch may be smaller. One of a single image is
        refused if batch norm follows a linear layer: it would normalise each value by itself, and nothing be learned.
    seed : of the order of the images, and of random starts and perturbations.
    config : all settings at once; then no other setting is used.
    progress : called after each epoch.
    space : where to perturb, if the training needs more than an image: a `TrueManifold`, `LearnedManifold` or
        `Transformations`.
        Also an `ImageBall` of another size than the paper's. Several, for trainings in several spaces.
    variant : "half", "full" or "weak", see `Variant`.

    Returns
    -------
    One log entry per epoch.

    Raises
    ------
    UserError : for bad data or settings, a missing space, or a batch too small for batch norm.
    DivergedError : when the loss or, in the end, the outputs are no longer finite.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> data = hlf.data.load_fonts(n_train=200, n_test=0, difficulty="easy")
    >>> model = hlf.models.cnn()
    >>> log = train(model, data.train, epochs=3)
    >>> [entry.epoch for entry in log], log[-1].loss < log[0].loss
    ([1, 2, 3], True)
    """
    if config is None:
        spaces = (space,) if isinstance(space, Space) else space
        config = TrainingConfig(perturbations(training, spaces, variant=variant), epochs, batch_size)
    images = check_images(split.images, model.image_shape)
    split = replace(split, images=images, labels=check_labels(split.labels, model.classes, len(images)))
    if not len(split):
        raise UserError("there are no images to train on")
    check_batches(model.network, images, config.batch_size)
    learns = learner(model, config.adam, config.engine)
    log = []
    for epoch in range(config.epochs):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the loss tells, below
            entry = _epoch(model, split, config, learns, seed, epoch)
        if not math.isfinite(entry.loss):
            raise DivergedError(f"the loss became {entry.loss}", entry.epoch)
        log.append(entry)
        if progress:
            progress(entry)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = model.forward(Tensor(split.images[: config.batch_size])).data
    if not np.isfinite(logits).all():  # since the last loss was seen
        raise DivergedError("the outputs are no longer finite", config.epochs)
    return log


def _epoch(model: Model, split: Split, config: TrainingConfig, learns: Learner, seed: int, epoch: int) -> EpochLog:
    started = time.perf_counter()
    learning_rate = config.adam.rate(epoch)
    order = generator(seed, "order", epoch).permutation(len(split))
    total_loss, wrong = 0.0, 0
    for step, first in enumerate(range(0, len(split), config.batch_size)):
        batch = split.take(order[first : first + config.batch_size])
        random = generator(seed, "training attack", epoch, step)
        if config.perturbations:
            learns.store()  # the attacks see the present model
        images = perturbed_batch(model, batch, config.perturbations, random)
        losses, predictions = learns.step(images, batch.labels, learning_rate)
        total_loss += float(losses.sum())
        wrong += int((predictions != batch.labels).sum())
    learns.store()
    return EpochLog(
        epoch + 1, total_loss / len(split), wrong / len(split), learning_rate, time.perf_counter() - started
    )


def perturbed_batch(model: Model, batch: Split, shares: Sequence[Perturbation], random: np.random.Generator) -> Floats:
    """The images to train on, (N, H, W, C): the batch itself, its last part replaced, share after share."""
    images = batch.images.copy()
    left = [math.fsum(share.fraction for share in shares[i:]) for i in range(len(shares) + 1)]
    bounds = [len(batch) - round(fraction * len(batch)) for fraction in left]
    for share, (first, last) in zip(shares, pairwise(bounds), strict=True):
        if first < last:
            part = batch.take(slice(first, last))
            seed = int(random.integers(2**31))
            images[first:last] = attacks.run(model, part, share.space, share.attack, seed).images
    return images
