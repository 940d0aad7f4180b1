"""One step of training a classifier: compiled, or by autodiff. They agree to rounding."""

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.engine import Engine
from hlf_np.errors import UserError, place_of
from hlf_np.losses import CROSS_ENTROPY, Loss
from hlf_np.models import Model
from hlf_np.optim import Adam, AdamConfig
from hlf_np.programs.training import ClassifierTraining


class AutodiffLearner:
    """Trains a model with Adam on the mean of a loss, to read: forward, backward, Adam."""

    def __init__(self, model: Model, config: AdamConfig, loss: Loss = CROSS_ENTROPY) -> None:
        self.model, self.loss = model, loss
        self.optimiser = Adam(model.parameters(), config)

    def step(self, clean: Floats, perturbed: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """One step on a batch, clean and perturbed images (N, H, W, C).

        Returns the loss of each image before the step, (N,), and the class that was predicted in each evaluation of the
        model, (K N,) for K evaluations of the batch, one after the other.
        """
        seen: list[Integers] = []

        def forward(images: Tensor) -> Tensor:
            logits = self.model.forward(images, training=True)
            seen.append(np.asarray(logits.data.argmax(axis=1), np.int64))
            return logits

        losses = self.loss(forward, Tensor(clean), Tensor(perturbed), labels)
        if not isinstance(losses, Tensor) or losses.shape != labels.shape:
            found = f"shape {losses.shape}" if isinstance(losses, Tensor) else type(losses).__name__
            what = f"the loss{place_of(self.loss)} must give a tensor of one number for each image, {labels.shape}"
            raise UserError(f"{what}, not {found}")
        losses.mean().backward()
        self.optimiser.step(learning_rate)
        return losses.data, np.concatenate([np.empty(0, np.int64), *seen])

    def store(self) -> None:
        """Make the model what it has become: nothing to do here, as every step changes the model itself."""


Learner = ClassifierTraining | AutodiffLearner


def learner(model: Model, config: AdamConfig, loss: Loss = CROSS_ENTROPY, engine: Engine = Engine.PROGRAM) -> Learner:
    """A learner for a model; the readable one for layers or losses that cannot be compiled.

    UserError for layers that do not fit together, or have no parameters.
    """
    model.check_shapes()
    if not model.parameters():
        raise UserError("there is nothing to train: the network has no parameters")
    compiled = model.training_program(config, loss) if engine is Engine.PROGRAM else None
    return compiled or AutodiffLearner(model, config, loss)
