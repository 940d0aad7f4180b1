"""A network as a graph of the few things that are left of it once it is compiled.

A ReLU disappears into the layer before it, flattening into the order of the weights, and in evaluation mode batch norm
too: it is then an affine map per channel, and part of the weights before it. What is left are affine layers, batch norm
in training mode, pooling, and the joins of residual blocks, between *values*: the activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hlf_np.arrays import Array, Floats
from hlf_np.errors import UserError
from hlf_np.kernels.layout import Layout, convolved, frame_for_gradient
from hlf_np.kernels.tile import ADD, GATE, LANES, PLAIN, padded
from hlf_np.layers import (
    AveragePool,
    BatchNorm,
    Convolution,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    ReLU,
    Residual,
    Sequential,
)

Folded = tuple[Floats, Floats]  # weight, as the layer's, and bias (O,)


@dataclass(eq=False)
class Value:
    """An activation: its size, the widths of its two buffers' frames, and the buffers once they are laid out."""

    height: int
    width: int
    channels: int
    rectified: bool = False  # it is the output of a ReLU
    frame: int = 0
    gradient_frame: int = 0
    readers: int = 0
    written: int = 0  # gradients that have been added up so far
    same_gradient: Value | None = None  # the value whose gradient buffer this one shares
    is_image: bool = False
    buffer: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))
    gradient: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))

    @property
    def stride(self) -> int:
        """Numbers per pixel."""
        return self.channels if self.is_image else padded(self.channels)

    def next_finish(self) -> int:
        """How the next of its readers adds its part to the gradient: the first stores it, the last gates the sum."""
        first, self.written = self.written == 0, self.written + 1
        gated = self.rectified and self.written == self.readers
        return (PLAIN if first else ADD) | (GATE if gated else PLAIN)


