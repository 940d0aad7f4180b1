"""A network as a graph of the few things that are left of it once it is compiled.

A ReLU disappears into the layer before it, flattening into the order of the weights, and in evaluation mode batch norm
too: it is then an affine map per channel, and part of the weights before it; likewise two linear layers with nothing
in between, as at the end of the paper's CNN, are one. What is left are affine layers, batch norm in training mode,
pooling, and the joins of residual blocks, between *values*; see `nodes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from hlf_np.errors import UserError
from hlf_np.kernels.layout import convolved, frame_for_gradient
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.winograd_forms import FORMS
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
from hlf_np.programs.nodes import Affine, Join, Node, Norm, Pool, Reparameterization, Value, Weighted

L = TypeVar("L", bound=Layer)


class Graph:
    """The values and nodes of a network, in the order of computation.

    batch_size : of most batches if the network is in training mode, which keeps its batch norms; otherwise none.
    """

    def __init__(self, network: Layer, input_shape: tuple[int, int, int], batch_size: int | None = None) -> None:
        self.training, self.batch_size = batch_size is not None, batch_size
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

        def skip(kind: type[L]) -> L | None:
            """The next layer, if it is of this kind; it is then done with."""
            nonlocal position
            found = layers[position] if position < len(layers) else None
            if not isinstance(found, kind):
                return None
            position += 1
            return found

        while position < len(layers):
            layer, position = layers[position], position + 1
            if isinstance(layer, Convolution | TransposedConvolution | Linear):
                behind = skip(Linear) if isinstance(layer, Linear) and not self.training else None
                unflattened, norm = skip(Unflatten), skip(BatchNorm)
                rectified, sigmoid = skip(ReLU) is not None, skip(Sigmoid) is not None
                shape = _shaped(behind or layer, unflattened, value)
                value = self._affine(shape, layer, behind, norm, rectified, sigmoid, value)
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
        behind: Linear | None,
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
        node = Affine(source, target, layer, None if apart else norm, *own, behind)
        node = replace(node, winograd=node.reducible(self.batch_size))
        self.nodes.append(node)
        source.readers += 1
        read, differentiated = self._reach(node, node.transposed), self._reach(node, not node.transposed)
        source.frame = max(source.frame, read)
        if not (self.training and source.is_input):
            target.gradient_frame = max(target.gradient_frame, differentiated)
        if node.pairs:  # half of a pair may lie beside the image
            source.gradient_frame = max(source.gradient_frame, 1)
        if apart is None:
            return target
        normalised = self.value(*shape.target, rectified)
        target.readers += 1
        self.nodes.append(Norm(target, normalised, apart))
        return normalised

    @staticmethod
    def _reach(node: Affine, to_big: bool) -> int:
        """How far beyond an image an operation reads: towards the big side, or from it."""
        source, target = (node.small, node.big) if to_big else (node.big, node.small)
        if node.winograd:
            form = FORMS[node.forms[to_big]]
            sizes = ((source.height, target.height), (source.width, target.width))
            return max(form.frame(*pair) for pair in sizes)
        if not to_big:
            return node.padding
        if node.big.narrow:
            # the first block reaches (kernel - 1) // stride before the image, and the last one as far behind it
            return max(node.block_window)
        extents = zip((node.big.height, node.big.width), node.kernel, strict=True)
        return 0 if node.covers else max(frame_for_gradient(n, k, node.stride, node.padding) for n, k in extents)

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
