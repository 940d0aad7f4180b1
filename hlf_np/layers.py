"""Layers: operations that own parameters, and their composition.

A layer is called with a tensor and a mode. In training mode its parameters receive gradients and batch norm uses the
batch's statistics; in evaluation mode parameters are constants and batch norm uses its running statistics, so each
image's result is independent of the rest of the batch. Parameters are named and laid out as in PyTorch's
`nn.Sequential`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from hlf_np import operations
from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_count
from hlf_np.layer import Layer as Layer
from hlf_np.layer import MisfitError as MisfitError
from hlf_np.layer import Shape


class Draws(Protocol):
    """Where initial weights come from: a random generator, or what stands in for one."""

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32], /) -> Floats: ...


def _image(layer: Layer, shape: Shape, channels: int | None = None) -> tuple[int, int, int]:
    """The shape as that of an image, of so many channels if they are given; MisfitError for any other."""
    if len(shape) != 3 or (channels is not None and shape[2] != channels):
        raise MisfitError(layer, f"images (H, W, {'C' if channels is None else channels})", shape)
    return shape[0], shape[1], shape[2]


def _windows(layer: Layer, shape: Shape, kernel: int, stride: int, padding: int = 0) -> tuple[int, int]:
    """Rows and columns of windows of an image (H, W, C)."""
    if min(shape[:2]) + 2 * padding < kernel:
        raise MisfitError(layer, f"images of at least {kernel - 2 * padding} pixels a side", shape)
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in shape[:2])
    return height, width


def _shape_within(layer: Layer, shape: Shape, name: str, before: str = "") -> Shape:
    """The output shape of a layer inside another one; see `MisfitError.within`."""
    try:
        return layer.output_shape(shape)
    except MisfitError as error:
        raise error.within(name, before) from None


def _normal(random: Draws, shape: tuple[int, ...], fan_in: int) -> Tensor:
    """The protocol's initialisation: normal with standard deviation sqrt(2 / (3 fan_in))."""
    return Tensor(random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / (3 * fan_in))), True)


def _zeros(size: int) -> Tensor:
    return Tensor(np.zeros(size, np.float32), True)


class Linear(Layer):
    """(N, inputs) to (N, outputs)."""

    def __init__(self, inputs: int, outputs: int, random: Draws) -> None:
        super().__init__()
        self.parameters = {"weight": _normal(random, (outputs, inputs), inputs), "bias": _zeros(outputs)}

    def __repr__(self) -> str:
        outputs, inputs = self.parameters["weight"].shape
        return f"Linear({inputs}, {outputs})"

    def output_shape(self, shape: Shape) -> Shape:
        outputs, inputs = self.parameters["weight"].shape
        if shape != (inputs,):
            raise MisfitError(self, f"({inputs},)", shape)
        return (outputs,)

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.linear(x, self._parameter("weight", training), self._parameter("bias", training))


class Convolution(Layer):
    """(N, H, W, channels) to (N, H', W', out_channels)."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        random: Draws,
        kernel: int = 4,
        stride: int = 2,
        padding: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.padding = check_count("stride", stride), check_count("padding", padding, least=0)
        shape = (out_channels, channels, check_count("kernel", kernel), kernel)
        self.parameters = {"weight": _normal(random, shape, channels * kernel * kernel)}
        if bias:
            self.parameters["bias"] = _zeros(out_channels)

    def __repr__(self) -> str:
        out_channels, channels, kernel, _ = self.parameters["weight"].shape
        return f"Convolution({channels}, {out_channels}, kernel={kernel})"

    def output_shape(self, shape: Shape) -> Shape:
        out_channels, channels, kernel, _ = self.parameters["weight"].shape
        size = _windows(self, _image(self, shape, channels), kernel, self.stride, self.padding)
        return (*size, out_channels)

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        bias = self._parameter("bias", training) if "bias" in self.parameters else None
        return operations.convolution(x, self._parameter("weight", training), bias, self.stride, self.padding)


class TransposedConvolution(Layer):
    """(N, H, W, channels) to a larger (N, H', W', out_channels): the transpose of a convolution."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        random: Draws,
        kernel: int = 4,
        stride: int = 2,
        padding: int = 1,
        output_padding: int = 0,
    ) -> None:
        super().__init__()
        self.stride, self.padding = check_count("stride", stride), check_count("padding", padding, least=0)
        self.output_padding = check_count("output_padding", output_padding, least=0, most=stride - 1)
        shape = (channels, out_channels, check_count("kernel", kernel), kernel)
        # each output pixel meets kernel^2 / stride^2 of the weights
        fan_in = max(1, channels * kernel * kernel // stride**2)
        self.parameters = {"weight": _normal(random, shape, fan_in), "bias": _zeros(out_channels)}

    def __repr__(self) -> str:
        channels, out_channels, kernel, _ = self.parameters["weight"].shape
        return f"TransposedConvolution({channels}, {out_channels}, kernel={kernel})"

    def output_shape(self, shape: Shape) -> Shape:
        channels, out_channels, kernel, _ = self.parameters["weight"].shape
        sizes = _image(self, shape, channels)[:2]
        height, width = ((n - 1) * self.stride - 2 * self.padding + kernel + self.output_padding for n in sizes)
        if min(height, width) < 1:
            raise MisfitError(self, f"larger images, as {height}x{width} pixels would be left", shape)
        return height, width, out_channels

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        weight, bias = self._parameter("weight", training), self._parameter("bias", training)
        return operations.transposed_convolution(x, weight, bias, self.stride, self.padding, self.output_padding)


class BatchNorm(Layer):
    """Batch normalisation over all axes but the last.

    The running statistics are `(1 - momentum) * running + momentum * batch`, the variance with Bessel's
    correction, as PyTorch's.
    """

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.parameters = {"weight": Tensor(np.ones(channels, np.float32), True), "bias": _zeros(channels)}
        self.buffers = {"running_mean": np.zeros(channels, np.float32), "running_var": np.ones(channels, np.float32)}

    @property
    def channels(self) -> int:
        return int(self.parameters["weight"].data.size)

    def __repr__(self) -> str:
        return f"BatchNorm({self.channels})"

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1] != self.channels:
            raise MisfitError(self, f"{self.channels} channels", shape)
        return shape

    def factor_and_offset(self) -> tuple[Floats, Floats]:
        """Evaluation mode as an affine map, y = factor * x + offset, (C,) each."""
        mean, variance = self.buffers["running_mean"], self.buffers["running_var"]
        factor = self.parameters["weight"].data / np.sqrt(variance + self.epsilon)
        return factor, self.parameters["bias"].data - mean * factor

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        weight, bias = self._parameter("weight", training), self._parameter("bias", training)
        if not training:
            statistics = self.buffers["running_mean"], self.buffers["running_var"]
            return operations.normalize(x, weight, bias, *statistics, self.epsilon)
        y, mean, variance = operations.batch_norm(x, weight, bias, self.epsilon)
        count = x.data.size // x.shape[-1]
        unbiased = variance * (count / (count - 1))
        for name, batch in (("running_mean", mean), ("running_var", unbiased)):
            running = self.buffers[name]
            running += self.momentum * (batch - running)
        return y


