"""A network as a graph of nodes and values, with layers fused where possible.

A ReLU is fused into the layer before it, and flattening is expressed by the order of the weights. In evaluation mode
batch norm is an affine map per channel, which is folded into the weights before it. Two linear layers with nothing in
between, as at the end of the paper's CNN, are folded into one. What is left are the nodes of `affine` and `nodes`, and
the values between them.

Layers are recognised by their exact class, since a subclass of `Convolution` may compute anything. Layers that are not
in `READERS` are not compiled.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from hlf_np import layers as nn
from hlf_np.kernels.products.tile import LANES
from hlf_np.programs.affine import Affine, AffineLayer
from hlf_np.programs.affine_map import AffineMap
from hlf_np.programs.builder import Builder
from hlf_np.programs.nodes import Pointwise, Pool, ResidualAdd, TrainingNorm
from hlf_np.programs.values import Node, NotCompiledError, Value

L = TypeVar("L", bound=nn.Layer)
Layers = deque[nn.Layer]  # the layers still to be read, in order; nested sequences are flattened

MAX_FOLDING_MULTIPLICATIONS = 1 << 22  # folding two linear layers is repeated whenever their weights change


class Graph:
    """The values and nodes of a network, in the order of computation.

    Parameters
    ----------
    network : Layer
        The network.
    input_shape : tuple of int
        (H, W, C) for images, (D,) for codes.
    batch_size : int, optional
        The size of most batches in training mode, which keeps batch norms as nodes; None in evaluation mode.

    Raises
    ------
    UserError
        If the layers do not fit together.
    NotCompiledError
        If a layer is not compiled.
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
        """Append a network that reads the present output; its output becomes that of the graph."""
        self.output_shape = network.output_shape(self.output_shape)
        self.output = self.read(network, self.output)
        if self.output.shape != _image(self.output_shape):
            raise NotCompiledError("a network whose output is a flattened image is not compiled")

    def read(self, network: nn.Layer, value: Value) -> Value:
        """Append a network that reads `value`; return its output."""
        layers = deque(_flat(network))
        while layers:
            layer = layers.popleft()
            if type(layer) not in READERS:
                raise NotCompiledError(f"{type(layer).__name__} is not compiled here")
            value = READERS[type(layer)](self, layer, layers, value)
        return value

    def value(self, height: int, width: int, channels: int, after_relu: bool = False) -> Value:
        """Append and return a new value."""
        self.values.append(Value(height, width, channels, after_relu))
        return self.values[-1]

    def add(self, node: Node) -> Value:
        """Append a node; return the value that it writes."""
        self.nodes.append(node)
        node.target.writer = node
        for source in node.sources:
            source.readers.append(node)
        return node.target

    def choose_algorithms(self) -> None:
        """Decide what depends on all readers: padding of channels, algorithms, halos, and shared gradients."""
        if self.output.after_relu:  # a loss does not mask its gradient, so it reads a copy of the output
            self.output = self.add(Pointwise(self.output, self.value(*self.output.shape), None))
        for value in self.values:
            value.unpadded = _unpadded(value)
        for node in reversed(self.nodes):  # residual additions before the batch norms that precede them
            node.prepare(self.batch_size)
        for value in self.values:
            if value.same_gradient:
                shared = value.same_gradient
                shared.gradient_halo = max(shared.gradient_halo, value.gradient_halo)
        shared_values = {value.same_gradient for value in self.values if value.same_gradient}
        for value in self.values:
            only_affine = len(value.readers) == 1 and isinstance(value.readers[0], Affine)
            if not self.training and value.after_relu and only_affine and value not in shared_values:
                # an affine layer writes a gradient pixel by pixel, each after it has read the mask there
                value.in_place, value.halo = True, max(value.halo, value.gradient_halo)

    def allocate(self, builder: Builder) -> None:
        """Allocate scratch memory and the buffers of all values and their gradients."""
        builder.scratch_size = max((node.scratch_size for node in self.nodes), default=0)
        for value in self.values:
            value.allocate(builder)
        for value in reversed(self.values):  # a gradient may share the buffer of a later value's gradient
            value.allocate_gradient(builder)


def pop_if(layers: Layers, kind: type[L], fits: Callable[[L], bool] = lambda layer: True) -> L | None:
    """Remove and return the next layer if it is of this kind and fits, else return None."""
    if not layers or type(layers[0]) is not kind or not fits(layers[0]):
        return None
    return layers.popleft()  # type: ignore[return-value]


