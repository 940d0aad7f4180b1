"""The base class of all layers, and the checks that layers fit together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.support.arrays import Floats
from hlf_np.support.errors import UserError

_CONTAINERS = (list, tuple, dict)
Shape = tuple[int, ...]  # of the value of one image, without the batch axis: (H, W, C), or (D,) when flat


class ShapeMismatchError(UserError):
    """A layer does not accept the output of the layer before it.

    Parameters
    ----------
    layer : Layer
        The layer.
    expected : str
        What the layer accepts, such as "inputs of shape (40,)".
    shape : tuple of int
        The shape of its input.
    path : str
        Dotted name of the layer in the network, as in "3.body.0"; empty for the network itself.
    previous : str
        The layer before it, as named in the message; empty if there is none.
    """

    def __init__(self, layer: Layer, expected: str, shape: Shape, path: str = "", previous: str = "") -> None:
        self.layer, self.expected, self.shape, self.path, self.previous = layer, expected, shape, path, previous
        name = f"layer {path}, {layer!r}," if path else repr(layer)
        source = f"the output of {previous}" if previous else "its input"
        super().__init__(f"{name} expects {expected}; {source} has shape {shape}")

    def within(self, name: str, previous: str = "") -> ShapeMismatchError:
        """Return the same error for the enclosing network, in which this one is called `name`."""
        path = f"{name}.{self.path}" if self.path else name
        return ShapeMismatchError(self.layer, self.expected, self.shape, path, self.previous or previous)


class Layer:
    """Base class of layers: a function with parameters, which are trained, and buffers, which are not.

    A subclass defines `__call__`, and calls `super().__init__()` if it has an `__init__`. It passes `training` on to
    the layers inside of it. Nothing else is necessary.

    Attributes
    ----------
    parameters : dict of str to Tensor
        Trained arrays, such as weights.
    buffers : dict of str to ndarray
        Other arrays of the layer's state, such as running statistics.

    Examples
    --------
    >>> from hlf_np.layers import Convolution, Flatten, Linear, ReLU, Sequential
    >>> random = np.random.default_rng(0)
    >>> network = Sequential(Convolution(1, 4, random), ReLU(), Flatten(), Linear(4 * 14 * 14, 10, random))
    >>> network(Tensor(np.zeros((2, 28, 28, 1), np.float32))).shape
    (2, 10)
    >>> [name for name, _ in network.named_parameters()]
    ['0.weight', '0.bias', '3.weight', '3.bias']
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Floats] = {}

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        """Compute the output for a batch.

        Parameters
        ----------
        x : Tensor, shape (N, ...)
            The input.
        training : bool
            Training mode: parameters get gradients, and batch norm uses the statistics of the batch.

        Returns
        -------
        Tensor, shape (N, ...)
            The output.
        """
        raise UserError(f"{type(self).__name__} must define __call__(self, x, training=False)")

    def output_shape(self, shape: Shape) -> Shape:
        """Compute the shape of the output for one image from that of the input, both without the batch axis.

        Custom layers need not define this: the default applies the layer to zeros.

        Raises
        ------
        UserError
            If the layer does not accept inputs of this shape.
        """
        try:
            return self(Tensor(np.zeros((1, *shape), np.float32))).shape[1:]
        except UserError:
            raise
        except Exception as error:  # a custom layer may raise anything
            raise ShapeMismatchError(
                self, f"inputs of another shape ({type(error).__name__}: {error})", shape
            ) from error

    def children(self) -> Mapping[str, Layer]:
        """Return the layers directly inside this one, by name: its attributes, and what lists and dictionaries hold."""
        children: dict[str, Layer] = {}
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                children[name] = value
            elif isinstance(value, _CONTAINERS) and name not in ("parameters", "buffers"):
                children |= {key: item for key, item in items_in(name, value) if isinstance(item, Layer)}
        return children

    def every_layer(self) -> Iterator[Layer]:
        """Iterate over this layer and all layers inside it, in the order of `named_arrays`."""
        return (layer for _, layer in self._named_layers())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the parameters of this layer and all layers inside it, with dotted names."""
        return (
            (prefix + name, parameter)
            for prefix, layer in self._named_layers()
            for name, parameter in layer.parameters.items()
        )

    def named_arrays(self) -> Iterator[tuple[str, Floats]]:
        """Iterate over the arrays of all parameters and buffers, not copies, with dotted names."""
        for prefix, layer in self._named_layers():
            for name, parameter in layer.parameters.items():
                yield prefix + name, parameter.data
            for name, buffer in layer.buffers.items():
                yield prefix + name, buffer

    def _named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Iterate over this layer and all layers inside it, with the prefix of the names of their arrays."""
        if "parameters" not in vars(self):
            raise UserError(f"{type(self).__name__}.__init__ must call super().__init__() first")
        yield prefix, self
        for name, child in self.children().items():
            yield from child._named_layers(f"{prefix}{name}.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _parameter(self, name: str, training: bool) -> Tensor:
        """Return a parameter, as a constant in evaluation mode."""
        parameter = self.parameters[name]
        return parameter if training else parameter.detach()


def items_in(name: str, container: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over what a list, a tuple or a dictionary contains, and those inside of it, with dotted names."""
    for key, value in container.items() if isinstance(container, dict) else enumerate(container):
        if isinstance(value, _CONTAINERS):
            yield from items_in(f"{name}.{key}", value)
        else:
            yield f"{name}.{key}", value


def image_shape(layer: Layer, shape: Shape, channels: int | None = None) -> tuple[int, int, int]:
    """Return a shape as (H, W, C); raise ShapeMismatchError for another rank or another number of channels."""
    if len(shape) != 3 or (channels is not None and shape[2] != channels):
        raise ShapeMismatchError(layer, f"images of shape (H, W, {'C' if channels is None else channels})", shape)
    return shape[0], shape[1], shape[2]


def window_counts(layer: Layer, shape: Shape, kernel: int, stride: int, padding: int = 0) -> tuple[int, int]:
    """Return how many windows an image (H, W, C) has vertically and horizontally."""
    if min(shape[:2]) + 2 * padding < kernel:
        minimum = kernel - 2 * padding
        raise ShapeMismatchError(layer, f"images of at least {minimum}x{minimum} pixels", shape)
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in shape[:2])
    return height, width


def check_batch_of_one(network: Layer, image: Floats) -> None:
    """Check that a network can be trained with a batch of one image: batch norm needs two values of each channel.

    Parameters
    ----------
    network : Layer
        The network to train.
    image : ndarray of float32, shape (1, ...)
        The image.

    Raises
    ------
    UserError
        If it cannot.
    """
    try:
        copy.deepcopy(network)(Tensor(image), True)  # a copy, as the running statistics change
    except UserError as error:
        raise UserError(f"{error}: use more images in each batch") from None
