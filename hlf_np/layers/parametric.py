"""Layers with parameters: linear, convolution, transposed convolution, batch norm."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np

from hlf_np import operations
from hlf_np.autodiff import Tensor
from hlf_np.layers.layer import Layer, Shape, ShapeMismatchError, image_shape, window_counts
from hlf_np.support.arrays import Floats
from hlf_np.support.checks import check_count, check_positive, check_range


class RandomSource(Protocol):
    """The source of initial weights: a NumPy random generator, or an object with this one of its methods."""

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32], /) -> Floats: ...


class Initialization(Enum):
    """The variance of initial weights, which are normal with mean 0; each fan is a number of summands.

    Attributes
    ----------
    PAPER
        2 / (3 fan_in), which is what the calls in the paper's released code amount to.
    FAN_IN, FAN_OUT
        2 / fan_in and 2 / fan_out (He et al., 2015): through layers with ReLU, they keep the variance of the outputs,
        and of the gradients with respect to the inputs.
    """

    PAPER = "paper"
    FAN_IN = "fan in"
    FAN_OUT = "fan out"

    def draw(self, random: RandomSource, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
        """Draw weights of the given shape."""
        for size in shape:
            check_count("each size of a layer", size)
        kind = Initialization
        fan = {kind.PAPER: 3 * fan_in, kind.FAN_IN: fan_in, kind.FAN_OUT: fan_out}[self]
        return Tensor(random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan)), True)


def _zeros(size: int) -> Tensor:
    return Tensor(np.zeros(size, np.float32), True)


class Linear(Layer):
    """A fully connected layer, x W^T + b: (N, inputs) to (N, outputs).

    Parameters
    ----------
    inputs : int
        Number of input features.
    outputs : int
        Number of output features.
    random : RandomSource
        Source of the initial weights.
    initialization : Initialization
        Their variance.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        random: RandomSource,
        initialization: Initialization = Initialization.PAPER,
    ) -> None:
        super().__init__()
        weight = initialization.draw(random, (outputs, inputs), inputs, outputs)
        self.parameters = {"weight": weight, "bias": _zeros(outputs)}

    def __repr__(self) -> str:
        outputs, inputs = self.parameters["weight"].shape
        return f"Linear({inputs}, {outputs})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.linear(x, self._parameter("weight", training), self._parameter("bias", training))

    def output_shape(self, shape: Shape) -> Shape:
        outputs, inputs = self.parameters["weight"].shape
        if shape != (inputs,):
            raise ShapeMismatchError(self, f"inputs of shape ({inputs},)", shape)
        return (outputs,)


