"""The classifiers: `cnn` is the paper's; `mlp`, `resnet` and `vgg` show that the claims do not depend on it."""

from hlf_np.models.architectures import Architecture, ImageShape, Kind, Sizes
from hlf_np.models.model import Model


def cnn(
    classes: int = 10,
    seed: int = 0,
    widths: Sizes = (16, 32, 64),
    hidden_units: int = 100,
    image_shape: ImageShape = (28, 28, 1),
) -> Model:
    """Create the paper's classifier: 4x4 convolutions of stride 2 with batch norm and ReLU, and two linear layers.

    Parameters
    ----------
    classes : int
        Number of classes.
    seed : int
        Seed of the initial weights.
    widths : tuple of int
        Channels of the convolutions.
    hidden_units : int
        Outputs of the first linear layer.
    image_shape : tuple of int
        (H, W, C).

    Returns
    -------
    Model
        The model.
    """
    return Model.from_architecture(Architecture(Kind.CNN, widths, classes, image_shape, hidden_units), seed)


def mlp(
    classes: int = 10, seed: int = 0, widths: Sizes = (128, 128, 128, 128), image_shape: ImageShape = (28, 28, 1)
) -> Model:
    """Create a multilayer perceptron: hidden layers with ReLU and then batch norm, and a linear layer.

    Parameters
    ----------
    classes : int
        Number of classes.
    seed : int
        Seed of the initial weights.
    widths : tuple of int
        Units of the hidden layers.
    image_shape : tuple of int
        (H, W, C).

    Returns
    -------
    Model
        The model.
    """
    return Model.from_architecture(Architecture(Kind.MLP, widths, classes, image_shape), seed)


def resnet(
    classes: int = 10,
    seed: int = 0,
    widths: Sizes = (64, 128, 256),
    blocks: Sizes = (2, 2, 2),
    image_shape: ImageShape = (28, 28, 1),
) -> Model:
    """Create a residual network, by default ResNet-13.

    A 3x3 convolution, stages of residual blocks of two 3x3 convolutions, average pooling, and a linear layer.

    Parameters
    ----------
    classes : int
        Number of classes.
    seed : int
        Seed of the initial weights.
    widths : tuple of int
        Channels of each stage.
    blocks : tuple of int
        Number of blocks of each stage.
    image_shape : tuple of int
        (H, W, C).

    Returns
    -------
    Model
        The model.
    """
    return Model.from_architecture(Architecture(Kind.RESNET, widths, classes, image_shape, blocks=blocks), seed)


def vgg(
    classes: int = 10,
    seed: int = 0,
    widths: Sizes = (64, 128, 128, 256, 256),
    hidden_units: int = 1024,
    image_shape: ImageShape = (28, 28, 1),
) -> Model:
    """Create a VGG network, by default the paper's.

    3x3 convolutions with batch norm and ReLU, max pooling wherever the number of channels changes, three linear layers.

    Parameters
    ----------
    classes : int
        Number of classes.
    seed : int
        Seed of the initial weights.
    widths : tuple of int
        Channels of each convolution.
    hidden_units : int
        Outputs of the first two linear layers.
    image_shape : tuple of int
        (H, W, C).

    Returns
    -------
    Model
        The model.
    """
    return Model.from_architecture(Architecture(Kind.VGG, widths, classes, image_shape, hidden_units), seed)
