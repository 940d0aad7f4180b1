"""The training loop, `train`. Kinds of training are declared in `trainings`; `train_step` has a single step.

A training is a loss and a list of *perturbations* (`trainings.Perturbation`). Each replaces a share of every batch by
images from some space: adversarial examples, computed anew for every batch, or random ones. Normal training has none;
adversarial training (Madry et al., 2018), by the paper's recipe, has one that replaces half of the batch. For a batch:

    images = perturbed_batch(model, batch, perturbations)     # attacks, model in evaluation mode
    losses = train_step.step(batch.images, images, labels)    # update, model in training mode

The attack sees frozen batch-norm statistics, takes all its steps, and keeps the code of highest loss.

Two details are those of the paper's released code. If the images do not fill the last batch of an epoch, it is filled
with the first ones of that epoch: all batches have the same size. The learning rate falls at every step:

    learning_rate decay^(epoch + 1 + fraction of the epoch),   epoch = 0, 1, ...
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hlf_np.attacks import AttackResult
from hlf_np.attacks.attack import check_norm
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split, check_split
from hlf_np.engine import Engine
from hlf_np.layers.layer import check_batch_of_one
from hlf_np.losses import CROSS_ENTROPY, Loss
from hlf_np.models import Model
from hlf_np.optim import AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import ImageBall, Space
from hlf_np.spaces.space import checked_perturbable
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import check_choice, check_fields, store_counts
from hlf_np.support.errors import UserError
from hlf_np.train_step import TrainStep, make_train_step
from hlf_np.trainings import Perturbation, Training, Variant, training_of


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training. The defaults are the paper's.

    Parameters
    ----------
    perturbations : tuple of Perturbation
        The perturbed shares of each batch, together at most the whole batch; see `Training.perturbations`.
    epochs : int
        Number of passes over the data.
    batch_size : int
        Images per update.
    adam : AdamConfig
        The settings of the optimiser.
    engine : {"program", "autodiff"}
        The implementation of the training step.
    loss : Loss
        The loss to minimise.
    samples : Space, optional
        The manifold from which as many images again are drawn, once, and added to the training data.

    Raises
    ------
    UserError
        If a setting is out of range.
    """

    perturbations: tuple[Perturbation, ...] = ()
    epochs: int = 20
    batch_size: int = 100
    adam: AdamConfig = field(default_factory=AdamConfig)
    engine: Engine = Engine.PROGRAM
    loss: Loss = CROSS_ENTROPY
    samples: Space | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        store_counts(self, epochs=0, batch_size=1)
        object.__setattr__(self, "engine", check_choice("engine", self.engine, Engine))
        if not isinstance(self.adam, AdamConfig):
            raise UserError(f"`adam` must be an AdamConfig, such as AdamConfig(0.005), not {self.adam!r}")
        shares = self.perturbations
        if not isinstance(shares, Sequence) or not all(isinstance(share, Perturbation) for share in shares):
            raise UserError(f"`perturbations` must be a tuple of Perturbation, not {shares!r:.60}")
        if math.fsum(share.fraction for share in self.perturbations) > 1:
            raise UserError("the fractions of the perturbations add up to more than the whole batch: lower them")
        if not callable(self.loss) or isinstance(self.loss, type):
            raise UserError(f"`loss` must be a Loss such as CROSS_ENTROPY, not {self.loss!r:.60}")
        if not isinstance(self.samples, Space | None):
            raise UserError(f"`samples` must be a space such as TrueManifold(fonts), not {self.samples!r:.60}")


@dataclass(frozen=True)
class EpochLog:
    """The log entry of one epoch.

    Attributes
    ----------
    epoch : int
        The number of the epoch, from 1.
    loss : float
        Mean loss of the batches, as trained on.
    error : float
        Fraction of misclassified images in the batches, as trained on.
    learning_rate : float
        Learning rate of its first step.
    seconds : float
        Duration of the epoch.
    """

    epoch: int
    loss: float
    error: float
    learning_rate: float
    seconds: float


Progress = Callable[[EpochLog], None]