@dataclass(frozen=True)
class Affine:
    """A convolution or a fully connected layer, and the batch norm folded into it."""

    source: Value
    target: Value
    layer: Convolution | Linear
    norm: BatchNorm | None
    kernel: tuple[int, int]
    stride: int
    padding: int

    def as_convolution(self, weight: Array) -> Array:
        """The layer's weights, or an array of that shape, as (O, C, kh, kw)."""
        if isinstance(self.layer, Convolution):
            return weight
        # inputs come channel after channel, see `flatten`
        return weight.reshape(len(weight), self.source.channels, self.source.height, self.source.width)

    def folded(self) -> Folded:
        """Weights with the batch norm folded in: y = s (w x + b - mean) + shift, s = scale / sqrt(var + eps)."""
        weight = self.layer.parameters["weight"].data
        bias = self.layer.parameters["bias"].data if "bias" in self.layer.parameters else np.zeros(1, np.float32)
        if self.norm is None:
            return weight, np.broadcast_to(bias, len(weight))
        mean, variance = self.norm.buffers["running_mean"], self.norm.buffers["running_var"]
        scale = self.norm.parameters["weight"].data / np.sqrt(variance + self.norm.epsilon)
        folded = (weight.reshape(len(weight), -1) * scale[:, None]).reshape(weight.shape)
        return folded, (bias - mean) * scale + self.norm.parameters["bias"].data

    @property
    def covers(self) -> bool:
        """Whether the only window is the whole image, as of a fully connected layer."""
        return self.kernel == (self.source.height, self.source.width) and self.padding == 0

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass; the gradient to the input takes as many."""
        pixels = self.target.height * self.target.width
        return pixels * self.target.channels * math.prod(self.kernel) * self.source.channels

    @property
    def pairs(self) -> bool:
        """Whether the gradient to the source is computed for pairs of pixels, see `Builder.paired_gradient`."""
        strided = self.stride == 2 and self.kernel[1] % 2 == 0 and self.padding > 0 and not self.covers
        return strided and self.source.rectified and self.source.stride == LANES

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block of pixels, see `Builder.blocks`: about four, or the whole image."""
        if self.covers:
            return self.kernel
        side = self.stride * max(1, 4 // self.stride)
        return side, side

    @property
    def block_window(self) -> tuple[int, int]:
        """Rows and columns of output pixels that a block meets."""
        if self.covers:
            return 1, 1
        rows, columns = (
            b // self.stride + (k - 1) // self.stride for b, k in zip(self.block, self.kernel, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Pool:
    source: Value
    target: Value
    kernel: int
    stride: int
    largest: bool


@dataclass(frozen=True)
class Join:
    """relu(body + shortcut)."""

    body: Value
    shortcut: Value
    target: Value


@dataclass(frozen=True)
class Norm:
    """Batch norm in training mode, and the ReLU behind it if the target is rectified."""

    source: Value
    target: Value
    layer: BatchNorm


Node = Affine | Pool | Join | Norm


class Graph:
    """The values and nodes of a network, in the order of computation; in training mode with its batch norms."""

    def __init__(self, network: Layer, image_shape: tuple[int, int, int], training: bool = False) -> None:
        self.training = training
        self.image = Value(*image_shape, is_image=True)
        self.values = [self.image]
        self.nodes: list[Node] = []
        self.logits = self._sequence(_layers(network), self.image)
        for node in self.nodes:
            if (
                isinstance(node, Norm) and node.target.same_gradient is None
            ):  # nothing else reads it: change it in place
                node.source.same_gradient = node.target
                node.target.gradient_frame = max(node.target.gradient_frame, node.source.gradient_frame)

    def _value(self, height: int, width: int, channels: int, rectified: bool) -> Value:
        self.values.append(Value(height, width, channels, rectified))
        return self.values[-1]

    def _sequence(self, layers: Sequence[Layer], value: Value) -> Value:
        position = 0
        while position < len(layers):
            layer, position = layers[position], position + 1
            if isinstance(layer, Convolution | Linear):
                norm = layers[position] if position < len(layers) else None
                norm = norm if isinstance(norm, BatchNorm) else None
                position += norm is not None
                rectified = position < len(layers) and isinstance(layers[position], ReLU)
                position += rectified
                value = self._affine(layer, norm, rectified, value)
            elif isinstance(layer, MaxPool | AveragePool):
                value = self._pool(layer, value)
            elif isinstance(layer, Residual):
                body = self._sequence(_layers(layer.body), value)
                shortcut = self._sequence(_layers(layer.shortcut), value) if layer.shortcut else value
                value = self._join(body, shortcut)
            elif not isinstance(layer, Flatten):
                raise UserError(f'there is no compiled {type(layer).__name__} here: use engine="autodiff"')
        return value

    def _affine(self, layer: Convolution | Linear, norm: BatchNorm | None, rectified: bool, source: Value) -> Value:
        if isinstance(layer, Convolution):
            out_channels, _, *kernel = layer.parameters["weight"].shape
            size, stride, padding = (kernel[0], kernel[1]), layer.stride, layer.padding
        else:
            out_channels = layer.parameters["weight"].shape[0]
            size, stride, padding = (source.height, source.width), 1, 0
        extents = list(zip((source.height, source.width), size, strict=True))
        height, width = (convolved(n, k, stride, padding) for n, k in extents)
        apart = norm if self.training else None  # a batch norm of its own
        target = self._value(height, width, out_channels, rectified and apart is None)
        node = Affine(source, target, layer, None if apart else norm, size, stride, padding)
        self.nodes.append(node)
        source.readers += 1
        source.frame = max(source.frame, padding)
        if source.is_image:
            # the first block reaches (kernel - 1) // stride before the image, and the last one as far behind it
            needed = 0 if self.training else max(node.block_window)
        else:
            needed = 0 if node.covers else max(frame_for_gradient(n, k, stride, padding) for n, k in extents)
        target.gradient_frame = max(target.gradient_frame, needed)
        if node.pairs:  # half of a pair may lie beside the image
            source.gradient_frame = max(source.gradient_frame, 1)
        if apart is None:
            return target
        normalised = self._value(height, width, out_channels, rectified)
        target.readers += 1
        self.nodes.append(Norm(target, normalised, apart))
        return normalised

    def _pool(self, layer: MaxPool | AveragePool, source: Value) -> Value:
        stride = layer.stride or layer.kernel
        height, width = (convolved(n, layer.kernel, stride, 0) for n in (source.height, source.width))
        target = self._value(height, width, source.channels, rectified=False)
        source.readers += 1
        self.nodes.append(Pool(source, target, layer.kernel, stride, isinstance(layer, MaxPool)))
        return target

    def _join(self, body: Value, shortcut: Value) -> Value:
        target = self._value(body.height, body.width, body.channels, rectified=True)
        for value in (body, shortcut):
            value.readers += 1
            if value.readers == 1:  # nothing else reads it: its gradient is the target's
                value.same_gradient = target
                target.gradient_frame = max(target.gradient_frame, value.gradient_frame)
        self.nodes.append(Join(body, shortcut, target))
        return target


def _layers(layer: Layer) -> list[Layer]:
    """The layers of nested sequences, in order."""
    if not isinstance(layer, Sequential):
        return [layer]
    return [inner for child in layer.layers for inner in _layers(child)]
