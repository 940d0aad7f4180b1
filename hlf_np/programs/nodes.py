"""The nodes that are not affine: pooling, joins of residual blocks, and batch norm and ReLU that no layer takes in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.kernels import instructions
from hlf_np.kernels.layout import Layout, windows
from hlf_np.kernels.normalization import STATISTICS_ROWS
from hlf_np.kernels.tile import PLAIN, RELU
from hlf_np.kernels.training_instructions import Moments, Normalize, NormGradient, NormSums, NormTotals, Statistics
from hlf_np.layers import BatchNorm
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
            windows=builder.table(self._windows(source)), pixels=to.height * to.width,
            segments=builder.table(self._positions(source)), size=self.kernel**2,
            targets=builder.table(to.all_pixels()), channels=to.channels, largest=int(self.largest),
        )  # fmt: skip
        return [self._pool]

    def backward(self, builder: Builder) -> Sequence[Any]:
        source, to = self.source, self.source.gradient
        return [
            instructions.PoolGradient(
                *self._pool, gradients=builder.table(self.target.gradient.all_pixels()),
                to_windows=builder.table(self._windows(to)), to_segments=builder.table(self._positions(to)),
                to_all=builder.table(to.all_pixels()), to_pixels=source.pixels,
                finish=source.next_finish(), gates=builder.table(source.buffer.all_pixels()),
            )
        ]  # fmt: skip

    def _windows(self, layout: Layout) -> Integers:
        return windows(layout, (self.kernel, self.kernel), self.stride, 0)

    def _positions(self, layout: Layout) -> Integers:
        """Where the pixels of a window lie, relative to its first."""
        side = np.arange(self.kernel)
        return (side[:, None] * layout.row + side * layout.channels).ravel()


def _scale(
    builder: Builder,
    source: Layout,
    target: Layout,
    gates: Layout,
    finish: int,
    factors: int | None = None,
    offsets: int | None = None,
) -> instructions.Scale:
    """target = factors * source + offsets, a copy if there are none, for all pixels."""
    return instructions.Scale(
        sources=builder.table(source.all_pixels()), pixels=target.height * target.width,
        targets=builder.table(target.all_pixels()), channels=target.channels,
        factors=builder.ones(target.channels) if factors is None else factors,
        offsets=builder.zeros(target.channels) if offsets is None else offsets,
        finish=finish, gates=builder.table(gates.all_pixels()),
    )  # fmt: skip


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
            _scale(builder, self.target.gradient, source.gradient, source.buffer, source.next_finish())
            for source in self.sources
            if source.same_gradient is None
        ]


@dataclass(eq=False)
class Pointwise(Node):
    """Batch norm in evaluation mode, an affine map of every channel; without one a copy, or a ReLU alone."""

    source: Value
    target: Value
    layer: BatchNorm | None
    factors: int | None = None  # where they stand among the weights
    offsets: int | None = None

    def arrays(self) -> list[Floats]:
        return [array for _, array in self.layer.named_arrays()] if self.layer else []

    def folded(self) -> list[Floats]:
        return [*self.layer.factor_and_offset()] if self.layer else []

    def place(self, builder: Builder) -> None:
        if self.layer:
            self.factors, self.offsets = (
                builder.place_rows(builder.number(array)[None], array.size) for array in self.folded()
            )

    def forward(self, builder: Builder) -> Sequence[Any]:
        source, target = self.source.buffer, self.target.buffer
        finish = RELU if self.target.rectified else PLAIN
        return [_scale(builder, source, target, target, finish, self.factors, self.offsets)]

    def backward(self, builder: Builder) -> Sequence[Any]:
        g, source = self.target.gradient, self.source
        return [_scale(builder, g, source.gradient, source.buffer, source.next_finish(), self.factors)]


@dataclass(eq=False)
class Norm(Node):
    """Batch norm in training mode, and the ReLU behind it if the target is rectified."""

    source: Value
    target: Value
    layer: BatchNorm

    def prepare(self, batch_size: int | None) -> None:
        alone = self.source.readers == [self] and not self.source.rectified and not self.source.is_input
        if alone and self.target.same_gradient is None:  # the gradient is computed in place
            self.source.same_gradient = self.target

    def place(self, builder: Builder) -> None:
        self._weight, self._bias = (
            builder.place_rows(builder.number(parameter.data)[None], parameter.data.size)
            for parameter in self.layer.parameters.values()
        )

    def forward(self, builder: Builder) -> Sequence[Any]:
        x, y = self.source.buffer, self.target.buffer
        row, pixels = x.width * x.channels, x.height * x.width
        running_mean, running_variance = (builder.place_once(buffer) for buffer in self.layer.buffers.values())
        self._statistics = builder.reserve("weights", STATISTICS_ROWS * row)
        self._sums = builder.reserve("work", 2 * x.channels)
        self._x = builder.row_table(x)
        return [
            Moments(x=self._x, rows=x.height, row=row, channels=x.channels, moments=self._sums),
            Statistics(
                pixels=pixels, channels=x.channels, row=row, moments=self._sums, statistics=self._statistics,
                weight=self._weight, bias=self._bias, running_mean=running_mean, running_variance=running_variance,
                settings=builder.constant(self.layer.momentum, self.layer.epsilon),
            ),
            Normalize(
                x=self._x, rows=x.height, row=row, statistics=self._statistics, y=builder.row_table(y),
                rectified=int(self.target.rectified),
            ),
        ]  # fmt: skip

    def backward(self, builder: Builder) -> Sequence[Any]:
        x, g, d = self.source.buffer, self.target.gradient, self.source.gradient
        row, pixels, g_rows = x.width * x.channels, x.height * x.width, builder.row_table(g)
        return [
            NormSums(
                x=self._x, rows=x.height, row=row, channels=x.channels, statistics=self._statistics, g=g_rows,
                sums=self._sums,
            ),
            NormTotals(
                pixels=pixels, channels=x.channels, row=row, sums=self._sums, statistics=self._statistics,
                weight=self._weight, bias=self._bias,
            ),
            NormGradient(
                x=self._x, rows=x.height, row=row, statistics=self._statistics, g=g_rows, d=builder.row_table(d),
                finish=self.source.next_finish(), gates=self._x,
            ),
        ]  # fmt: skip
