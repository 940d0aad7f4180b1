"""Layers composed of layers: a sequence, and a residual block."""

from collections.abc import Mapping

import numpy as np

from hlf_np import operations
from hlf_np.autodiff import Tensor
from hlf_np.layers.layer import Layer, Shape, ShapeMismatchError
from hlf_np.support.errors import UserError


class Sequential(Layer):
    """Layers that are applied one after another; they are named by their index.

    Parameters
    ----------
    *layers : Layer
        The layers, first to last.

    Raises
    ------
    UserError
        If one is no layer.
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        for layer in layers:
            if not isinstance(layer, Layer):
                raise UserError(f"Sequential expects layers, not {type(layer).__name__}: use Sequential(*layers)")
        self.layers = layers

    def children(self) -> Mapping[str, Layer]:
        # by index alone; those of a subclass that has further layers follow
        return {name.removeprefix("layers."): layer for name, layer in super().children().items()}

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer(x, training)
            if isinstance(x, np.ndarray):
                raise UserError(f"{layer!r} returned an array: a layer must return a Tensor")
        return x

    def output_shape(self, shape: Shape) -> Shape:
        for index, layer in enumerate(self.layers):
            previous = f"layer {index - 1}, {self.layers[index - 1]!r}," if index else ""
            shape = _child_output_shape(layer, shape, str(index), previous)
        return shape


class Residual(Layer):
    """A residual block (He et al., 2016): relu(body(x) + shortcut(x)).

    Parameters
    ----------
    body : Layer
        The residual branch.
    shortcut : Layer, optional
        The other branch; the identity by default.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        y = self.body(x, training)
        return operations.relu(y + (self.shortcut(x, training) if self.shortcut else x))

    def output_shape(self, shape: Shape) -> Shape:
        shapes = {name: _child_output_shape(branch, shape, name) for name, branch in self.children().items()}
        body, shortcut = shapes["body"], shapes.get("shortcut", shape)
        if body != shortcut:
            raise ShapeMismatchError(self, f"branches of the same output shape, not {body} and {shortcut}", shape)
        return body


def _child_output_shape(layer: Layer, shape: Shape, name: str, previous: str = "") -> Shape:
    """Return the output shape of a child layer; errors refer to the child by `name`."""
    try:
        return layer.output_shape(shape)
    except ShapeMismatchError as error:
        raise error.within(name, previous) from None
