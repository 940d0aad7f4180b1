"""`Model`, a classifier: a network, the architecture that describes it, and the means to exchange its weights.

`state_dict` has PyTorch's names and layouts, `save` and `load` use `.npz` files.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.layers import Layer, RandomSource, ShapeMismatchError
from hlf_np.models import weights
from hlf_np.models.architectures import Architecture, ImageShape, build
from hlf_np.models.compiled import Compilable
from hlf_np.programs.structure import structure
from hlf_np.random import generator
from hlf_np.support.arrays import IMAGES_PER_BATCH, Floats, Integers
from hlf_np.support.checks import check_count, check_image_shape, check_images, redefines
from hlf_np.support.errors import UserError
from hlf_np.support.serialization import from_builtins


class NotANumberError(UserError):
    """A logit is not a number (NaN), so nothing can be predicted."""


class Model(weights.Weights, Compilable):
    """A classifier: a network from images (N, H, W, C) to logits (N, classes).

    Create one with `cnn`, `mlp`, `resnet` or `vgg` (in `constructors.py`), from a file with `load`, or from any layers,
    including custom ones. All are trained and attacked alike, though more slowly, by autodiff, if the network does not
    compile. Errors about layers that do not fit together are raised when the model is first used.

    Parameters
    ----------
    network : Layer
        The network.
    classes : int
        Number of classes, at least 2.
    image_shape : tuple of int
        (H, W, C).
    architecture : Architecture, optional
        Description of the network, which `save` needs; None for a custom network.

    Attributes
    ----------
    class_names : tuple of str
        Names of the classes, by label; empty if they are not known. `save` stores them, and the command line refuses a
        dataset with other names.

    Raises
    ------
    UserError
        If the image shape has not three entries, or the layers fit together but do not end in shape (classes,).

    Examples
    --------
    >>> import hlf_np as hlf
    >>> test = hlf.data.load_fonts(0, n_test=5).test
    >>> model = hlf.models.cnn()
    >>> model.logits(test.images).shape, model.predict(test.images).dtype
    ((5, 10), dtype('int64'))

    >>> from hlf_np.layers import Flatten, Linear, Sequential, Tanh
    >>> from hlf_np.random import generator
    >>> random = generator(0, "my network")
    >>> network = Sequential(Flatten(), Linear(784, 20, random), Tanh(), Linear(20, 10, random))
    >>> Model(network, classes=10).compiles
    False
    """

    def __init__(
        self,
        network: Layer,
        classes: int,
        image_shape: ImageShape = (28, 28, 1),
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        self.network, self.image_shape, self.architecture = network, check_image_shape(image_shape), architecture
        self.classes = check_count("classes", classes, minimum=2)
        self.class_names: tuple[str, ...] = ()
        self._is_checked = False
        with suppress(ShapeMismatchError):  # layers may still be changed before they are used
            self.check_shapes()

    @classmethod
    def from_architecture(cls, architecture: Architecture, seed: int = 0, random: RandomSource | None = None) -> Model:
        """Create a model with initial weights.

        Parameters
        ----------
        architecture : Architecture
            Description of the network.
        seed : int
            Seed of the initial weights.
        random : RandomSource, optional
            Source of the initial weights, instead of a generator with this seed.

        Returns
        -------
        Model
            The model.
        """
        network = build(architecture, random or generator(seed, "initialisation"))
        return cls(network, architecture.classes, architecture.image_shape, architecture)

    def check_shapes(self) -> None:
        """Check that the layers fit together, end in the logits of the classes, and have float32 weights.

        Raises
        ------
        UserError
            If they do not.
        """
        for name, array in self.network.named_arrays():
            if array.dtype != np.float32:
                raise UserError(f"weight {name!r} is {array.dtype}: convert it with .astype(numpy.float32)")
        outputs = self.network.output_shape(self.image_shape)
        if outputs != (self.classes,):
            raise UserError(
                f"the network turns images {self.image_shape} into {outputs}, but a model of {self.classes} classes"
                f" needs logits ({self.classes},): change its last layers, or `classes`"
            )

    @property
    def has_default_forward(self) -> bool:
        """Whether logits and predictions are those of the network, as a subclass may define methods of its own."""
        return not any(map(self.defines, ("forward", "evaluate", "logits", "predict")))

    def defines(self, method: str) -> bool:
        """Return whether a subclass, or this object, has another method of this name than `Model`."""
        return redefines(self, Model, method)

    def forward(self, images: Tensor, training: bool = False) -> Tensor:
        """Compute logits as a tensor, for training and attacks.

        Parameters
        ----------
        images : Tensor, shape (N, H, W, C)
            Images in [0, 1].
        training : bool
            Training mode instead of evaluation mode, see `layers`.

        Returns
        -------
        Tensor, shape (N, classes)
            The logits.
        """
        if not isinstance(images, Tensor):
            raise UserError(f"`forward` needs a Tensor, not {type(images).__name__}: use `logits`, or Tensor(images)")
        return self.network(images, training)

    def logits(self, images: Floats) -> Floats:
        """Compute logits in evaluation mode; those of an image do not depend on the rest of the batch, to the last bit.

        Parameters
        ----------
        images : ndarray, shape (N, H, W, C)
            Images in [0, 1], of any floating-point type.

        Returns
        -------
        ndarray of float32, shape (N, classes)
            The logits.

        Raises
        ------
        UserError
            If the images have another shape or type, or values that are not in [0, 1].
        """
        return self.evaluate(check_images(images, self.image_shape))

    def evaluate(self, images: Floats) -> Floats:
        """Compute logits without the checks of `logits`, for float32 images, whose values may lie outside [0, 1]."""
        if images.shape[1:] != self.image_shape:
            raise UserError(f"images must have shape {self.image_shape} each, not {images.shape[1:]}")
        if program := self.program:  # the compiled network takes over
            return program.evaluate(images)
        parts = np.split(images, range(IMAGES_PER_BATCH, len(images), IMAGES_PER_BATCH))
        logits = np.concatenate([self.forward(Tensor(part)).data for part in parts])
        if len(images) > 1 and not self._is_checked and np.isfinite(logits).all():
            self._check_independence(images, logits)
        return logits

    def _check_independence(self, images: Floats, logits: Floats) -> None:
        """Raise UserError if the logits of the first image change when it is alone; checked once for each model."""
        alone = self.forward(Tensor(images[:1])).data[0]
        if not np.allclose(alone, logits[0], rtol=1e-3, atol=1e-3 * np.abs(logits).max()):
            raise UserError(
                "the network computes other logits for an image alone than beside others: in evaluation mode"
                " (training=False), its layers must not mix images or draw random numbers"
            )
        self._is_checked = True

    def predict(self, images: Floats) -> Integers:
        """Predict the class of each image; parameters and errors are those of `logits`.

        Returns
        -------
        ndarray of int64, shape (N,)
            The classes with the largest logits.

        Raises
        ------
        NotANumberError
            If a logit is not a number.
        """
        logits = self.logits(images)
        if np.isnan(logits).any():  # `argmax` would choose its class
            raise NotANumberError("the network's logits are not numbers (NaN): check its weights and your own layers")
        return np.asarray(logits.argmax(axis=1), np.int64)

    def logits_and_predictions(self, images: Floats) -> tuple[Floats, Integers]:
        """Compute both, with a single evaluation of the network unless a subclass defines `predict`."""
        logits = self.logits(images)
        if self.defines("predict"):
            return logits, self.predict(images)
        return logits, np.asarray(logits.argmax(axis=1), np.int64)

    def predictions_of(self, images: Floats, outputs: Floats) -> Integers:
        """Compute the predictions for images whose `forward` gave these outputs, (N, classes).

        They are the largest outputs, unless a subclass predicts in another way.
        """
        if any(map(self.defines, ("evaluate", "logits", "predict"))):
            return self.predict(images)
        return np.asarray(outputs.argmax(axis=1), np.int64)

    def parameters(self) -> list[Tensor]:
        """Return the tensors that are trained."""
        return [parameter for _, parameter in self.network.named_parameters()]

    @property
    def _network_and_kind(self) -> tuple[Layer, str]:
        return self.network, self.architecture.kind if self.architecture else "network"

    def as_bytes(self) -> bytes:
        described = self.architecture
        if (
            described is None
            or not self.has_default_forward
            or structure(self.network) != structure(build(described, generator(0)))
        ):
            raise UserError(
                "a custom or changed network has no architecture to save: save its state_dict() with numpy.savez"
            )
        return weights.as_bytes(self, architecture=asdict(described), class_names=list(map(str, self.class_names)))


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model from a file that `Model.save` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Model
        The model.

    Raises
    ------
    UserError
        If the file is missing, damaged or not a model file.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> hlf.models.cnn(seed=1).save("model.npz")
    >>> weight, loaded = (model.state_dict()["0.weight"] for model in (hlf.models.cnn(seed=1), load("model.npz")))
    >>> bool((weight == loaded).all())
    True
    """

    def build_model(descriptions: dict[str, Any], random: RandomSource) -> Model:
        model = Model.from_architecture(from_builtins(Architecture, descriptions["architecture"]), random=random)
        model.class_names = from_builtins(tuple[str, ...], descriptions.get("class_names", []))
        return model

    hint = "give a file that Model.save or `hlf_np train` wrote"
    return weights.load(path, build_model, "model", hint)
