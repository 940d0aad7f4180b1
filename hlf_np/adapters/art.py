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

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from hlf_np.arrays import Array, Floats, Integers
from hlf_np.attacks import Objective
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_choice
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

    Images are channels last, (N, H, W, C); whatever type ART makes of them becomes float32. They may leave [0, 1] a
    little, as finite differences do. Labels are one-hot rows (N, classes) or indices (N,).

    Parameters
    ----------
    model : attacked in evaluation mode.
    objective : the loss that attacks ascend, a name of `attacks.Objective`. ART's AutoPGD takes it with
        `loss_type=None`.

    Raises
    ------
    UserError : for an unknown objective; from every method for images of another shape or not finite.
    """

    estimator_params = (
        BaseEstimator.estimator_params + NeuralNetworkMixin.estimator_params + ClassifierMixin.estimator_params
    )

    def __init__(self, model: Model, objective: str = "cross-entropy") -> None:
        super().__init__(model=model, clip_values=(0.0, 1.0), channels_first=False, preprocessing=None)
        self.nb_classes = model.classes
        self.objective = check_choice("objective", objective, Objective)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.model.image_shape  # type: ignore[no-any-return]

    def predict(self, x: Array, batch_size: int = 128, **kwargs: Any) -> Floats:
        """Logits (N, classes)."""
        return self.model.evaluate(self._images(x))  # type: ignore[no-any-return]

    def fit(self, x: Array, y: Array, batch_size: int = 100, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Train the model normally, in place; images must lie in [0, 1]."""
        train(self.model, Split(self._images(x), _labels(y)), epochs=nb_epochs, batch_size=batch_size)

    def compute_loss(self, x: Array, y: Array, reduction: str = "none", **kwargs: Any) -> Floats:
        """The objective of each image, (N,), or its "mean" or "sum"."""
        losses = self.objective.of(Tensor(self.predict(x)), _labels(y)).data
        return losses if reduction == "none" else np.asarray(getattr(np, reduction)(losses))

    def loss_gradient(self, x: Array, y: Array, **kwargs: Any) -> Floats:
        """The gradient of each image's objective to its pixels, (N, H, W, C)."""
        images = Tensor(self._images(x), requires_grad=True)
        self.objective.of(self.model.forward(images), _labels(y)).backward()
        assert images.gradient is not None
        return images.gradient

    def class_gradient(self, x: Array, label: int | list[int] | Array | None = None, **kwargs: Any) -> Floats:
        """The gradients of logits to the pixels, (N, classes, H, W, C).

        Of one class only, (N, 1, H, W, C), where `label` names it, for all images or for each.
        """
        images = Tensor(self._images(x), requires_grad=True)
        logits = self.model.forward(images)
        if label is None:
            columns = [np.full(len(images.data), k) for k in range(self.nb_classes)]
        else:
            columns = [np.broadcast_to(np.asarray(label), len(images.data))]
        gradients: list[Floats] = []
        for column in columns:
            images.gradient = None
            logits.backward(np.eye(self.nb_classes, dtype=np.float32)[column])
            assert images.gradient is not None
            gradients.append(images.gradient)
        return np.stack(gradients, axis=1)

    @property
    def layer_names(self) -> list[str]:
        """The names that `get_activations` knows, in the order of the network."""
        return list(self.model.network.children())

    def get_activations(self, x: Array, layer: int | str, batch_size: int = 128, framework: bool = False) -> Floats:
        """What the network's layer of this number or name gives, (N, ...).

        Numbers below 0 count from the last. One beyond the last is taken as the last, with a warning.

        Raises
        ------
        UserError : for any other layer that there is not.
        """
        names = self.layer_names
        if not isinstance(layer, str) and layer >= len(names):
            warnings.warn(f"there is no layer {layer}, the last is {len(names) - 1}: it is taken", stacklevel=2)
            layer = -1
        try:
            last = names.index(layer) if isinstance(layer, str) else range(len(names))[layer]
        except (ValueError, IndexError):
            raise UserError(f"there is no layer {layer!r}: give one of {', '.join(names)}") from None
        return Sequential(*self.model.network.layers[: last + 1])(Tensor(self._images(x))).data

    def _images(self, x: Array) -> Floats:
        images = np.ascontiguousarray(x, np.float32)
        if images.shape[1:] != self.input_shape or not np.isfinite(images).all():
            raise UserError(f"images must be finite and of shape (N, {str(self.input_shape)[1:]}, not {images.shape}")
        return images


def _labels(y: Array) -> Integers:
    y = np.asarray(y)
    return np.asarray(y.argmax(axis=1) if y.ndim == 2 else y, np.int64)
