"""Our models for the Adversarial Robustness Toolbox (ART), so that its attacks run on them.

ART is an optional extra: `pip install hlf_np[art]`. What ART calls an estimator is a model together with what
attacks need of it. Attacks that know nothing of this package are a check of ours: where they find many more adversarial
examples, our gradients would be masked or our attack too weak (`bench/art_agreement.py`).

::

    from art.attacks.evasion import ProjectedGradientDescent
    from hlf_np.adapters.art import Classifier

    attack = ProjectedGradientDescent(Classifier(model), eps=0.3, eps_step=0.02, max_iter=100, num_random_init=5)
    images = attack.generate(test.images, test.labels)
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from hlf_np.arrays import Array, Floats, Integers
from hlf_np.attacks import Objective
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_choice, check_labels
from hlf_np.data.dataset import Split
from hlf_np.errors import UserError
from hlf_np.layers import Sequential
from hlf_np.models import Model
from hlf_np.training import train

try:
    from art.estimators import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
    from art.estimators.classification import ClassGradientsMixin, ClassifierMixin
except ImportError as error:
    raise UserError(f"ART cannot be imported ({error}): install it with pip install 'hlf_np[art]'") from None


class Classifier(ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    """A model as an ART estimator: logits, and gradients from our autodiff.

    Images are channels last, (N, H, W, C); whatever type ART makes of them becomes float32. They may lie outside of
    [0, 1], as attacks go there on their way; only the training images of `fit` must not. Labels are one-hot rows
    (N, classes) or indices, (N,) or (N, 1).

    Parameters
    ----------
    model : attacked in evaluation mode.
    objective : the loss that attacks ascend, a name of `attacks.Objective` but "kl": ART does not say for which images
        the predictions are that it compares with. ART's AutoPGD takes it with `loss_type=None`.

    Raises
    ------
    UserError : for an unknown objective; from every method for images of another shape or not finite, and for labels
        that do not fit.
    """

    estimator_params = ("model", "objective", "clip_values")  # no defences of ART's: they would have no effect here

    def __init__(self, model: Model, objective: str = "cross-entropy") -> None:
        super().__init__(model=model, clip_values=(0.0, 1.0), channels_first=False, preprocessing=None)
        self.nb_classes = model.classes
        self.objective = _objective(objective)

    def set_params(self, **kwargs: Any) -> None:
        """Change `model`, `objective` or `clip_values`."""
        if "objective" in kwargs:
            kwargs["objective"] = _objective(kwargs["objective"])
        super().set_params(**kwargs)
        self.nb_classes = self.model.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.model.image_shape  # type: ignore[no-any-return]

    def predict(self, x: Array, batch_size: int = 128, **kwargs: Any) -> Floats:
        """Logits (N, classes)."""
        return self.model.evaluate(self._images(x))  # type: ignore[no-any-return]

    def fit(self, x: Array, y: Array, batch_size: int = 100, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Train the model normally, in place."""
        train(self.model, Split(self._images(x), self._labels(y, len(x))), epochs=nb_epochs, batch_size=batch_size)

    def compute_loss(self, x: Array, y: Array, reduction: str = "none", **kwargs: Any) -> Floats:
        """The objective of each image, (N,), or its "mean" or "sum"."""
        reductions: dict[str, Callable[[Floats], Floats]] = {"none": np.asarray, "mean": np.mean, "sum": np.sum}
        if reduction not in reductions:
            raise UserError(f"unknown reduction {reduction!r}: use one of {', '.join(reductions)}")
        losses = self.objective.of(Tensor(self.predict(x)), self._labels(y, len(x))).data
        return np.asarray(reductions[reduction](losses))

    def loss_gradient(self, x: Array, y: Array, batch_size: int = 128, **kwargs: Any) -> Floats:
        """The gradient of each image's objective to its pixels, (N, H, W, C)."""

        def gradient(part: Floats, labels: Integers) -> Floats:
            images = Tensor(part, requires_grad=True)
            self.objective.of(self.model.forward(images), labels).backward()
            assert images.gradient is not None
            return images.gradient

        return _in_batches(gradient, batch_size, self._images(x), self._labels(y, len(x)))

    def class_gradient(
        self, x: Array, label: int | list[int] | Array | None = None, batch_size: int = 128, **kwargs: Any
    ) -> Floats:
        """The gradients of logits to the pixels, (N, classes, H, W, C).

        Of one class only, (N, 1, H, W, C), where `label` names it, for all images or for each.
        """
        if label is None:
            columns = np.tile(np.arange(self.nb_classes), (len(x), 1))
        else:
            columns = self._labels(np.full(len(x), label) if np.ndim(label) == 0 else label, len(x))[:, None]

        def gradient(part: Floats, wanted: Integers) -> Floats:
            images = Tensor(part, requires_grad=True)
            logits = self.model.forward(images)
            gradients: list[Floats] = []
            for column in wanted.T:
                images.gradient = None
                logits.backward(np.eye(self.nb_classes, dtype=np.float32)[column])
                assert images.gradient is not None
                gradients.append(images.gradient)
            return np.stack(gradients, axis=1)

        return _in_batches(gradient, batch_size, self._images(x), columns)

    @property
    def layer_names(self) -> list[str]:
        """The names that `get_activations` knows, in the order of the network."""
        return list(self.model.network.children())

    def get_activations(self, x: Array, layer: int | str, batch_size: int = 128, framework: bool = False) -> Floats:
        """What the network's layer of this number or name gives, (N, ...); -1 is the last layer.

        A number beyond the last layer is taken for the last, with a warning.

        Raises
        ------
        UserError : if there is no such layer.
        """
        names = self.layer_names
        if isinstance(layer, int | np.integer) and layer >= len(names):
            warnings.warn(f"the network has no layer {layer}: layer {len(names) - 1}, the last, is taken", stacklevel=2)
            layer = -1
        if isinstance(layer, int | np.integer) and -len(names) <= layer < len(names):
            number = int(layer) % len(names)
        elif layer in names:
            number = names.index(layer)
        else:
            known = f"a number from {-len(names)} to {len(names) - 1}, or a name in `layer_names`"
            raise UserError(f"the network has no layer {layer!r}: use {known}")
        front = Sequential(*self.model.network.layers[: number + 1])
        return _in_batches(lambda part: front(Tensor(part)).data, batch_size, self._images(x))

    def _images(self, x: Array) -> Floats:
        images = np.ascontiguousarray(x, np.float32)
        if images.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, self.input_shape))
            raise UserError(f"images must have shape (N, {expected}), not {images.shape}: channels come last")
        if not np.isfinite(images).all():
            raise UserError("images hold NaN or infinite values: look at what the attack was given, and at its step")
        return images

    def _labels(self, y: Array | list[int] | int, count: int) -> Integers:
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] not in (1, self.nb_classes):
            raise UserError(f"one-hot labels must have {self.nb_classes} columns, one for each class, not {y.shape[1]}")
        labels = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
        return check_labels(labels.astype(np.int64), self.nb_classes, count)


def _objective(name: str) -> Objective:
    objective = check_choice("objective", name, Objective)
    if objective is Objective.DIVERGENCE:
        raise UserError("the objective kl is not for ART, which does not tell the given images: use cross-entropy")
    return objective


def _in_batches(function: Callable[..., Floats], size: int, *arrays: Array) -> Floats:
    """What a function gives for a few images at a time, one after another."""
    cuts = range(size, len(arrays[0]), size)
    parts = zip(*(np.split(array, cuts) for array in arrays), strict=True)
    return np.concatenate([function(*part) for part in parts])
