"""A network as a graph of the few things that are left of it once it is compiled.

A ReLU disappears into the layer before it, flattening into the order of the weights, and in evaluation mode batch norm
too: it is then an affine map per channel, and part of the weights before it; likewise two linear layers with nothing
in between, as at the end of the paper's CNN, are one. What is left are the nodes of `affine` and `nodes`, and *values*
between them.

Layers are recognised by their exact class: one that inherits from `Convolution` may compute anything. What is not in
`READERS` is not compiled.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hlf_np import layers as nn
from hlf_np.kernels.tile import LANES
from hlf_np.programs.affine import Affine, Weighted
from hlf_np.programs.nodes import Join, Norm, Pointwise, Pool
from hlf_np.programs.values import Node, NotCompiledError, Value

L = TypeVar("L", bound=nn.Layer)
Layers = deque[nn.Layer]  # those of nested sequences that are still to be read, in order

FOLDED = 1 << 22  # multiplications that folding two linear layers may take, whenever their weights have changed


class Graph:
    """The values and nodes of a network, in the order of computation.

    UserError for a network that does not fit together, NotCompiledError for one with layers that are not compiled.

    batch_size : of most batches if the network is in training mode, which keeps its batch norms; otherwise none.
    """

    def __init__(self, network: nn.Layer, input_shape: tuple[int, ...], batch_size: int | None = None) -> None:
        self.batch_size = batch_size
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.input = self.value(*_image(input_shape))
        self.input.is_input = True
        self.output, self.output_shape = self.input, input_shape
        self.append(network)

    @property
    def training(self) -> bool:
        return self.batch_size is not None

    def append(self, network: nn.Layer) -> None:
        """Append a network that reads the output, and whose output this becomes."""
        self.output_shape = network.output_shape(self.output_shape)
        self.output = self.read(network, self.output)
        if self.output.shape != _image(self.output_shape):
            raise NotCompiledError("a network whose output is a flattened image is not compiled")

    def read(self, network: nn.Layer, value: Value) -> Value:
        """Append a network that reads `value`; its output."""
        layers = deque(_flat(network))
        while layers:
            layer = layers.popleft()
            if type(layer) not in READERS:
                raise NotCompiledError(f"{type(layer).__name__} is not compiled here")
            value = READERS[type(layer)](self, layer, layers, value)
        return value

    def value(self, height: int, width: int, channels: int, rectified: bool = False) -> Value:
        """A new activation."""
        self.values.append(Value(height, width, channels, rectified))
        return self.values[-1]

    def add(self, node: Node) -> Value:
        """Append a node; the value that it writes."""
        self.nodes.append(node)
        node.target.writer = node
        for source in node.sources:
            source.readers.append(node)
        return node.target

    def finish(self) -> None:
        """Decide what depends on all readers: which images stay narrow, forms, frames, and which gradients are one."""
        if self.output.rectified:  # a loss does not gate its gradient: a copy of the output stands between them
            self.output = self.add(Pointwise(self.output, self.value(*self.output.shape), None))
        for value in self.values:
            value.narrow = _narrow(value)
        for node in reversed(self.nodes):  # joins before the norms in front of them
            node.prepare(self.batch_size)
        for value in self.values:
            if value.same_gradient:
                shared = value.same_gradient
                shared.gradient_frame = max(shared.gradient_frame, value.gradient_frame)


def skip(layers: Layers, kind: type[L], fits: Callable[[L], bool] = lambda layer: True) -> L | None:
    """The next layer, if it is of this kind and fits; it is then done with."""
    if not layers or type(layers[0]) is not kind or not fits(layers[0]):
        return None
    return layers.popleft()  # type: ignore[return-value]


def read_affine(graph: Graph, layer: Weighted, layers: Layers, source: Value) -> Value:
    """Append the layer and what can be computed with it: batch norm, ReLU, a second linear layer, the final sigmoid."""
    behind = None
    if isinstance(layer, nn.Linear) and not graph.training:
        behind = skip(layers, nn.Linear, lambda second: _foldable(layer, second))
    # only a code can be unflattened by the transpose of a convolution
    unflattened = skip(layers, nn.Unflatten) if isinstance(layer, nn.Linear) and source.pixels == 1 else None
    shape, geometry = _geometry(behind or layer, unflattened, source)
    norm = skip(layers, nn.BatchNorm)
    rectified = skip(layers, nn.ReLU) is not None
    decoded = isinstance(layer, nn.TransposedConvolution) and not norm and not rectified
    sigmoid = decoded and skip(layers, nn.Sigmoid) is not None
    apart = norm if graph.training else None  # a batch norm of its own
    target = graph.value(*shape, rectified=rectified and not apart)
    node = Affine(source, target, layer, None if apart else norm, *geometry, behind=behind, sigmoid=sigmoid)
    value = graph.add(node)
    return graph.add(Norm(value, graph.value(*shape, rectified=rectified), apart)) if apart else value


def _foldable(first: nn.Linear, second: nn.Linear) -> bool:
    """Whether two linear layers in a row are less work as one, and folding them is not."""
    (hidden, inputs), (outputs, _) = (layer.parameters["weight"].shape for layer in (first, second))
    return inputs * outputs <= hidden * (inputs + outputs) and inputs * outputs * hidden <= FOLDED


_Geometry = tuple[tuple[int, int], int, int, bool]  # kernel, stride, padding, whether it is transposed


def _geometry(
    layer: Weighted, unflattened: nn.Unflatten | None, source: Value
) -> tuple[tuple[int, int, int], _Geometry]:
    """The shape of the target, and the convolution behind the layer."""
    weight = layer.parameters["weight"].shape
    if isinstance(layer, nn.Linear):
        if unflattened is None:
            return (1, 1, weight[0]), ((source.height, source.width), 1, 0, False)
        size = (unflattened.height, unflattened.width)
        return (*size, weight[0] // math.prod(size)), (size, 1, 0, True)
    height, width, channels = layer.output_shape(source.shape)
    transposed = isinstance(layer, nn.TransposedConvolution)
    return (height, width, channels), ((weight[2], weight[3]), layer.stride, layer.padding, transposed)


def read_norm(graph: Graph, layer: nn.BatchNorm, layers: Layers, source: Value) -> Value:
    """Append a batch norm that stands by itself, and the ReLU behind it."""
    if layer.channels != source.channels:
        raise NotCompiledError("batch norm of a flattened image is not compiled")
    target = graph.value(*source.shape, rectified=skip(layers, nn.ReLU) is not None)
    return graph.add(Norm(source, target, layer) if graph.training else Pointwise(source, target, layer))


def read_relu(graph: Graph, layer: nn.ReLU, layers: Layers, source: Value) -> Value:
    """Append a ReLU that stands by itself."""
    return graph.add(Pointwise(source, graph.value(*source.shape, rectified=True), None))


def read_pool(graph: Graph, layer: nn.MaxPool | nn.AveragePool, layers: Layers, source: Value) -> Value:
    """Append a pooling."""
    stride = layer.stride or layer.kernel
    height, width, channels = layer.output_shape(source.shape)
    target = graph.value(height, width, channels)
    return graph.add(Pool(source, target, layer.kernel, stride, isinstance(layer, nn.MaxPool)))


def read_residual(graph: Graph, layer: nn.Residual, layers: Layers, source: Value) -> Value:
    """Append both branches and their join."""
    body = graph.read(layer.body, source)
    shortcut = graph.read(layer.shortcut, source) if layer.shortcut else source
    if body.shape != shortcut.shape:
        raise NotCompiledError("the branches of a residual block are images of different shapes, flattened")
    return graph.add(Join(body, shortcut, graph.value(*body.shape, rectified=True)))


# What a layer becomes: the nodes that it adds to the graph, given the layers behind it and the value that it reads.
READERS: dict[type[nn.Layer], Callable[[Graph, Any, Layers, Value], Value]] = {
    nn.Convolution: read_affine,
    nn.TransposedConvolution: read_affine,
    nn.Linear: read_affine,
    nn.BatchNorm: read_norm,
    nn.ReLU: read_relu,
    nn.MaxPool: read_pool,
    nn.AveragePool: read_pool,
    nn.Residual: read_residual,
    nn.Flatten: lambda graph, layer, layers, source: source,
}


def _flat(layer: nn.Layer) -> Iterable[nn.Layer]:
    if type(layer) is not nn.Sequential:
        return [layer]
    return [inner for child in layer.layers for inner in _flat(child)]


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A value of shape (H, W, C) or (D,) as an image."""
    return (1, 1, shape[0]) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def _narrow(value: Value) -> bool:
    """Whether an image of few channels need not be filled up to whole vectors.

    It is either the input or what a decoder ends in, and is read by one convolution or linear layer, or by nobody.
    Everything else takes whole vectors.
    """
    decoded = isinstance(value.writer, Affine) and value.writer.sigmoid
    read = [isinstance(node, Affine) and not node.transposed for node in value.readers]
    few = value.pixels > 1 and value.channels < LANES
    narrow = few and (decoded if not read else read == [True] and (decoded or value.is_input))
    if decoded and not narrow:
        raise NotCompiledError("a sigmoid is compiled only at the end of a decoder, behind an image of few channels")
    return narrow
