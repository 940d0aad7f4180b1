"""What the nodes of a compiled network read and write: values, and the base class of the nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hlf_np.arrays import Floats
from hlf_np.errors import UserError
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import ADD, GATE, PLAIN, padded

if TYPE_CHECKING:
    from hlf_np.programs.builder import Builder


class NotCompiledError(UserError):
    """A network that the compiler does not take; autodiff does."""


@dataclass(eq=False)
class Value:
    """An activation, (height, width, channels) for each image: who writes and reads it, and where it lies.

    rectified : whether it is the output of a ReLU. Its gradient is then *gated*, zero where the value is not positive,
        by whoever writes the last part of it: what is stored is the gradient before the ReLU.
    frame, gradient_frame : widths of the zeros around its two buffers, as far as the readers reach.
    narrow : an image whose few channels are not filled up to a whole vector.
    same_gradient : a value whose gradient is this one's, too, in the same buffer.
    written : how many parts of the gradient have been added up so far.
    """

    height: int
    width: int
    channels: int
    rectified: bool = False
    is_input: bool = False
    writer: Node | None = None
    readers: list[Node] = field(default_factory=list)
    narrow: bool = False
    frame: int = 0
    gradient_frame: int = 0
    same_gradient: Value | None = None
    written: int = 0
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
        """Numbers from one pixel to the next."""
        return self.channels if self.narrow else padded(self.channels)

    def next_finish(self) -> int:
        """How the next reader adds its part to the gradient: the first stores it, the last gates the sum."""
        first, self.written = self.written == 0, self.written + 1
        gated = self.rectified and self.written == len(self.readers)
        return (PLAIN if first else ADD) | (GATE if gated else PLAIN)


class Node(ABC):
    """A step of a compiled network, which writes its own instructions.

    source : the value that it reads; target : the value that it writes.
    room : how many numbers it needs to work in, besides its values.
    """

    source: Value
    target: Value
    room = 0

    @property
    def sources(self) -> tuple[Value, ...]:
        """All values that it reads."""
        return (self.source,)

    def arrays(self) -> list[Floats]:
        """Everything that its layers own: what is computed does not change while these do not."""
        return []

    def folded(self) -> list[Floats]:
        """What is made of these in evaluation mode, to be placed among the weights."""
        return []

    def prepare(self, batch_size: int | None) -> None:
        """Choose how to compute, and ask the values for the frames that this needs; all readers are known by now.

        batch_size : in training; otherwise none.
        """
        return

    def place(self, builder: Builder) -> None:
        """Put the parameters among the weights."""
        return

    @abstractmethod
    def forward(self, builder: Builder) -> Sequence[Any]:
        """The instructions that compute the target."""

    @abstractmethod
    def backward(self, builder: Builder) -> Sequence[Any]:
        """The instructions that add the gradient with respect to the sources."""

    def parameter_gradients(self, builder: Builder) -> Sequence[Any]:
        """The instructions for the gradients with respect to the parameters, in training."""
        return []
