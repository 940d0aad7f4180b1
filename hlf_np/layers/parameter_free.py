"""Layers without parameters: activations, pooling, and changes of shape."""

from collections.abc import Callable

from hlf_np import operations
from hlf_np.autodiff import Tensor
from hlf_np.layers.layer import Layer, Shape, ShapeMismatchError, image_shape, window_counts
from hlf_np.support.checks import check_count


class _Elementwise(Layer):
    """Base class of elementwise functions."""

    operation: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return type(self).operation(x)

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class ReLU(_Elementwise):
    """max(x, 0)."""

    operation = staticmethod(operations.relu)


class LeakyReLU(_Elementwise):
    """x where it is positive, slope * x elsewhere.

    Parameters
    ----------
    slope : float
        Slope for negative x.
    """

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
    """Base class of pooling: one value for each window and channel, (N, H, W, C) to (N, H', W', C).

    Parameters
    ----------
    kernel : int
        Side of a window, in pixels.
    stride : int, optional
        Distance between windows, in pixels; the side of a window by default.
    """

    operation: Callable[[Tensor, int, int | None], Tensor]

    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.kernel = check_count("kernel", kernel)
        self.stride = None if stride is None else check_count("stride", stride)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kernel})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return type(self).operation(x, self.kernel, self.stride)

    def output_shape(self, shape: Shape) -> Shape:
        image = image_shape(self, shape)
        return (*window_counts(self, image, self.kernel, self.stride or self.kernel), image[2])


class MaxPool(_Pool):
    """The maximum of each `kernel` x `kernel` window, every `stride` pixels (`kernel` by default)."""

    operation = staticmethod(operations.max_pool)


class AveragePool(_Pool):
    """The mean of each `kernel` x `kernel` window, every `stride` pixels (`kernel` by default)."""

    operation = staticmethod(operations.average_pool)


class Flatten(Layer):
    """(N, H, W, C) to (N, C H W), channel by channel."""

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.flatten(x)

    def output_shape(self, shape: Shape) -> Shape:
        height, width, channels = image_shape(self, shape)
        return (channels * height * width,)


class Unflatten(Layer):
    """(N, C H W) to (N, H, W, C): the inverse of `Flatten`.

    Parameters
    ----------
    height : int
        H.
    width : int
        W.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = check_count("height", height), check_count("width", width)

    def __repr__(self) -> str:
        return f"Unflatten({self.height}, {self.width})"

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        return operations.unflatten(x, self.height, self.width)

    def output_shape(self, shape: Shape) -> Shape:
        pixels = self.height * self.width
        if len(shape) != 1 or shape[0] % pixels:
            raise ShapeMismatchError(self, f"inputs of a multiple of {pixels} features", shape)
        return self.height, self.width, shape[0] // pixels
