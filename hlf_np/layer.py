"""What a layer is, and what is wrong where layers do not fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.errors import UserError

Shape = tuple[int, ...]  # of one image's value, without the batch's axis: (H, W, C), or (D,) once it is flat


class MisfitError(UserError):
    """A layer that cannot take what comes before it.

    layer : which; wants : what it takes; shape : what it is given; place : its dotted name in the network; before : the
    layer in front of it, as a sentence has it.
    """

    def __init__(self, layer: Layer, wants: str, shape: Shape, place: str = "", before: str = "") -> None:
        self.layer, self.wants, self.shape, self.place, self.before = layer, wants, shape, place, before
        given = f"{before or 'the input'} gives {shape}"
        super().__init__(f"layer {place + ', ' if place else ''}{layer!r}, takes {wants}, but {given}")

    def within(self, name: str, before: str = "") -> MisfitError:
        """The same error as seen from the network around the layer, which calls it `name`."""
        place = f"{name}.{self.place}" if self.place else name
        return MisfitError(self.layer, self.wants, self.shape, place, self.before or before)


class Layer:
    """A function with named parameters (trained) and buffers (not trained).

    Examples
    --------
    >>> from hlf_np.layers import Convolution, Flatten, Linear, ReLU, Sequential
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

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of an image's result, given that of its value: (H, W, C) or (D,).

        A layer of your own need not say it: then it is found out with zeros.

        Raises
        ------
        UserError : if the layer does not take such a value.
        """
        try:
            return self(Tensor(np.zeros((1, *shape), np.float32))).shape[1:]
        except UserError:
            raise
        except Exception as error:  # whatever a layer of somebody's own raises
            wants = f"something else ({type(error).__name__}: {error})"
            raise MisfitError(self, wants, shape) from error

    def children(self) -> Mapping[str, Layer]:
        """The layers inside this one, by name."""
        return {}

    def every_layer(self) -> Iterator[Layer]:
        """This layer and all inside it, in the order of `named_arrays`."""
        return (layer for _, layer in self._named_layers())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters, those of the layers inside included, with dotted names."""
        return ((f"{at}{name}", p) for at, layer in self._named_layers() for name, p in layer.parameters.items())

    def named_arrays(self) -> Iterator[tuple[str, Floats]]:
        """The arrays of all parameters and buffers themselves, not copies, with dotted names."""
        for prefix, layer in self._named_layers():
            for name, parameter in layer.parameters.items():
                yield prefix + name, parameter.data
            for name, buffer in layer.buffers.items():
                yield prefix + name, buffer

    def _named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all inside it, each with what the dotted names of its arrays begin with."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child._named_layers(f"{prefix}{name}.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _parameter(self, name: str, training: bool) -> Tensor:
        parameter = self.parameters[name]
        return parameter if training else parameter.detach()
