"""Training: normal, or on perturbed images found anew for every batch.

A training (`trainings` has those with names) is a loss and a list of *perturbed shares*: each replaces a part of every
batch by images from some space, the worst that an attack finds there or random ones. Normal training has none.
Adversarial training (Madry et al., 2018), by the paper's recipe, has one that takes half of the batch. The attack sees
the model in evaluation mode (frozen batch-norm statistics), takes all its steps, and keeps the code of highest loss;
the update sees the whole batch in training mode.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hlf_np.arrays import Floats, Integers, batches
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_batches, check_choice, check_count
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.errors import UserError
from hlf_np.learners import Learner, learner
from hlf_np.losses import CROSS_ENTROPY, Loss
from hlf_np.models import Model
from hlf_np.optim import AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import Space
from hlf_np.trainings import Perturbation, Training, training_of


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training; the defaults are the paper's.

    perturbations : the shares of each batch that are perturbed, together at most the whole batch; see
        `Training.perturbations`.
    loss : what is minimised.
    epochs, batch_size : passes over the data, images per update.
    adam : the optimiser.
    engine : what computes the steps.
    """

    perturbations: tuple[Perturbation, ...] = ()
    epochs: int = 20
    batch_size: int = 100
    adam: AdamConfig = field(default_factory=AdamConfig)
    engine: Engine = Engine.PROGRAM
    loss: Loss = CROSS_ENTROPY

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
    training: str | Training = "normal",
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
    training : "normal", "adversarial" or another name in `trainings.TRAININGS`, or a `Training` of your own.
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
        spaces, chosen = (space,) if isinstance(space, Space) else space, training_of(training)
        shares = chosen.perturbations(spaces, variant=variant)
        config = TrainingConfig(shares, epochs, batch_size, loss=chosen.loss)
    split = split.checked(model.classes, model.image_shape)
    if not len(split):
        raise UserError("there are no images to train on")
    check_batches(model.network, split.images, config.batch_size)
    learns = learner(model, config.adam, config.loss, config.engine)
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
    total_loss, wrong = 0.0, 0.0
    for step, rows in enumerate(batches(len(split), config.batch_size)):
        batch = split.take(order[rows])
        random = generator(seed, "training attack", epoch, step)
        if config.perturbations:
            learns.store()  # the attacks see the present model
        images = perturbed_batch(model, batch, config.perturbations, random)
        losses, predictions = learns.step(batch.images, images, batch.labels, learning_rate)
        total_loss += float(losses.sum())
        wrong += _errors(predictions, batch.labels)
    learns.store()
    seconds = time.perf_counter() - started
    return EpochLog(epoch + 1, total_loss / len(split), wrong / len(split), learning_rate, seconds)


def _errors(predictions: Integers, labels: Integers) -> float:
    """How many of a batch's images (N,) are misclassified, on average over K evaluations, (K N,)."""
    evaluations, rest = divmod(len(predictions), len(labels))
    if rest or not evaluations:  # a loss that evaluates the model on other images
        return math.nan
    return float((predictions.reshape(evaluations, -1) != labels).sum()) / evaluations


def perturbed_batch(model: Model, batch: Split, shares: Sequence[Perturbation], random: np.random.Generator) -> Floats:
    """The images to train on, (N, H, W, C): the batch itself, its last part replaced, share after share."""
    images = batch.images.copy()
    left = [math.fsum(share.fraction for share in shares[i:]) for i in range(len(shares) + 1)]
    bounds = [len(batch) - round(fraction * len(batch)) for fraction in left]
    for share, (first, last) in zip(shares, pairwise(bounds), strict=True):
        if first < last:
            part = batch.take(slice(first, last))
            seed = int(random.integers(2**31))
            found = share.attack.find(model, part, share.space, seed).images
            if found.shape != images[first:last].shape or not (found.min() >= 0 and found.max() <= 1):
                raise UserError(f"attack {share.attack.name} must give an image in [0, 1] for each, in their order")
            images[first:last] = found
    return images