class DivergedError(UserError):
    """The training diverged: the loss or the outputs are not finite."""

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
    model : Model
        The classifier, changed in place.
    split : Split
        The training data.
    training : str or Training
        "normal", "adversarial" or another name in `trainings.TRAININGS`, or a `Training` of your own.
    epochs : int
        Number of passes over the data.
    batch_size : int
        Images per update. A batch of one image is an error if batch norm follows a linear layer: every value would be
        normalised to 0.
    seed : int
        Seed of the order of the images, and of random starts and perturbations.
    config : TrainingConfig, optional
        All settings at once; `training`, `epochs`, `batch_size`, `space` and `variant` are then ignored.
    progress : callable, optional
        Called with the `EpochLog` of each epoch.
    space : Space or sequence of Space
        The spaces of the training: a `TrueManifold`, `LearnedManifold` or `Transformations` if it perturbs in one, an
        `ImageBall` to change the paper's epsilon. Those that the training does not use are ignored, so that several
        trainings can be called alike.
    variant : {"half", "full", "weak"}
        How much of each batch is perturbed, and how thoroughly; see `Variant`.

    Returns
    -------
    list of EpochLog
        One entry per epoch.

    Raises
    ------
    UserError
        If data or settings are invalid, a space is missing, or a batch is too small for batch norm.
    DivergedError
        If the loss of an epoch or the final outputs are not finite.

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
        spaces, declared = space if isinstance(space, Sequence) else (space,), training_of(training)
        perturbations = declared.perturbations(spaces, variant=variant)
        samples = declared.space(declared.samples, spaces) if declared.samples else None
        own_fraction = variant == Variant.FULL and declared.fraction not in (None, 1)
        if own_fraction or (variant == Variant.WEAK and declared.attack):
            raise UserError(f"variant {variant!r} contradicts the settings of training {declared}: leave it out")
        config = TrainingConfig(perturbations, epochs, batch_size, loss=declared.loss, samples=samples)
    if not isinstance(config, TrainingConfig):
        raise UserError(f"`config` must be a TrainingConfig, not {config!r}: name a training as `training`")
    split = check_split(split, model.classes, model.image_shape)
    if not len(split):
        raise UserError("there are no images to train on")
    if config.samples:
        sampled = config.samples.sampled(split, generator(seed, "samples"))
        split = split.joined(check_split(sampled, model.classes, model.image_shape))
    if 1 in (config.batch_size, len(split)):  # a single image fills a batch with copies of itself
        check_batch_of_one(model.network, split.images[:1])
    for share, (first, last) in zip(
        config.perturbations, _shares(config.perturbations, config.batch_size), strict=True
    ):
        if share.fraction and first == last:
            fraction = f"{share.fraction:.3g} of a batch of {config.batch_size}"
            raise UserError(f"{fraction} is no image to perturb: use a larger batch_size")
    train_step = make_train_step(model, config.adam, config.loss, config.engine)
    log, network = [], model.network
    for epoch in range(config.epochs):
        if model.network is not network:
            raise UserError("the network was replaced while it was trained: train it again")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a non-finite loss is reported below
            entry = _train_epoch(model, split, config, train_step, seed, epoch)
        if not math.isfinite(entry.loss):
            raise DivergedError(f"the loss became {entry.loss}", entry.epoch)
        log.append(entry)
        if progress:
            progress(entry)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = model.forward(Tensor(split.images[: config.batch_size])).data
    if not np.isfinite(logits).all():  # after the last step, which no loss has seen
        raise DivergedError("the outputs are no longer finite", config.epochs)
    return log


def _train_epoch(
    model: Model, split: Split, config: TrainingConfig, train_step: TrainStep, seed: int, epoch: int
) -> EpochLog:
    """Train for one epoch, counted from 0."""
    started = time.perf_counter()
    order = generator(seed, "order", epoch).permutation(len(split))
    steps = math.ceil(len(split) / config.batch_size)
    total_loss, errors = 0.0, 0.0
    for step in range(steps):
        rows = np.arange(step * config.batch_size, (step + 1) * config.batch_size) % len(split)
        batch = split.take(order[rows])
        random = generator(seed, "training attack", epoch, step)
        if config.perturbations:
            train_step.store()  # the attacks need the current weights
        images = perturbed_batch(model, batch, config.perturbations, random)
        learning_rate = config.adam.rate(epoch + 1 + step / steps)
        losses, predictions = train_step.step(batch.images, images, batch.labels, learning_rate)
        total_loss += float(losses.sum())
        errors += _errors(predictions, batch.labels)
    train_step.store()
    seconds, count = time.perf_counter() - started, steps * config.batch_size
    return EpochLog(epoch + 1, total_loss / count, errors / count, config.adam.rate(epoch + 1), seconds)


def _errors(predictions: Integers, labels: Integers) -> float:
    """Return the number of misclassified images, averaged over the K evaluations in `predictions` (K N,)."""
    evaluations, remainder = divmod(len(predictions), len(labels))
    if remainder or not evaluations:  # the loss evaluates the model on other images
        return math.nan
    return float((predictions.reshape(evaluations, -1) != labels).sum()) / evaluations


def _shares(perturbations: Sequence[Perturbation], count: int) -> list[tuple[int, int]]:
    """Return the first image of each share of a batch, and the one behind the last."""
    fractions = [share.fraction for share in perturbations]
    remaining = [math.fsum(fractions[i:]) for i in range(len(fractions) + 1)]  # fraction of the batch after each bound
    return list(pairwise(count - round(fraction * count) for fraction in remaining))


def perturbed_batch(
    model: Model, batch: Split, perturbations: Sequence[Perturbation], random: np.random.Generator
) -> Floats:
    """Return the images to train on: the batch, with the `perturbable` images of its last part perturbed.

    Parameters
    ----------
    model : Model
        The classifier, attacked in evaluation mode.
    batch : Split
        The N original images of the batch.
    perturbations : sequence of Perturbation
        The shares to replace, one after the other; the last one ends at the end of the batch.
    random : Generator
        Source of the attacks' seeds.

    Returns
    -------
    ndarray of float32, shape (N, H, W, C)
        The images.

    Raises
    ------
    UserError
        If an attack does not return one image in [0, 1] for each.
    """
    images = batch.images.copy()
    for share, (first, last) in zip(perturbations, _shares(perturbations, len(batch)), strict=True):
        if first < last:
            part = batch.take(slice(first, last))
            rows = np.flatnonzero(checked_perturbable(share.space, part))
            seed = int(random.integers(2**31))
            if not len(rows):
                continue
            found = share.attack.find(model, part.take(rows), share.space, seed)
            if not isinstance(found, AttackResult):
                raise UserError(f"`find` of attack {share.attack.name} must return an AttackResult, not {found!r:.60}")
            result = found.images
            if result.shape != images[first + rows].shape or not (result.min() >= 0 and result.max() <= 1):
                raise UserError(f"attack {share.attack.name} must return one image in [0, 1] for each, in their order")
            if isinstance(share.space, ImageBall):
                check_norm(share.attack, result - images[first + rows], share.space)
            images[first + rows] = result
    return images
