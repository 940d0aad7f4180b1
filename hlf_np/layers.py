"""Layers: operations that own parameters, and their composition.

A layer is called with a tensor and a mode. In training mode its parameters receive gradients and batch
norm uses the batch's statistics; in evaluation mode parameters are constants and batch norm uses its
running statistics, so each image's result is independent of the rest of the batch. Parameters are named
and laid out as in PyTorch's `nn.Sequential`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from hlf_np import operations
from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor


class Draws(Protocol):
    """Where initial weights come from: a random generator, or what stands in for one."""

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32], /) -> Floats: ...


class Layer:
    """A function with named parameters (trained) and buffers (not trained).

    Examples
    --------
    >>> draws = np.random.default_rng(0)
    >>> network = Sequential(Convolution(1, 4, draws), ReLU(), Flatten(), Linear(4 * 14 * 14, 10, draws))
    >>> network(Tensor(np.zeros((2, 28, 28, 1), np.float32))).shape
    (2, 10)
    >>> [name for name, _ in network.named_parameters()]
    ['0.weight', '0.bias', '3.weight', '3.bias']
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Floats] = {}

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        raise NotImplementedError

    def children(self) -> Mapping[str, Layer]:
        """The layers inside this one, by name."""
        return {}

    def every_layer(self) -> Iterator[Layer]:
        """This layer and all inside it, in the order of `named_arrays`."""
        yield self
        for child in self.children().values():
            yield from child.every_layer()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """All parameters, those of the layers inside included, with dotted names."""
        for name, parameter in self.parameters.items():
            yield prefix + name, parameter
        for name, child in self.children().items():
            yield from child.named_parameters(f"{prefix}{name}.")

    def named_arrays(self, prefix: str = "") -> Iterator[tuple[str, Floats]]:
        """The arrays of all parameters and buffers themselves, not copies, with dotted names."""
        for name, parameter in self.parameters.items():
            yield prefix + name, parameter.data
        for name, buffer in self.buffers.items():
            yield prefix + name, buffer
        for name, child in self.children().items():
            yield from child.named_arrays(f"{prefix}{name}.")

    def _parameter(self, name: str, training: bool) -> Tensor:
        parameter = self.parameters[name]
        return parameter if training else parameter.detach()


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
        self.stride, self.padding = stride, padding
        shape = (out_channels, channels, kernel, kernel)
        self.parameters = {"weight": _normal(random, shape, channels * kernel * kernel)}
        if bias:
            self.parameters["bias"] = _zeros(out_channels)

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
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        shape = (channels, out_channels, kernel, kernel)
        # each output pixel meets kernel^2 / stride^2 of the weights
        fan_in = max(1, channels * kernel * kernel // stride**2)
        self.parameters = {"weight": _normal(random, shape, fan_in), "bias": _zeros(out_channels)}

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
        self.buffers = {
            "running_mean": np.zeros(channels, np.float32),
            "running_var": np.ones(channels, np.float32),
        }

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        weight, bias = self._parameter("weight", training), self._parameter("bias", training)
        if not training:
            statistics = self.buffers["running_mean"], self.buffers["running_var"]
            return operations.normalize(x, weight, bias, *statistics, self.epsilon)
        y, mean, variance = operations.batch_norm(x, weight, bias, self.epsilon)
        count = x.data.size // x.shape[-1]
        unbiased = variance * (count / max(1, count - 1))
        for name, batch in (("running_mean", mean), ("running_var", unbiased)):
            running = self.buffers[name]
            running += self.momentum * (batch - running)
        return y


class ReLU(Layer):
    """max(x, 0)."""

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.relu(x)


class LeakyReLU(Layer):
    """x where positive, slope * x elsewhere."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.leaky_relu(x, self.slope)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.sigmoid(x)


class Tanh(Layer):
    """The hyperbolic tangent."""

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.tanh(x)


class MaxPool(Layer):
    """The largest value of each `kernel` x `kernel` window."""

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.max_pool(x, self.kernel, self.stride)


class AveragePool(Layer):
    """The mean of each `kernel` x `kernel` window."""

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.average_pool(x, self.kernel, self.stride)


class Flatten(Layer):
    """(N, H, W, C) to (N, C H W), channel after channel."""

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.flatten(x)


class Unflatten(Layer):
    """(N, C H W) to (N, H, W, C): the inverse of `Flatten`."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

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


class Residual(Layer):
    """relu(body(x) + shortcut(x)), the shortcut x itself by default: a residual block (He et al., 2016)."""

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def children(self) -> Mapping[str, Layer]:
        return {"body": self.body} | ({"shortcut": self.shortcut} if self.shortcut else {})

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        skipped = self.shortcut(x, training) if self.shortcut else x
        return operations.relu(self.body(x, training) + skipped)
