"""Residual blocks: two branches that join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hlf_np.kernels import instructions
from hlf_np.layers import Residual
from hlf_np.programs.normalization import scale
from hlf_np.programs.values import Node, NotCompiledError, Value

if TYPE_CHECKING:
    from hlf_np.programs.builder import Builder
    from hlf_np.programs.graph import Graph, Layers


def read_residual(graph: Graph, layer: Residual, layers: Layers, source: Value) -> Value:
    """Append both branches and their join."""
    body = graph.read(layer.body, source)
    shortcut = graph.read(layer.shortcut, source) if layer.shortcut else source
    if body.shape != shortcut.shape:
        raise NotCompiledError("the branches of a residual block are images of different shapes, flattened")
    return graph.add(Join(body, shortcut, graph.value(*body.shape, rectified=True)))


@dataclass(eq=False)
class Join(Node):
    """relu(body + shortcut). A sum hands its gradient to both branches as it is."""

    body: Value
    shortcut: Value
    target: Value

    def __post_init__(self) -> None:
        self.sources = (self.body, self.shortcut)

    def prepare(self, graph: Graph) -> None:
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
