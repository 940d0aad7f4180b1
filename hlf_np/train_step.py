"""One training step of a classifier: forward pass, loss, gradients, Adam. Compiled, or by autodiff.

`training.train` calls a `TrainStep` for every batch. `AutodiffTrainStep` is the readable one; `ClassifierTraining` does
the same in a compiled program. They agree up to rounding.
"""

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.engine import Engine
from hlf_np.losses import CROSS_ENTROPY, Loss
from hlf_np.models import Model
from hlf_np.optim import Adam, AdamConfig
from hlf_np.programs.training import ClassifierTraining
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import same_objects
from hlf_np.support.errors import UserError, source_location


class AutodiffTrainStep:
    """Training steps by autodiff: Adam on the mean of a loss over a batch.

    Parameters
    ----------
    model : Model
        The classifier to train, in place.
    config : AdamConfig
        The settings of Adam.
    loss : Loss
        The loss of each image; the cross-entropy by default.
    """

    def __init__(self, model: Model, config: AdamConfig, loss: Loss = CROSS_ENTROPY) -> None:
        self.model, self.loss = model, loss
        self.optimiser = Adam(model.parameters(), config)

    def step(self, clean: Floats, perturbed: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """Take one step on a batch.

        Parameters
        ----------
        clean : ndarray of float32, shape (N, H, W, C)
            The original images.
        perturbed : ndarray of float32, shape (N, H, W, C)
            The same images, some or all of them perturbed.
        labels : ndarray of int64, shape (N,)
            Their classes.
        learning_rate : float
            Learning rate of this step.

        Returns
        -------
        losses : ndarray of float32, shape (N,)
            The loss of each image before the step.
        predictions : ndarray of int64, shape (K N,)
            The predicted classes in each of the K evaluations of the model on the batch, one after the other.

        Raises
        ------
        UserError
            If the loss does not return one value per image.
        """
        predictions: list[Integers] = []

        def forward(images: Tensor) -> Tensor:
            logits = self.model.forward(images, training=True)
            predictions.append(np.asarray(logits.data.argmax(axis=1), np.int64))
            return logits

        losses = self.loss(forward, Tensor(clean), Tensor(perturbed), labels)
        self._check(losses, labels)
        self.optimiser.clear_gradients()
        if not self.optimiser.steps:
            self._check_leaves(losses)
        if losses.requires_grad:
            losses.mean().backward()
        self._check_parameters()
        self.optimiser.step(learning_rate)
        return losses.data, np.concatenate([np.empty(0, np.int64), *predictions])

    def store(self) -> None:
        """Write the trained weights to the model; does nothing here, as every step updates the model itself."""

    def _check_leaves(self, losses: Tensor) -> None:
        """Raise UserError if the losses depend on a tensor that requires a gradient, but would not be trained."""
        for layer in self.model.network.every_layer():
            for name, value in vars(layer).items():
                if isinstance(value, Tensor) and value.requires_grad:
                    raise UserError(f"{layer!r} has its parameter {name!r} as an attribute: put it into `parameters`")
        parameters = (parameter for _, parameter in self.model.network.named_parameters())
        known = set(map(id, (*parameters, *self.optimiser.parameters)))
        for leaf in losses.leaves():
            if leaf.requires_grad and id(leaf) not in known:
                raise UserError(
                    f"the loss depends on a parameter outside of the `network`, {leaf!r}, which would not be trained:"
                    " put it into a layer of the network, or set its requires_grad to False"
                )

    def _check_parameters(self) -> None:
        """Raise UserError if a parameter of the network would not be trained."""
        if not same_objects(self.model.parameters(), self.optimiser.parameters):
            raise UserError("the network has other parameters than at the beginning of its training: train it again")
        if self.optimiser.steps:
            return
        for name, parameter in self.model.network.named_parameters():
            if parameter.requires_grad and parameter.gradient is None:
                raise UserError(
                    f"parameter {name!r} gets no gradient from the loss: pass `training` on to the layers inside of"
                    " yours, use all of them in the first step, or set its requires_grad to False"
                )

    def _check(self, losses: object, labels: Integers) -> None:
        """Raise UserError unless the losses are a tensor (N,)."""
        if not isinstance(losses, Tensor) or losses.shape != labels.shape:
            result = f"shape {losses.shape}" if isinstance(losses, Tensor) else type(losses).__name__
            what = f"the loss{source_location(self.loss)} must return a tensor with one value per image, {labels.shape}"
            raise UserError(f"{what}, not {result}")


TrainStep = ClassifierTraining | AutodiffTrainStep


def make_train_step(
    model: Model, config: AdamConfig, loss: Loss = CROSS_ENTROPY, engine: Engine = Engine.PROGRAM
) -> TrainStep:
    """Return the training step of a model: compiled if the engine, the layers and the loss allow it, else by autodiff.

    Parameters
    ----------
    model : Model
        The classifier to train, in place.
    config : AdamConfig
        The settings of Adam.
    loss : Loss
        The loss of each image.
    engine : Engine
        `Engine.AUTODIFF` forces the readable implementation.

    Raises
    ------
    UserError
        If the layers do not fit together or have no parameters.
    """
    model.check_shapes()
    if not model.parameters():
        raise UserError("there is nothing to train: the network has no parameters")
    compiled = model.training_program(config, loss) if engine is Engine.PROGRAM else None
    return compiled or AutodiffTrainStep(model, config, loss)
