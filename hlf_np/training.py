"""Training: normal, or on adversarial examples found anew for every batch.

Adversarial training (Madry et al., 2018) minimises the loss at the worst code of a space. The paper's
recipe uses half of each batch as it is and replaces the other half by adversarial examples. The attack
sees the model in evaluation mode (frozen batch-norm statistics), takes all its steps, and keeps the code
of highest loss; the update sees the whole batch in training mode.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from hlf_np import attacks
from hlf_np.arrays import Floats
from hlf_np.attacks import Attack
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_choice, check_count, check_images, check_labels, check_positive
from hlf_np.data.dataset import Split
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.operations import cross_entropy, mean
from hlf_np.optim import Adam, AdamConfig
from hlf_np.random import generator
from hlf_np.spaces import ImageBall, Space


class Training(StrEnum):
    """The ways to train, by their names in the results."""

    NORMAL = "normal"
    ADVERSARIAL = "adversarial"

    @property
    def label(self) -> str:
        """As a person would write it."""
        return self.value.replace("_", " ").capitalize()


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training; the defaults are the paper's.

    training : which perturbations the model is trained on.
    epochs, batch_size : passes over the data, images per update.
    adam : the optimiser.
    attack : the inner maximisation; it never stops early.
    epsilon : size of the perturbations, in the space of the training.
    adversarial_fraction : share of each batch that is replaced by adversarial examples.
    """

    training: Training = Training.NORMAL
    epochs: int = 20
    batch_size: int = 100
    adam: AdamConfig = field(default_factory=AdamConfig)
    attack: Attack = field(default_factory=lambda: Attack(stop_early=False))
    epsilon: float = 0.3
    adversarial_fraction: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "training", check_choice("training", self.training, Training))
        check_count("epochs", self.epochs, least=0)
        check_count("batch_size", self.batch_size)
        check_positive("epsilon", self.epsilon)
        if not 0 <= self.adversarial_fraction <= 1:
            raise UserError(f"adversarial_fraction must lie between 0 and 1, not {self.adversarial_fraction}")

    def space(self) -> Space | None:
        """Where the adversarial examples of this training live; None for normal training."""
        return ImageBall(self.epsilon) if self.training is Training.ADVERSARIAL else None


@dataclass(frozen=True)
class EpochLog:
    """One epoch: its number from 1, mean loss and error of the batches as trained on, learning rate, seconds."""

    epoch: int
    loss: float
    error: float
    learning_rate: float
    seconds: float


Progress = Callable[[EpochLog], None]


def train(
    model: Model,
    split: Split,
    training: str = "normal",
    epochs: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    config: TrainingConfig | None = None,
    progress: Progress | None = None,
) -> list[EpochLog]:
    """Train a model in place.

    Parameters
    ----------
    model : changed in place.
    split : the training data.
    training : "normal" or "adversarial".
    epochs, batch_size : see `TrainingConfig`.
    seed : of the order of the images and of the attacks' random starts.
    config : all settings at once; then `training`, `epochs` and `batch_size` are not used.
    progress : called after each epoch.

    Returns
    -------
    One log entry per epoch.

    Raises
    ------
    UserError : for bad data or settings, or when the loss is no longer finite.
    """
    if config is None:
        config = TrainingConfig(check_choice("training", training, Training), epochs, batch_size)
    check_images(split.images, model.image_shape)
    check_labels(split.labels, model.classes, len(split.images))
    if not len(split):
        raise UserError("there are no images to train on")
    optimiser = Adam(model.parameters(), config.adam)
    log = []
    for epoch in range(config.epochs):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the loss tells, below
            entry = _epoch(model, split, config, optimiser, seed, epoch)
        if not math.isfinite(entry.loss):
            raise UserError(f"the loss became {entry.loss} in epoch {entry.epoch}: lower the learning rate")
        log.append(entry)
        if progress:
            progress(entry)
    return log


def _epoch(model: Model, split: Split, config: TrainingConfig, optimiser: Adam, seed: int, epoch: int) -> EpochLog:
    started = time.perf_counter()
    learning_rate = config.adam.rate(epoch)
    order = generator(seed, "order", epoch).permutation(len(split))
    total_loss, wrong = 0.0, 0
    for step, first in enumerate(range(0, len(split), config.batch_size)):
        batch = split.take(order[first : first + config.batch_size])
        attack_seed = int(generator(seed, "training attack", epoch, step).integers(2**31))
        images = adversarial_batch(model, batch, config, attack_seed)
        logits = model.forward(Tensor(images), training=True)
        losses = cross_entropy(logits, batch.labels)
        mean(losses).backward()
        optimiser.step(learning_rate)
        total_loss += float(losses.data.sum())
        wrong += int((logits.data.argmax(axis=1) != batch.labels).sum())
    return EpochLog(
        epoch + 1, total_loss / len(split), wrong / len(split), learning_rate, time.perf_counter() - started
    )


def adversarial_batch(model: Model, batch: Split, config: TrainingConfig, seed: int) -> Floats:
    """The images to train on: the batch itself, its last part replaced by adversarial examples."""
    space = config.space()
    count = round(config.adversarial_fraction * len(batch))
    if space is None or count == 0:
        return batch.images
    clean = len(batch) - count
    attack = replace(config.attack, stop_early=False)
    result = attacks.run(model, batch.take(slice(clean, None)), space, attack, seed)
    return np.concatenate([batch.images[:clean], result.images])