class _Elementwise(Layer):
    """A function of every entry by itself."""

    operation: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return type(self).operation(x)

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class ReLU(_Elementwise):
    """max(x, 0)."""

    operation = staticmethod(operations.relu)


class LeakyReLU(_Elementwise):
    """x where positive, slope * x elsewhere."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.leaky_relu(x, self.slope)


class Sigmoid(_Elementwise):
    """1 / (1 + exp(-x))."""

    operation = staticmethod(operations.sigmoid)


class Tanh(_Elementwise):
    """The hyperbolic tangent."""

    operation = staticmethod(operations.tanh)


class _Pool(Layer):
    """A summary of each `kernel` x `kernel` window, every `stride` pixels; the kernel's size if none is given."""

    operation: Callable[[Tensor, int, int | None], Tensor]

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = check_count("kernel", kernel), stride and check_count("stride", stride)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kernel})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return type(self).operation(x, self.kernel, self.stride)

    def output_shape(self, shape: Shape) -> Shape:
        image = _image(self, shape)
        return (*_windows(self, image, self.kernel, self.stride or self.kernel), image[2])


class MaxPool(_Pool):
    """The largest value of each `kernel` x `kernel` window."""

    operation = staticmethod(operations.max_pool)


class AveragePool(_Pool):
    """The mean of each `kernel` x `kernel` window."""

    operation = staticmethod(operations.average_pool)


class Flatten(Layer):
    """(N, H, W, C) to (N, C H W), channel after channel."""

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.flatten(x)

    def output_shape(self, shape: Shape) -> Shape:
        height, width, channels = _image(self, shape)
        return (channels * height * width,)


class Unflatten(Layer):
    """(N, C H W) to (N, H, W, C): the inverse of `Flatten`."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = check_count("height", height), check_count("width", width)

    def __repr__(self) -> str:
        return f"Unflatten({self.height}, {self.width})"

    def output_shape(self, shape: Shape) -> Shape:
        pixels = self.height * self.width
        if len(shape) != 1 or shape[0] % pixels:
            raise MisfitError(self, f"a multiple of {pixels} numbers", shape)
        return self.height, self.width, shape[0] // pixels

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.unflatten(x, self.height, self.width)


class Sequential(Layer):
    """Layers one after another, named by their number."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = layers

    def children(self) -> Mapping[str, Layer]:
        return {str(index): layer for index, layer in enumerate(self.layers)}

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer(x, training)
        return x

    def output_shape(self, shape: Shape) -> Shape:
        for index, layer in enumerate(self.layers):
            before = f"layer {index - 1}, {self.layers[index - 1]!r}," if index else ""
            shape = _shape_within(layer, shape, str(index), before)
        return shape


class Residual(Layer):
    """relu(body(x) + shortcut(x)), the shortcut x itself by default: a residual block (He et al., 2016)."""

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def children(self) -> Mapping[str, Layer]:
        return {"body": self.body} | ({"shortcut": self.shortcut} if self.shortcut else {})

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        y = self.body(x, training)
        return operations.relu(y + (self.shortcut(x, training) if self.shortcut else x))

    def output_shape(self, shape: Shape) -> Shape:
        branches = {name: _shape_within(branch, shape, name) for name, branch in self.children().items()}
        skipped = branches.get("shortcut", shape)
        if branches["body"] != skipped:
            raise MisfitError(self, f"branches of one shape, not {branches['body']} and {skipped}", shape)
        return skipped