class Convolution(Layer):
    """A convolution with square windows: (N, H, W, channels) to (N, H', W', out_channels).

    H' = (H + 2 padding - kernel) // stride + 1, and W' likewise; by default each side is halved.

    Parameters
    ----------
    channels : int
        Number of input channels.
    out_channels : int
        Number of output channels.
    random : RandomSource
        Source of the initial weights.
    kernel : int
        Side of a window, in pixels.
    stride : int
        Distance between windows, in pixels.
    padding : int
        Width of the border of zeros.
    bias : bool
        Whether a bias is added.
    initialization : Initialization
        The variance of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        random: RandomSource,
        kernel: int = 4,
        stride: int = 2,
        padding: int = 1,
        bias: bool = True,
        initialization: Initialization = Initialization.PAPER,
    ) -> None:
        super().__init__()
        self.stride, self.padding = check_count("stride", stride), check_count("padding", padding, minimum=0)
        shape = (out_channels, channels, kernel, kernel)
        self.parameters = {"weight": initialization.draw(random, shape, channels * kernel**2, out_channels * kernel**2)}
        if bias:
            self.parameters["bias"] = _zeros(out_channels)

    def __repr__(self) -> str:
        out_channels, channels, kernel, _ = self.parameters["weight"].shape
        return f"Convolution({channels}, {out_channels}, kernel={kernel})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        bias = self._parameter("bias", training) if "bias" in self.parameters else None
        return operations.convolution(x, self._parameter("weight", training), bias, self.stride, self.padding)

    def output_shape(self, shape: Shape) -> Shape:
        out_channels, channels, kernel, _ = self.parameters["weight"].shape
        size = window_counts(self, image_shape(self, shape, channels), kernel, self.stride, self.padding)
        return (*size, out_channels)


class TransposedConvolution(Layer):
    """The transpose of a convolution: (N, H, W, channels) to a larger (N, H', W', out_channels).

    H' = (H - 1) stride - 2 padding + kernel + output_padding, and W' likewise; by default each side is doubled.

    Parameters
    ----------
    channels : int
        Number of input channels.
    out_channels : int
        Number of output channels.
    random : RandomSource
        Source of the initial weights.
    kernel : int
        Side of a window, in pixels.
    stride : int
        Distance between windows in the output, in pixels.
    padding : int
        Width of the border that is cut off the output.
    output_padding : int
        Rows and columns added at the end of the output, below the stride.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        random: RandomSource,
        kernel: int = 4,
        stride: int = 2,
        padding: int = 1,
        output_padding: int = 0,
    ) -> None:
        super().__init__()
        self.stride, self.padding = check_count("stride", stride), check_count("padding", padding, minimum=0)
        self.output_padding = check_count("output_padding", output_padding, minimum=0, maximum=stride - 1)
        shape = (channels, out_channels, kernel, kernel)
        # each output pixel is a sum over kernel^2 / stride^2 pixels of the input
        fan_in = max(1, channels * kernel * kernel // stride**2)
        weight = Initialization.PAPER.draw(random, shape, fan_in, fan_in)
        self.parameters = {"weight": weight, "bias": _zeros(out_channels)}

    def __repr__(self) -> str:
        channels, out_channels, kernel, _ = self.parameters["weight"].shape
        return f"TransposedConvolution({channels}, {out_channels}, kernel={kernel})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        weight, bias = self._parameter("weight", training), self._parameter("bias", training)
        return operations.transposed_convolution(x, weight, bias, self.stride, self.padding, self.output_padding)

    def output_shape(self, shape: Shape) -> Shape:
        channels, out_channels, kernel, _ = self.parameters["weight"].shape
        sizes = image_shape(self, shape, channels)[:2]
        height, width = ((n - 1) * self.stride - 2 * self.padding + kernel + self.output_padding for n in sizes)
        if min(height, width) < 1:
            raise ShapeMismatchError(self, f"larger images, as its output would be {height}x{width} pixels", shape)
        return height, width, out_channels


class BatchNorm(Layer):
    """Batch normalization of each channel, over all axes but the last.

    The running statistics are `(1 - momentum) * running + momentum * batch`, with the unbiased variance of the batch,
    as in PyTorch.

    Parameters
    ----------
    channels : int
        Number of channels.
    momentum : float
        Weight of the current batch in the running statistics, from 0 to 1.
    epsilon : float
        Added to the variance, positive.

    Raises
    ------
    UserError
        If a setting is out of its range.
    """

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        check_range("momentum", momentum, 1)
        self.momentum, self.epsilon = momentum, check_positive("epsilon", epsilon)
        check_count("channels", channels)
        self.parameters = {"weight": Tensor(np.ones(channels, np.float32), True), "bias": _zeros(channels)}
        self.buffers = {"running_mean": np.zeros(channels, np.float32), "running_var": np.ones(channels, np.float32)}

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.parameters["weight"].data.size)

    def __repr__(self) -> str:
        return f"BatchNorm({self.channels})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        weight, bias = self._parameter("weight", training), self._parameter("bias", training)
        if not training:
            statistics = self.buffers["running_mean"], self.buffers["running_var"]
            return operations.normalize(x, weight, bias, *statistics, self.epsilon)
        y, mean, variance = operations.batch_norm(x, weight, bias, self.epsilon)
        count = x.data.size // x.shape[-1]
        unbiased_variance = variance * (count / (count - 1))
        for name, batch_statistic in (("running_mean", mean), ("running_var", unbiased_variance)):
            running = self.buffers[name]
            running += self.momentum * (batch_statistic - running)
        return y

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1] != self.channels:
            raise ShapeMismatchError(self, f"inputs of {self.channels} channels", shape)
        return shape

    def scale_and_shift(self) -> tuple[Floats, Floats]:
        """Return evaluation mode as an affine map, y = scale * x + shift, of shape (C,) each."""
        mean, variance = self.buffers["running_mean"], self.buffers["running_var"]
        scale = self.parameters["weight"].data / np.sqrt(variance + variance.dtype.type(self.epsilon))
        return scale, self.parameters["bias"].data - mean * scale
