"""The intermediate representation of a network: values, and the base class of the nodes that compute them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hlf_np.kernels.layout import Layout
from hlf_np.kernels.products.tile import ADD, MASK, PLAIN, padded
from hlf_np.programs.builder import Builder
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.errors import UserError


class NotCompiledError(UserError):
    """The compiler does not support a network; autodiff does."""


class Region(NamedTuple):
    """Where the elements of a value are in the work: rows of pixels, in each row runs of contiguous elements."""

    rows: int  # rows of pixels
    runs: int  # contiguous runs per row
    length: int  # elements per run
    origin: int  # position of the first image's first element
    row_stride: int  # from one row to the next, in elements
    run_stride: int  # from one run to the next
    image_stride: int  # from one image of the workspace to the next

    @property
    def size(self) -> int:
        """Elements of one image."""
        return self.rows * self.runs * self.length

    def positions(self, image: int) -> Integers:
        """Return the positions of all elements of one image of the workspace, flat."""
        row, run, element = np.ogrid[: self.rows, : self.runs, : self.length]
        first = self.origin + image * self.image_stride
        return np.asarray(first + row * self.row_stride + run * self.run_stride + element).ravel()


NO_REGION = Region(0, 0, 0, 0, 0, 0, 0)


@dataclass(eq=False)
class Value:
    """An activation: its shape, the nodes that write and read it, and its buffers.

    Parameters
    ----------
    height, width, channels : int
        The shape for each image.
    after_relu : bool
        Whether it is the output of a ReLU. Its gradient is then *masked*, set to zero where the value is not positive,
        by the node that adds the last part of it: what is stored is the gradient with respect to the ReLU's input.
    is_input : bool
        Whether it is the input of the whole network.
    writer : Node, optional
        The node that computes it.
    readers : list of Node
        The nodes that read it.
    unpadded : bool
        Whether its few channels are stored as they are, not padded to a whole vector.
    halo, gradient_halo : int
        Widths, in pixels, of the zeros around its two buffers, as the readers need them.
    same_gradient : Value, optional
        A value that has the same gradient, in the same buffer.
    in_place : bool
        Whether the gradient overwrites the value, which nothing reads afterwards but the mask of that gradient.
    gradient_parts : int
        How many readers have already added their part to the gradient.
    buffer, gradient : Layout
        Where it and its gradient are in the work.
    """

    height: int
    width: int
    channels: int
    after_relu: bool = False
    is_input: bool = False
    writer: Node | None = None
    readers: list[Node] = field(default_factory=list)
    unpadded: bool = False
    halo: int = 0
    gradient_halo: int = 0
    same_gradient: Value | None = None
    in_place: bool = False
    gradient_parts: int = 0
    buffer: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))
    gradient: Layout = field(default_factory=lambda: Layout(0, 0, 0, 0))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def stride(self) -> int:
        """Elements from one pixel to the next."""
        return self.channels if self.unpadded else padded(self.channels)

    @property
    def region(self) -> Region:
        """Where its elements are in the work."""
        return _region(self, self.buffer)

    @property
    def gradient_region(self) -> Region:
        """Where the elements of its gradient are in the work."""
        return _region(self, self.gradient)

    def allocate(self, builder: Builder) -> None:
        """Allocate the buffer of the value."""
        self.buffer = builder.allocate(self._layout(builder, self.halo))

    def allocate_gradient(self, builder: Builder) -> None:
        """Allocate the buffer of the gradient, unless it is that of another value, allocated before."""
        shared = self.same_gradient
        if self.in_place:
            self.gradient = self.buffer
        else:
            self.gradient = shared.gradient if shared else builder.allocate(self._layout(builder, self.gradient_halo))

    def _layout(self, builder: Builder, halo: int) -> Layout:
        return Layout(builder.images, self.height, self.width, self.stride, halo)

    def next_epilogue(self) -> int:
        """Return how the next reader adds its part to the gradient: the first stores it, the last masks the sum."""
        first, self.gradient_parts = self.gradient_parts == 0, self.gradient_parts + 1
        masked = self.after_relu and self.gradient_parts == len(self.readers)
        return (PLAIN if first else ADD) | (MASK if masked else PLAIN)


def _region(value: Value, layout: Layout) -> Region:
    contiguous_rows = layout.channels == value.channels
    runs, run_pixels = (1, value.width) if contiguous_rows else (value.width, 1)
    strides = (layout.row, layout.channels, layout.image)
    return Region(value.height, runs, run_pixels * value.channels, layout.origin, *strides)


class Node(ABC):
    """An operation of a compiled network, which writes its own instructions.

    Attributes
    ----------
    source : Value
        What it reads.
    target : Value
        What it computes.
    scratch_size : int
        Elements of scratch memory that it needs.
    """

    source: Value
    target: Value
    scratch_size = 0

    @property
    def sources(self) -> tuple[Value, ...]:
        """All values that it reads."""
        return (self.source,)

    def arrays(self) -> list[Floats]:
        """Return all arrays of its layers: its packed weights stay valid as long as these do not change."""
        return []

    def folded(self) -> list[Floats]:
        """Return the arrays that evaluation mode packs: those of the layers, folded into fewer."""
        return []

    def prepare(self, batch_size: int | None) -> None:
        """Choose an algorithm, and request the halos that it needs; by now all readers are known.

        Parameters
        ----------
        batch_size : int, optional
            The size of most batches in training mode; None in evaluation mode.
        """
        return

    def pack_parameters(self, builder: Builder) -> None:
        """Pack the parameters among the weights."""
        return

    @abstractmethod
    def forward(self, builder: Builder) -> Sequence[Any]:
        """Return the instructions that compute the target."""

    @abstractmethod
    def backward(self, builder: Builder) -> Sequence[Any]:
        """Return the instructions that add the gradient with respect to the sources."""

    def parameter_gradients(self, builder: Builder) -> Sequence[Any]:
        """Return the instructions for the gradients with respect to the parameters, in training mode."""
        return []
