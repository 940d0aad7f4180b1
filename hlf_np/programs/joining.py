"""Residual blocks: two branches that join."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hlf_np.kernels import instructions
from hlf_np.programs.builder import Builder
from hlf_np.programs.normalization import scale
from hlf_np.programs.values import Node, Value


@dataclass(eq=False)
class Join(Node):
    """relu(body + shortcut). A sum hands its gradient to both branches as it is."""

    body: Value
    shortcut: Value
    target: Value

    @property
    def sources(self) -> tuple[Value, ...]:
        return self.body, self.shortcut

    def prepare(self, batch_size: int | None) -> None:
        for source in self.sources:  # of a branch that nothing else reads or gates, the gradient is the target's
            if source.readers == [self] and not source.rectified and not source.is_input:
                source.same_gradient = self.target

    def forward(self, builder: Builder) -> Sequence[Any]:
        bodies, shortcuts, targets = (
            builder.table(value.buffer.all_pixels()) for value in (self.body, self.shortcut, self.target)
        )
        to = self.target.buffer
        return [
            instructions.Join(
                bodies=bodies, shortcuts=shortcuts, pixels=to.height * to.width, targets=targets, channels=to.channels
            )
        ]

    def backward(self, builder: Builder) -> Sequence[Any]:
        return [
            scale(builder, self.target.gradient, source.gradient, source.buffer, source.next_finish())
            for source in self.sources
            if source.same_gradient is None
        ]
