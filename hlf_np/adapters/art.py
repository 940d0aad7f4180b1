"""Adapter to the Adversarial Robustness Toolbox (ART), so that its attacks run on our models.

ART is an optional extra: `pip install '.[art]'`. An ART *estimator* is a model with the methods that attacks need.
Independently written attacks check ours: if they found many more adversarial examples, our gradients would be masked or
our attack too weak (`bench/art_agreement.py`).

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

from hlf_np.attacks import Objective
from hlf_np.attacks.attack import input_gradient
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.layers import Sequential
from hlf_np.models import Model
from hlf_np.support.arrays import Array, Floats, Integers
from hlf_np.support.checks import check_choice, check_labels
from hlf_np.support.errors import UserError
from hlf_np.training import train

try:
    from art.estimators import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
    from art.estimators.classification import ClassGradientsMixin, ClassifierMixin
except ImportError as error:
    raise UserError(f"ART cannot be imported ({error}): install it with pip install 'hlf_np[art]'") from None


class Classifier(ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    """A model as an ART estimator, with logits and with gradients by autodiff.

    Images are channels last, (N, H, W, C), and converted to float32. Except in `fit`, they may lie outside [0, 1], as
    attacks leave that range on their way. Labels are one-hot rows (N, classes) or indices, (N,) or (N, 1).

    Parameters
    ----------
    model : Model
        The classifier, attacked in evaluation mode.
    objective : {"cross-entropy", "margin", "dlr"}
        The loss that attacks ascend, see `attacks.Objective`. ("kl" is not supported, because ART does not pass the
        original images.) ART's AutoPGD uses it with `loss_type=None`.

    Raises
    ------
    UserError
        If the objective is unknown, or the model has `logits` or `predict` of its own. All methods raise it if images
        have another shape or are not finite, or labels are invalid.
    """

    estimator_params = ("model", "objective", "clip_values")  # not ART's defences, which would have no effect

    def __init__(self, model: Model, objective: str = "cross-entropy") -> None:
        super().__init__(model=_attackable(model), clip_values=(0.0, 1.0), channels_first=False, preprocessing=None)
        self.nb_classes = model.classes
        self.objective = _objective(objective)

    def set_params(self, **kwargs: Any) -> None:
        """Change `model`, `objective` or `clip_values`."""
        if "objective" in kwargs:
            kwargs["objective"] = _objective(kwargs["objective"])
        if "model" in kwargs:
            _attackable(kwargs["model"])
        super().set_params(**kwargs)
        self.nb_classes = self.model.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.model.image_shape  # type: ignore[no-any-return]

    def predict(self, x: Array, batch_size: int = 128, **kwargs: Any) -> Floats:
        """Compute the logits (N, classes)."""
        return self.model.evaluate(self._images(x))  # type: ignore[no-any-return]

    def fit(self, x: Array, y: Array, batch_size: int = 100, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Train the model normally, in place."""
        train(self.model, Split(self._images(x), self._labels(y, len(x))), epochs=nb_epochs, batch_size=batch_size)

    def compute_loss(self, x: Array, y: Array, reduction: str = "none", **kwargs: Any) -> Floats:
        """Compute the objective of each image, (N,), or its "mean" or "sum"."""
        reductions: dict[str, Callable[[Floats], Floats]] = {"none": np.asarray, "mean": np.mean, "sum": np.sum}
        if reduction not in reductions:
            raise UserError(f"unknown reduction {reduction!r}: use one of {', '.join(reductions)}")
        losses = self.objective.of(Tensor(self.predict(x)), self._labels(y, len(x))).data
        return np.asarray(reductions[reduction](losses))

    def loss_gradient(self, x: Array, y: Array, batch_size: int = 128, **kwargs: Any) -> Floats:
        """Compute the gradient of each image's objective with respect to its pixels, (N, H, W, C)."""

        def gradient(part: Floats, labels: Integers) -> Floats:
            images = Tensor(part, requires_grad=True)
            return input_gradient(self.objective.of(self.model.forward(images), labels), images)

        return _in_batches(gradient, batch_size, self._images(x), self._labels(y, len(x)))

    def class_gradient(
        self, x: Array, label: int | list[int] | Array | None = None, batch_size: int = 128, **kwargs: Any
    ) -> Floats:
        """Compute the gradients of the logits with respect to the pixels, (N, classes, H, W, C).

        With a `label` (one for all images, or one for each) only that class's gradient is computed, (N, 1, H, W, C).
        """
        if label is None:
            columns = np.tile(np.arange(self.nb_classes), (len(x), 1))
        else:
            columns = self._labels(np.full(len(x), label) if np.ndim(label) == 0 else label, len(x))[:, None]

        def gradient(part: Floats, columns: Integers) -> Floats:
            images = Tensor(part, requires_grad=True)
            logits = self.model.forward(images)
            gradients: list[Floats] = []
            for column in columns.T:
                images.gradient = None
                gradients.append(input_gradient(logits, images, np.eye(self.nb_classes, dtype=np.float32)[column]))
            return np.stack(gradients, axis=1)

        return _in_batches(gradient, batch_size, self._images(x), columns)

    @property
    def layer_names(self) -> list[str]:
        """The names of the network's layers, in their order."""
        return list(self.model.network.children())

    def get_activations(self, x: Array, layer: int | str, batch_size: int = 128, framework: bool = False) -> Floats:
        """Compute the output (N, ...) of a layer, given by its index or name; -1 is the last layer.

        An index beyond the last layer selects the last, with a warning.

        Raises
        ------
        UserError
            If there is no such layer, or the network is not a `Sequential`.
        """
        if not isinstance(self.model.network, Sequential):
            raise UserError("only the layers of a Sequential network have activations that can be told apart")
        names = self.layer_names
        if isinstance(layer, int | np.integer) and layer >= len(names):
            warnings.warn(f"the network has no layer {layer}: layer {len(names) - 1}, the last, is used", stacklevel=2)
            layer = -1
        if isinstance(layer, int | np.integer) and -len(names) <= layer < len(names):
            index = int(layer) % len(names)
        elif layer in names:
            index = names.index(layer)
        else:
            valid = f"an index from {-len(names)} to {len(names) - 1}, or a name in `layer_names`"
            raise UserError(f"the network has no layer {layer!r}: use {valid}")
        layers = Sequential(*self.model.network.layers[: index + 1])
        return _in_batches(lambda part: layers(Tensor(part)).data, batch_size, self._images(x))

    def _images(self, x: Array) -> Floats:
        """Convert images to contiguous float32 (N, H, W, C)."""
        images = np.ascontiguousarray(x, np.float32)
        if images.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, self.input_shape))
            raise UserError(f"images must have shape (N, {expected}), not {images.shape}: channels come last")
        if not np.isfinite(images).all():
            raise UserError("images contain NaN or infinite values: check the input and the step size of the attack")
        return images

    def _labels(self, y: Array | list[int] | int, count: int) -> Integers:
        """Convert labels to int64 (count,)."""
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] not in (1, self.nb_classes):
            raise UserError(f"one-hot labels must have {self.nb_classes} columns, one for each class, not {y.shape[1]}")
        labels = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
        if labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels)):
            raise UserError("labels must be whole numbers: convert them")
        return check_labels(labels.astype(np.int64), self.nb_classes, count)


def _attackable(model: Model) -> Model:
    """Return the model; raise UserError if ART, which evaluates images outside [0, 1], too, would judge another one."""
    for method in ("logits", "predict"):
        if model.defines(method):
            raise UserError(
                f"ART would not use `{method}` of {type(model).__name__}: define `forward`, or `evaluate`, instead"
            )
    return model


def _objective(name: str) -> Objective:
    """Return the objective of this name."""
    objective = check_choice("objective", name, Objective)
    if objective is Objective.DIVERGENCE:
        raise UserError(
            "ART does not support the objective kl, as it does not pass the original images: use cross-entropy"
        )
    return objective


def _in_batches(function: Callable[..., Floats], size: int, *arrays: Array) -> Floats:
    """Apply a function to up to `size` rows of the arrays at a time, and concatenate the results."""
    cuts = range(size, len(arrays[0]), size)
    parts = zip(*(np.split(array, cuts) for array in arrays), strict=True)
    return np.concatenate([function(*part) for part in parts])