def read_affine(graph: Graph, layer: AffineLayer, layers: Layers, source: Value) -> Value:
    """Append an affine layer, and fuse what follows: a second linear layer, batch norm, ReLU, or the final sigmoid."""
    second = None
    if isinstance(layer, nn.Linear) and not graph.training:
        second = pop_if(layers, nn.Linear, lambda other: _foldable(layer, other))
    # only a code of one pixel can be unflattened by the transpose of a convolution
    unflatten = pop_if(layers, nn.Unflatten) if isinstance(layer, nn.Linear) and source.pixels == 1 else None
    geometry = _geometry(second or layer, unflatten, source)
    norm = pop_if(layers, nn.BatchNorm)
    relu = pop_if(layers, nn.ReLU) is not None
    decoder_end = isinstance(layer, nn.TransposedConvolution) and not norm and not relu
    sigmoid = decoder_end and pop_if(layers, nn.Sigmoid) is not None
    training_norm = norm if graph.training else None
    target = graph.value(*geometry.target, after_relu=relu and not training_norm)
    big, small = (target, source) if geometry.transposed else (source, target)
    bias_per_pixel = geometry.transposed and isinstance(layer, nn.Linear)
    affine = AffineMap(big, small, geometry.kernel, geometry.stride, geometry.padding, bias_per_pixel)
    folded_norm = None if training_norm else norm
    value = graph.add(Affine(source, target, layer, folded_norm, affine, second=second, sigmoid=sigmoid))
    if not training_norm:
        return value
    return graph.add(TrainingNorm(value, graph.value(*geometry.target, after_relu=relu), training_norm))


def _foldable(first: nn.Linear, second: nn.Linear) -> bool:
    """Return whether two linear layers in a row are less work as one, and folding them is affordable."""
    (hidden, inputs), (outputs, _) = (layer.parameters["weight"].shape for layer in (first, second))
    cheap = inputs * outputs * hidden <= MAX_FOLDING_MULTIPLICATIONS
    return cheap and inputs * outputs <= hidden * (inputs + outputs)


class _Geometry(NamedTuple):
    """An affine layer's convolution, and the shape of its target."""

    target: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: int
    padding: int
    transposed: bool  # whether the layer is the transpose of the convolution


def _geometry(layer: AffineLayer, unflatten: nn.Unflatten | None, source: Value) -> _Geometry:
    weight = layer.parameters["weight"].shape
    if isinstance(layer, nn.Linear):
        if unflatten is None:
            return _Geometry((1, 1, weight[0]), (source.height, source.width), 1, 0, False)
        size = (unflatten.height, unflatten.width)
        return _Geometry((*size, weight[0] // math.prod(size)), size, 1, 0, True)
    height, width, channels = layer.output_shape(source.shape)
    transposed = isinstance(layer, nn.TransposedConvolution)
    return _Geometry((height, width, channels), (weight[2], weight[3]), layer.stride, layer.padding, transposed)


def read_norm(graph: Graph, layer: nn.BatchNorm, layers: Layers, source: Value) -> Value:
    """Append a batch norm that does not follow an affine layer, and fuse the ReLU after it."""
    if layer.channels != source.channels:
        raise NotCompiledError("batch norm of a flattened image is not compiled")
    target = graph.value(*source.shape, after_relu=pop_if(layers, nn.ReLU) is not None)
    return graph.add(TrainingNorm(source, target, layer) if graph.training else Pointwise(source, target, layer))


def read_relu(graph: Graph, layer: nn.ReLU, layers: Layers, source: Value) -> Value:
    """Append a ReLU that could not be fused with a layer before it."""
    return graph.add(Pointwise(source, graph.value(*source.shape, after_relu=True), None))


def read_pool(graph: Graph, layer: nn.MaxPool | nn.AveragePool, layers: Layers, source: Value) -> Value:
    """Append a pooling layer."""
    stride = layer.stride or layer.kernel
    height, width, channels = layer.output_shape(source.shape)
    target = graph.value(height, width, channels)
    return graph.add(Pool(source, target, layer.kernel, stride, isinstance(layer, nn.MaxPool)))


def read_residual(graph: Graph, layer: nn.Residual, layers: Layers, source: Value) -> Value:
    """Append both branches of a residual block and their sum."""
    body = graph.read(layer.body, source)
    shortcut = graph.read(layer.shortcut, source) if layer.shortcut else source
    if body.shape != shortcut.shape:
        raise NotCompiledError("the branches of a residual block are images of different shapes, flattened")
    return graph.add(ResidualAdd(body, shortcut, graph.value(*body.shape, after_relu=True)))


# For each class of layers, the function that appends it to the graph. Its arguments: the graph, the layer, the layers
# after it, from which it removes those that it fuses, and the value that it reads. It returns the value that is read
# next.
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
    """Return the layers of nested sequences as one sequence."""
    if type(layer) is not nn.Sequential:
        return [layer]
    return [inner for child in layer.layers for inner in _flat(child)]


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape of a value (H, W, C) or (D,) as that of an image."""
    return (1, 1, shape[0]) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def _unpadded(value: Value) -> bool:
    """Return whether the few channels of an image are stored without padding to whole vectors.

    The image must be the input of the network or the output of a decoder, and must be read by one convolution or linear
    layer, or by none. All other values are padded.
    """
    decoded = isinstance(value.writer, Affine) and value.writer.sigmoid
    convolved = [isinstance(node, Affine) and not node.transposed for node in value.readers]
    few_channels = value.pixels > 1 and value.channels < LANES
    unpadded = few_channels and (decoded if not convolved else convolved == [True] and (decoded or value.is_input))
    if decoded and not unpadded:
        raise NotCompiledError("a sigmoid is compiled only at the end of a decoder, after an image of few channels")
    return unpadded
