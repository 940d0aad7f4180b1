"""The four classifiers, and how they are stored.

`cnn` is the paper's; `mlp`, `resnet` and `vgg` show that the claims do not hang on one architecture. A
model is a network, the architecture that describes it, and the means to exchange its weights:
`state_dict` uses PyTorch's names and layouts, `save` and `load` a plain `.npz` file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from hlf_np import weights
from hlf_np.architectures import Architecture, ImageShape, Kind, Sizes, build
from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_count, check_images
from hlf_np.errors import UserError
from hlf_np.layers import Draws, Layer, MisfitError
from hlf_np.losses import CROSS_ENTROPY, Loss
from hlf_np.optim import AdamConfig
from hlf_np.plain import from_plain
from hlf_np.programs.compiler import IMAGES_PER_BATCH, NO_FRONT, Compiler, classifier_training
from hlf_np.programs.evaluation import Program
from hlf_np.programs.training import ClassifierTraining
from hlf_np.random import generator


class Model(weights.Weights):
    """A classifier of images.

    Build one with `cnn`, `mlp`, `resnet` or `vgg`, from a file with `load`, or from layers of your own with `Model.of`.

    Attributes
    ----------
    network : the layers. classes : how many. image_shape : (H, W, C).
    architecture : describes the network; None for one of your own.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> test = hlf.data.load_fonts(0, n_test=5).test
    >>> model = hlf.models.cnn()
    >>> model.logits(test.images).shape, model.predict(test.images).dtype
    ((5, 10), dtype('int64'))
    """

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        network = build(architecture, generator(seed, "initialisation"))
        self._hold(network, architecture.classes, architecture.image_shape, architecture)

    @classmethod
    def of(
        cls,
        network: Layer,
        classes: int,
        image_shape: ImageShape = (28, 28, 1),
        architecture: Architecture | None = None,
    ) -> Model:
        """A model of a network from images (N, H, W, C) to logits (N, classes); layers of your own are welcome.

        It is trained and attacked like any other, though by the slower autodiff if it has layers that do not compile.
        Layers that do not fit together are told when the model is first used.

        Raises
        ------
        UserError : for another number of outputs than of classes.

        Examples
        --------
        >>> from hlf_np.layers import Flatten, Linear, Sequential, Tanh
        >>> from hlf_np.random import generator
        >>> draws = generator(0, "my network")
        >>> network = Sequential(Flatten(), Linear(784, 20, draws), Tanh(), Linear(20, 10, draws))
        >>> Model.of(network, classes=10).compiles
        False
        """
        model = cls.__new__(cls)
        model._hold(network, classes, image_shape, architecture)
        return model

    def _hold(self, network: Layer, classes: int, image_shape: ImageShape, architecture: Architecture | None) -> None:
        self.network, self.image_shape, self.architecture = network, image_shape, architecture
        self.classes = check_count("classes", classes, least=2)
        self._compiler = Compiler()
        with suppress(MisfitError):  # layers may still be changed before they are used
            self.check_shapes()

    def check_shapes(self) -> None:
        """UserError unless the layers fit together and compute in float32, and their outputs fit the classes."""
        for name, array in self.network.named_arrays():
            if array.dtype != np.float32:
                raise UserError(f"weight {name!r} is {array.dtype}: assign float32, with .astype(numpy.float32)")
        outputs = self.network.output_shape(self.image_shape)
        if outputs != (self.classes,):
            raise UserError(
                f"the network turns images {self.image_shape} into {outputs}, but a model of {self.classes} classes"
                f" needs logits ({self.classes},): change its last layers, or `classes`"
            )

    @property
    def compiles(self) -> bool:
        """Whether the network has a compiled form. Where it has none, the autodiff computes everything."""
        return self.program is not None

    @property
    def program(self) -> Program | None:
        """The network compiled for evaluation and attacks, following its weights; None unless it `compiles`."""
        return self.program_behind(NO_FRONT, self.image_shape)

    @property
    def warp_program(self) -> Program | None:
        """The same behind a warp of images of one channel."""
        return self.program_behind(NO_FRONT, self.image_shape, warped=True)

    def program_behind(
        self, fronts: Sequence[Layer], input_shape: tuple[int, ...], warped: bool = False
    ) -> Program | None:
        """The same behind other networks, one for each group of inputs, such as the decoders of each class."""
        if not self._plain:
            return None
        return self._compiler.program(self.network, input_shape, fronts, warped, self.check_shapes)

    def training_program(self, config: AdamConfig, loss: Loss = CROSS_ENTROPY) -> ClassifierTraining | None:
        """The network compiled for training with a loss; None if one of the two has no compiled form."""
        return classifier_training(self.network, self.image_shape, config, loss) if self._plain else None

    @property
    def _plain(self) -> bool:
        """Whether the model computes what its network does: a class that inherits from this one may do more."""
        return type(self).forward is Model.forward

    def forward(self, images: Tensor, training: bool = False) -> Tensor:
        """Logits (N, classes) of images (N, H, W, C) as a tensor, for training and attacks."""
        return self.network(images, training)

    def logits(self, images: Floats) -> Floats:
        """Logits (N, classes), float32, of images (N, H, W, C) in [0, 1], in evaluation mode.

        Each image's logits are the same bits in whatever batch it comes.

        Raises
        ------
        UserError : for images of another shape or type, outside [0, 1] or not finite.
        """
        return self.evaluate(check_images(images, self.image_shape))

    def evaluate(self, images: Floats) -> Floats:
        """The same for float32 of any size, as attacks that measure differences ask for; nothing is checked."""
        if program := self.program:
            return program.evaluate(images)
        parts = np.split(images, range(IMAGES_PER_BATCH, len(images), IMAGES_PER_BATCH))
        return np.concatenate([self.forward(Tensor(part)).data for part in parts])

    def predict(self, images: Floats) -> Integers:
        """The most likely class of each image, (N,) int64."""
        return np.asarray(self.logits(images).argmax(axis=1), np.int64)

    def parameters(self) -> list[Tensor]:
        """What training changes."""
        return [parameter for _, parameter in self.network.named_parameters()]

    @property
    def _weighted(self) -> tuple[Layer, str]:
        return self.network, self.architecture.kind if self.architecture else "network"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write architecture and weights to an `.npz` file, whole or not at all.

        Raises
        ------
        UserError : for a network of your own, or if the place cannot be written.
        """
        if self.architecture is None:
            raise UserError("no architecture describes a network of your own: store its state_dict with numpy.savez")
        weights.save(path, "architecture", self.architecture, self)


