"""Pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels import instructions
from hlf_np.kernels.layout import Layout, windows
from hlf_np.programs.builder import Builder
from hlf_np.programs.values import Node, Value


@dataclass(eq=False)
class Pool(Node):
    """The largest or the mean value of each window."""

    source: Value
    target: Value
    kernel: int
    stride: int
    largest: bool

    def forward(self, builder: Builder) -> Sequence[Any]:
        source, to = self.source.buffer, self.target.buffer
        self._pool = instructions.Pool(
            windows=builder.table(self._windows(source)),
            pixels=to.height * to.width,
            segments=builder.table(self._positions(source)),
            size=self.kernel**2,
            targets=builder.table(to.all_pixels()),
            channels=to.channels,
            largest=int(self.largest),
        )
        return [self._pool]

    def backward(self, builder: Builder) -> Sequence[Any]:
        source, to = self.source, self.source.gradient
        return [
            instructions.PoolGradient(
                *self._pool,
                gradients=builder.table(self.target.gradient.all_pixels()),
                to_windows=builder.table(self._windows(to)),
                to_segments=builder.table(self._positions(to)),
                to_all=builder.table(to.all_pixels()),
                to_pixels=source.pixels,
                finish=source.next_finish(),
                gates=builder.table(source.buffer.all_pixels()),
            )
        ]

    def _windows(self, layout: Layout) -> Integers:
        return windows(layout, (self.kernel, self.kernel), self.stride, 0)

    def _positions(self, layout: Layout) -> Integers:
        """Where the pixels of a window lie, relative to its first."""
        side = np.arange(self.kernel)
        return (side[:, None] * layout.row + side * layout.channels).ravel()
