"""A network as a graph of the few things that are left of it once it is compiled.

A ReLU disappears into the layer before it, flattening into the order of the weights, and in evaluation mode batch norm
too: it is then an affine map per channel, and part of the weights before it. What is left are affine layers, batch norm
in training mode, pooling, and the joins of residual blocks, between *values*: the activations.

A transposed convolution is the gradient of a convolution, taken as a forward pass. So every affine layer has a *big*
and a *small* side, the convolution's input and output, and only the direction differs. A linear layer is a convolution
whose only window is the whole image; one that is unflattened to an image is the transpose of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from hlf_np.arrays import Array, Floats
from hlf_np.errors import UserError
from hlf_np.kernels.layout import Layout, convolved, frame_for_gradient
from hlf_np.kernels.tile import ADD, GATE, LANES, PLAIN, padded
from hlf_np.kernels.winograd import SIDE, transformed
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
    Sigmoid,
    TransposedConvolution,
    Unflatten,
)

Weighted = Convolution | TransposedConvolution | Linear
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
    is_input: bool = False
    narrow: bool = False  # an image whose few channels are not filled up to a whole vector
    buffer: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))
    gradient: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))

    @property
    def stride(self) -> int:
        """Numbers per pixel."""
        return self.channels if self.narrow else padded(self.channels)

    def next_finish(self) -> int:
        """How the next of its readers adds its part to the gradient: the first stores it, the last gates the sum."""
        first, self.written = self.written == 0, self.written + 1
        gated = self.rectified and self.written == self.readers
        return (PLAIN if first else ADD) | (GATE if gated else PLAIN)


@dataclass(frozen=True)
class Affine:
    """A convolution, its transpose, or a fully connected layer, and the batch norm folded into it.

    kernel, stride, padding : of the convolution from the big to the small side.
    winograd : computed in Winograd's form, see `kernels.winograd`.
    """

    source: Value
    target: Value
    layer: Weighted
    norm: BatchNorm | None
    kernel: tuple[int, int]
    stride: int
    padding: int
    transposed: bool = False
    winograd: bool = False

    @property
    def big(self) -> Value:
        return self.target if self.transposed else self.source

    @property
    def small(self) -> Value:
        return self.source if self.transposed else self.target

    def as_convolution(self, weight: Array) -> Array:
        """The layer's weights, or an array of that shape, as those of the convolution, (small, big, kh, kw)."""
        if not isinstance(self.layer, Linear):
            return weight
        # the big side comes channel after channel, see `flatten`
        shape = (self.big.channels, self.big.height, self.big.width)
        return weight.reshape(*shape, -1).transpose(3, 0, 1, 2) if self.transposed else weight.reshape(-1, *shape)

    def biases(self, bias: Array) -> Array:
        """The layer's bias, or an array of that shape, for each pixel of the target or for all, (1 or H W, O)."""
        if isinstance(self.layer, Linear) and self.transposed:
            return bias.reshape(self.target.channels, -1).T
        return bias[None]

    def arrays(self) -> list[Floats]:
        """Everything that the layer and its batch norm own."""
        return [array for layer in (self.layer, self.norm) if layer for _, array in layer.named_arrays()]

    def folded(self) -> Folded:
        """Weights with the batch norm folded in: y = s (w x + b - mean) + shift, s = scale / sqrt(var + eps)."""
        weight = self.layer.parameters["weight"].data
        count = weight.shape[1] if isinstance(self.layer, TransposedConvolution) else len(weight)
        bias = self.layer.parameters["bias"].data if "bias" in self.layer.parameters else np.zeros(count, np.float32)
        if self.norm is None:
            return weight, bias
        mean, variance = self.norm.buffers["running_mean"], self.norm.buffers["running_var"]
        scale = self.norm.parameters["weight"].data / np.sqrt(variance + self.norm.epsilon)
        shift = self.norm.parameters["bias"].data - mean * scale
        if isinstance(self.layer, TransposedConvolution):
            return weight * scale[:, None, None], bias * scale + shift
        scale, shift = (np.repeat(part, count // len(part)) for part in (scale, shift))  # of a channel, for its pixels
        return (weight.reshape(count, -1) * scale[:, None]).reshape(weight.shape), bias * scale + shift

    def prepared(self) -> Folded:
        """The same, in the form in which they are read."""
        weight, bias = self.folded()
        return (transformed(weight) if self.winograd else weight), bias

    @property
    def covers(self) -> bool:
        """Whether the only window is the whole image, as of a fully connected layer."""
        return self.kernel == (self.big.height, self.big.width) and self.padding == 0

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass; the gradient to the input takes as many."""
        pixels = self.small.height * self.small.width
        return pixels * self.small.channels * math.prod(self.kernel) * self.big.channels

    @property
    def reducible(self) -> bool:
        """Whether Winograd's form pays: many channels, and not a few patches that lie half beyond the image."""
        shape = self.kernel == (3, 3) and self.stride == 1 and self.padding == 1 and not self.transposed
        many = min(self.big.stride, self.small.stride) >= 2 * LANES
        return shape and many and min(self.big.height, self.big.width) > SIDE

    @property
    def patch_frame(self) -> int:
        """How far patches of 4x4 pixels, one for each 2x2 outputs, lie beyond the image."""
        return 1 + max(self.big.height % 2, self.big.width % 2)

    @property
    def pairs(self) -> bool:
        """Whether the gradient to the source is computed for pairs of pixels, see `Builder._paired_gradient`."""
        strided = self.stride == 2 and self.kernel[1] % 2 == 0 and self.padding > 0 and not self.covers
        return strided and not self.transposed and self.source.rectified and self.source.stride == LANES

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


@dataclass(frozen=True)
class Reparameterization:
    """Codes (L,) from means and log variances (2 L,) and noise; see `manifolds.vae`."""

    source: Value
    target: Value
    noise: Value


Node = Affine | Pool | Join | Norm | Reparameterization


class Graph:
    """The values and nodes of a network, in the order of computation; in training mode with its batch norms."""

    def __init__(self, network: Layer, input_shape: tuple[int, int, int], training: bool = False) -> None:
        self.training = training
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.input = self.value(*input_shape, narrow=input_shape[0] * input_shape[1] > 1)
        self.input.is_input = True
        self.output = self.sequence(network, self.input)

    def share_gradients(self) -> None:
        """Decide, once all nodes are there, where batch norm's gradient can be computed in place."""
        for node in self.nodes:
            if isinstance(node, Norm) and node.target.same_gradient is None:
                node.source.same_gradient = node.target
                node.target.gradient_frame = max(node.target.gradient_frame, node.source.gradient_frame)

    def value(self, height: int, width: int, channels: int, rectified: bool = False, narrow: bool = False) -> Value:
        """A new activation."""
        self.values.append(Value(height, width, channels, rectified, narrow=narrow and channels < LANES))
        return self.values[-1]

    def sequence(self, network: Layer, value: Value) -> Value:
        """Append a network that reads `value`; its output."""
        layers, position = _layers(network), 0

        def skip(kind: type[Layer]) -> Layer | None:
            """The next layer, if it is of this kind; it is then done with."""
            nonlocal position
            found = position < len(layers) and isinstance(layers[position], kind)
            position += found
            return layers[position - 1] if found else None

        while position < len(layers):
            layer, position = layers[position], position + 1
            if isinstance(layer, Convolution | TransposedConvolution | Linear):
                unflattened, norm = skip(Unflatten), skip(BatchNorm)
                assert isinstance(unflattened, Unflatten | None)
                assert isinstance(norm, BatchNorm | None)
                rectified, sigmoid = skip(ReLU) is not None, skip(Sigmoid) is not None
                value = self._affine(_shaped(layer, unflattened, value), layer, norm, rectified, sigmoid, value)
            elif isinstance(layer, MaxPool | AveragePool):
                value = self._pool(layer, value)
            elif isinstance(layer, Residual):
                body = self.sequence(layer.body, value)
                value = self._join(body, self.sequence(layer.shortcut, value) if layer.shortcut else value)
            elif not isinstance(layer, Flatten):
                raise UserError(f'there is no compiled {type(layer).__name__} here: use engine="autodiff"')
        return value

    def reparameterized(self, source: Value, noise: Value) -> Value:
        """Append the drawing of codes; the codes."""
        target = self.value(1, 1, noise.channels)
        source.readers += 1
        self.nodes.append(Reparameterization(source, target, noise))
        return target

    def _affine(
        self,
        shape: _Shape,
        layer: Weighted,
        norm: BatchNorm | None,
        rectified: bool,
        sigmoid: bool,
        source: Value,
    ) -> Value:
        apart = norm if self.training else None  # a batch norm of its own
        image = isinstance(layer, TransposedConvolution) and norm is None and not rectified
        target = self.value(*shape.target, rectified and apart is None, narrow=image)
        if sigmoid != target.narrow:
            raise UserError('a compiled decoder ends in an image of few channels and a sigmoid: use engine="autodiff"')
        own = (shape.kernel, shape.stride, shape.padding, shape.transposed)
        node = Affine(source, target, layer, None if apart else norm, *own)
        node = replace(node, winograd=not self.training and node.reducible)
        self.nodes.append(node)
        source.readers += 1
        if node.transposed:
            source.frame = max(source.frame, self._reach(node))
            target.gradient_frame = max(target.gradient_frame, node.padding)
        else:
            source.frame = max(source.frame, node.patch_frame if node.winograd else node.padding)
            reach = 0 if self.training and source.is_input else self._reach(node)
            target.gradient_frame = max(target.gradient_frame, reach)
        if node.pairs:  # half of a pair may lie beside the image
            source.gradient_frame = max(source.gradient_frame, 1)
        if apart is None:
            return target
        normalised = self.value(*shape.target, rectified)
        target.readers += 1
        self.nodes.append(Norm(target, normalised, apart))
        return normalised

    @staticmethod
    def _reach(node: Affine) -> int:
        """How far the windows on the small side lie beyond it, for all pixels of the big side."""
        if node.big.narrow:
            # the first block reaches (kernel - 1) // stride before the image, and the last one as far behind it
            return max(node.block_window)
        if node.winograd:
            return node.patch_frame
        sizes = zip((node.big.height, node.big.width), node.kernel, strict=True)
        return 0 if node.covers else max(frame_for_gradient(n, k, node.stride, node.padding) for n, k in sizes)

    def _pool(self, layer: MaxPool | AveragePool, source: Value) -> Value:
        stride = layer.stride or layer.kernel
        height, width = (convolved(n, layer.kernel, stride, 0) for n in (source.height, source.width))
        target = self.value(height, width, source.channels)
        source.readers += 1
        self.nodes.append(Pool(source, target, layer.kernel, stride, isinstance(layer, MaxPool)))
        return target

    def _join(self, body: Value, shortcut: Value) -> Value:
        target = self.value(body.height, body.width, body.channels, rectified=True)
        for value in (body, shortcut):
            value.readers += 1
            if value.readers == 1:  # nothing else reads it: its gradient is the target's
                value.same_gradient = target
                target.gradient_frame = max(target.gradient_frame, value.gradient_frame)
        self.nodes.append(Join(body, shortcut, target))
        return target


@dataclass(frozen=True)
class _Shape:
    """What the layer's class does not say: (H, W, C) of the target, and the convolution behind the layer."""

    target: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0
    transposed: bool = False


def _shaped(layer: Weighted, unflattened: Unflatten | None, source: Value) -> _Shape:
    weight = layer.parameters["weight"].shape
    if isinstance(layer, Linear):
        if unflattened is None:
            return _Shape((1, 1, weight[0]), (source.height, source.width))
        size = (unflattened.height, unflattened.width)
        return _Shape((*size, weight[0] // math.prod(size)), size, transposed=True)
    kernel, stride, padding = (weight[2], weight[3]), layer.stride, layer.padding
    extents = list(zip((source.height, source.width), kernel, strict=True))
    if isinstance(layer, Convolution):
        height, width = (convolved(n, k, stride, padding) for n, k in extents)
        return _Shape((height, width, weight[0]), kernel, stride, padding)
    height, width = ((n - 1) * stride - 2 * padding + k + layer.output_padding for n, k in extents)
    return _Shape((height, width, weight[1]), kernel, stride, padding, transposed=True)


def _layers(layer: Layer) -> list[Layer]:
    """The layers of nested sequences, in order."""
    if not isinstance(layer, Sequential):
        return [layer]
    return [inner for child in layer.layers for inner in _layers(child)]
