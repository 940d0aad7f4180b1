"""One step of training a classifier: compiled, or by autodiff. They agree to rounding."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.engine import Engine
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.operations import cross_entropy
from hlf_np.optim import Adam, AdamConfig


class Learner(Protocol):
    """Trains a model with Adam on the mean cross-entropy."""

    def step(self, images: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """One step on a batch (N, H, W, C); the loss of each image before it and the predicted class, (N,)."""

    def store(self) -> None:
        """Make the model what it has become; until then it may be that of an earlier step."""


class AutodiffLearner:
    """The readable one: forward, backward, Adam."""

    def __init__(self, model: Model, config: AdamConfig) -> None:
        self.model, self.optimiser = model, Adam(model.parameters(), config)

    def step(self, images: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        logits = self.model.forward(Tensor(images), training=True)
        losses = cross_entropy(logits, labels)
        losses.mean().backward()
        self.optimiser.step(learning_rate)
        return losses.data, np.asarray(logits.data.argmax(axis=1), np.int64)

    def store(self) -> None:
        pass  # every step changes the model itself


def learner(model: Model, config: AdamConfig, engine: Engine = Engine.PROGRAM) -> Learner:
    """A learner for a model; the readable one if it has layers that cannot be compiled.

    Raises
    ------
    UserError : for layers that do not fit together, or have no parameters.
    """
    model.check_shapes()
    if not model.parameters():
        raise UserError("there is nothing to train: the network has no parameters")
    compiled = model.training_program(config) if engine is Engine.PROGRAM else None
    return compiled or AutodiffLearner(model, config)
