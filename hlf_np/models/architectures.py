"""Descriptions of the four classifiers, and how they are built from layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from hlf_np import layers as nn
from hlf_np.support.checks import check_image_shape, check_sizes, store_counts
from hlf_np.support.errors import UserError

Sizes = tuple[int, ...]
ImageShape = tuple[int, int, int]  # (H, W, C)


class Kind(StrEnum):
    """The kinds of classifiers."""

    CNN = "cnn"
    MLP = "mlp"
    RESNET = "resnet"
    VGG = "vgg"


@dataclass(frozen=True)
class Architecture:
    """Description of a network, from which it can be built.

    Parameters
    ----------
    kind : Kind
        The kind of network.
    widths : tuple of int
        Channels of the convolutions of a CNN or VGG or of the stages of a ResNet; units of the hidden layers of an MLP.
    classes : int
        Number of classes.
    image_shape : tuple of int
        (H, W, C).
    hidden_units : int
        Outputs of the first linear layer of a CNN, and of the first two of a VGG.
    blocks : tuple of int
        Number of residual blocks of each stage of a ResNet.

    Raises
    ------
    UserError
        If a size is not a positive integer, a ResNet does not have one number of blocks per stage, or the images are
        too small.
    """

    kind: Kind
    widths: Sizes
    classes: int = 10
    image_shape: ImageShape = (28, 28, 1)
    hidden_units: int = 100
    blocks: Sizes = ()

    def __post_init__(self) -> None:
        for name in ("widths", "blocks"):
            object.__setattr__(self, name, check_sizes(name, getattr(self, name)))
        object.__setattr__(self, "image_shape", check_image_shape(self.image_shape))
        store_counts(self, classes=1, hidden_units=1)
        if not self.widths:
            raise UserError("an architecture needs at least one width, such as (16,)")
        if self.kind is Kind.RESNET and len(self.blocks) != len(self.widths):
            raise UserError(
                f"a ResNet needs one number of blocks per stage, not {self.blocks} for widths {self.widths}"
            )
        if self.kind is not Kind.MLP and min(self.image_shape[:2]) < self.min_image_side:
            raise UserError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]} pixels are too small for this {self.kind}:"
                f" give it fewer layers, or images of at least {self.min_image_side}x{self.min_image_side} pixels"
            )

    def with_widths(self, widths: Sizes, **changes: Any) -> Architecture:
        """Return the same architecture with other widths; each stage of a ResNet gets as many blocks as the first.

        Parameters
        ----------
        widths : tuple of int
            The widths, whose number may differ.
        **changes
            New values of other fields.

        Returns
        -------
        Architecture
            The changed architecture.
        """
        return replace(self, widths=widths, blocks=self.blocks[:1] * len(widths), **changes)

    @property
    def min_image_side(self) -> int:
        """Side of the smallest image, in pixels, that still has a pixel after all layers that halve it."""
        halvings = {Kind.RESNET: len(self.widths) - 1, Kind.VGG: sum(a != b for a, b in pairwise(self.widths))}
        return int(2 ** halvings.get(self.kind, len(self.widths)))


DEFAULTS = {
    Kind.CNN: Architecture(Kind.CNN, (16, 32, 64)),
    Kind.MLP: Architecture(Kind.MLP, (128, 128, 128, 128)),
    Kind.RESNET: Architecture(Kind.RESNET, (64, 128, 256), blocks=(2, 2, 2)),
    Kind.VGG: Architecture(Kind.VGG, (64, 128, 128, 256, 256), hidden_units=1024),
}


def build(architecture: Architecture, random: nn.RandomSource) -> nn.Sequential:
    """Build a network with initial weights.

    Parameters
    ----------
    architecture : Architecture
        Description of the network.
    random : RandomSource
        Source of the initial weights.

    Returns
    -------
    Sequential
        The network, from images (N, H, W, C) to logits (N, classes).
    """
    builders = {Kind.CNN: _cnn, Kind.MLP: _mlp, Kind.RESNET: _resnet, Kind.VGG: _vgg}
    return nn.Sequential(*builders[architecture.kind](architecture, random))


def _cnn(architecture: Architecture, random: nn.RandomSource) -> list[nn.Layer]:
    height, width, channels = architecture.image_shape
    layers: list[nn.Layer] = []
    for out_channels in architecture.widths:  # 28 -> 14 -> 7 -> 3
        layers += [nn.Convolution(channels, out_channels, random), nn.BatchNorm(out_channels), nn.ReLU()]
        height, width, channels = height // 2, width // 2, out_channels
    hidden = nn.Linear(height * width * channels, architecture.hidden_units, random)
    # no activation between the two linear layers, as in the released code
    return [*layers, nn.Flatten(), hidden, nn.Linear(architecture.hidden_units, architecture.classes, random)]


def _mlp(architecture: Architecture, random: nn.RandomSource) -> list[nn.Layer]:
    inputs = math.prod(architecture.image_shape)
    layers: list[nn.Layer] = [nn.Flatten()]
    for units in architecture.widths:
        layers += [nn.Linear(inputs, units, random), nn.ReLU(), nn.BatchNorm(units)]  # the released code's order
        inputs = units
    return [*layers, nn.Linear(inputs, architecture.classes, random)]


def _convolution_and_norm(channels: int, out_channels: int, random: nn.RandomSource, stride: int = 1) -> list[nn.Layer]:
    """Return a 3x3 convolution and its batch norm."""
    convolution = nn.Convolution(channels, out_channels, random, 3, stride, 1, False, nn.Initialization.FAN_OUT)
    return [convolution, nn.BatchNorm(out_channels)]


def _resnet(architecture: Architecture, random: nn.RandomSource) -> list[nn.Layer]:
    height, width, channels = architecture.image_shape
    layers: list[nn.Layer] = [*_convolution_and_norm(channels, architecture.widths[0], random), nn.ReLU()]
    channels = architecture.widths[0]
    for stage, (out_channels, blocks) in enumerate(zip(architecture.widths, architecture.blocks, strict=True)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1  # 28 -> 14 -> 7
            first = _convolution_and_norm(channels, out_channels, random, stride)
            body = nn.Sequential(*first, nn.ReLU(), *_convolution_and_norm(out_channels, out_channels, random))
            shortcut = None
            if stride > 1 or channels != out_channels:
                projection = nn.Convolution(
                    channels, out_channels, random, 1, stride, 0, False, nn.Initialization.FAN_OUT
                )
                shortcut = nn.Sequential(projection, nn.BatchNorm(out_channels))
            layers.append(nn.Residual(body, shortcut))
            height, width, channels = -(-height // stride), -(-width // stride), out_channels
    window = min(height, width)
    features = (height // window) * (width // window) * channels
    return [*layers, nn.AveragePool(window), nn.Flatten(), nn.Linear(features, architecture.classes, random)]


def _vgg(architecture: Architecture, random: nn.RandomSource) -> list[nn.Layer]:
    height, width, channels = architecture.image_shape
    layers: list[nn.Layer] = []
    for index, out_channels in enumerate(architecture.widths):
        if index and out_channels != channels:  # 28 -> 14 -> 7
            layers.append(nn.MaxPool(2))
            height, width = height // 2, width // 2
        convolution = nn.Convolution(channels, out_channels, random, 3, 1, 1, initialization=nn.Initialization.FAN_OUT)
        layers += [convolution, nn.BatchNorm(out_channels), nn.ReLU()]
        channels = out_channels
    sizes = [height * width * channels, architecture.hidden_units, architecture.hidden_units, architecture.classes]
    layers.append(nn.Flatten())
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs, random, nn.Initialization.FAN_IN)  # only here, as in the released code
        layers += [linear, nn.ReLU()]
    return layers[:-1]  # no ReLU after the logits