def load(path: str | os.PathLike[str]) -> Model:
    """A model from a file that `Model.save` wrote.

    Raises
    ------
    UserError : if the file is missing, truncated, or something else.

    Examples
    --------
    >>> cnn(seed=1).save("model.npz")
    >>> bool((load("model.npz").state_dict()["0.weight"] == cnn(seed=1).state_dict()["0.weight"]).all())
    True
    """

    def blank(description: Any, draws: Draws) -> Model:
        architecture: Architecture = from_plain(Architecture, description)
        return Model.of(build(architecture, draws), architecture.classes, architecture.image_shape, architecture)

    hint = "give a file that Model.save or `hlf_np train` wrote"
    return weights.load(path, "architecture", blank, "model", hint)


def cnn(
    classes: int = 10,
    seed: int = 0,
    widths: Sizes = (16, 32, 64),
    hidden_units: int = 100,
    image_shape: ImageShape = (28, 28, 1),
) -> Model:
    """The paper's classifier: 4x4 convolutions of stride 2 with batch norm and ReLU, two fully connected layers."""
    return Model(Architecture(Kind.CNN, widths, classes, image_shape, hidden_units), seed)


def mlp(
    classes: int = 10, seed: int = 0, widths: Sizes = (128, 128, 128, 128), image_shape: ImageShape = (28, 28, 1)
) -> Model:
    """Fully connected layers, each with batch norm and ReLU."""
    return Model(Architecture(Kind.MLP, widths, classes, image_shape), seed)


def resnet(
    classes: int = 10,
    seed: int = 0,
    widths: Sizes = (64, 128, 256),
    blocks: Sizes = (2, 2, 2),
    image_shape: ImageShape = (28, 28, 1),
) -> Model:
    """ResNet-13: a 3x3 convolution, three stages of two residual blocks, average pooling, one linear layer."""
    return Model(Architecture(Kind.RESNET, widths, classes, image_shape, blocks=blocks), seed)


def vgg(
    classes: int = 10, seed: int = 0, widths: Sizes = (64, 128, 256, 256), image_shape: ImageShape = (28, 28, 1)
) -> Model:
    """Stages of two 3x3 convolutions with batch norm and ReLU and one max pooling; one linear layer."""
    return Model(Architecture(Kind.VGG, widths, classes, image_shape), seed)
