"""Nodes that are not affine: pooling, residual additions, and batch norms and ReLUs that are not fused with a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlf_np.kernels.instructions import propagation
from hlf_np.kernels.instructions.training import (
    Moments,
    Normalize,
    NormGradient,
    NormSums,
    NormTotals,
    Statistics,
)
from hlf_np.kernels.layout import Layout, window_starts
from hlf_np.kernels.operations.normalization import STATISTICS_ROWS
from hlf_np.kernels.products.tile import PLAIN, RELU
from hlf_np.layers import BatchNorm
from hlf_np.programs.builder import Builder
from hlf_np.programs.values import Node, Value
from hlf_np.support.arrays import Floats, Integers


@dataclass(eq=False)
class Pool(Node):
    """The maximum or the mean of each window."""

    source: Value
    target: Value
    kernel: int
    stride: int
    largest: bool

    def forward(self, builder: Builder) -> Sequence[Any]:
        source, target = self.source.buffer, self.target.buffer
        self._forward = propagation.Pool(
            windows=builder.table(self._windows(source)), pixels=target.height * target.width,
            segments=builder.table(self._offsets(source)), size=self.kernel**2,
            targets=builder.table(target.all_pixels()), channels=target.channels, largest=int(self.largest),
        )  # fmt: skip
        return [self._forward]

    def backward(self, builder: Builder) -> Sequence[Any]:
        source, to = self.source, self.source.gradient
        return [
            propagation.PoolGradient(
                *self._forward, gradients=builder.table(self.target.gradient.all_pixels()),
                to_windows=builder.table(self._windows(to)), to_segments=builder.table(self._offsets(to)),
                to_all=builder.table(to.all_pixels()), to_pixels=source.pixels,
                epilogue=source.next_epilogue(), masks=builder.table(source.buffer.all_pixels()),
            )
        ]  # fmt: skip

    def _windows(self, layout: Layout) -> Integers:
        return window_starts(layout, (self.kernel, self.kernel), self.stride, 0)

    def _offsets(self, layout: Layout) -> Integers:
        """Return where the pixels of a window are, relative to its first pixel."""
        side = np.arange(self.kernel)
        return (side[:, None] * layout.row + side * layout.channels).ravel()


def _scale(
    builder: Builder,
    source: Layout,
    target: Layout,
    masks: Layout,
    epilogue: int,
    factors: int | None = None,
    offsets: int | None = None,
) -> propagation.Scale:
    """Return target = factors * source + offsets for all pixels, a copy without factors and offsets."""
    return propagation.Scale(
        sources=builder.table(source.all_pixels()), pixels=target.height * target.width,
        targets=builder.table(target.all_pixels()), channels=target.channels,
        factors=builder.ones(target.channels) if factors is None else factors,
        offsets=builder.zeros(target.channels) if offsets is None else offsets,
        epilogue=epilogue, masks=builder.table(masks.all_pixels()),
    )  # fmt: skip


@dataclass(eq=False)
class ResidualAdd(Node):
    """relu(body + shortcut). Both branches have the gradient of the sum."""

    body: Value
    shortcut: Value
    target: Value

    @property
    def sources(self) -> tuple[Value, ...]:
        return self.body, self.shortcut

    def prepare(self, batch_size: int | None) -> None:
        for source in self.sources:  # share the buffer of the gradient where nothing else reads or masks it
            if source.readers == [self] and not source.after_relu and not source.is_input:
                source.same_gradient = self.target

    def forward(self, builder: Builder) -> Sequence[Any]:
        bodies, shortcuts, targets = (
            builder.table(value.buffer.all_pixels()) for value in (self.body, self.shortcut, self.target)
        )
        pixels, channels = self.target.pixels, self.target.buffer.channels
        return [
            propagation.ResidualAdd(
                bodies=bodies, shortcuts=shortcuts, pixels=pixels, targets=targets, channels=channels
            )
        ]

    def backward(self, builder: Builder) -> Sequence[Any]:
        return [
            _scale(builder, self.target.gradient, source.gradient, source.buffer, source.next_epilogue())
            for source in self.sources
            if source.same_gradient is None
        ]


@dataclass(eq=False)
class Pointwise(Node):
    """Batch norm in evaluation mode, an affine map per channel; without `layer` a copy, or a ReLU alone.

    `factors` and `offsets` are positions in the weights.
    """

    source: Value
    target: Value
    layer: BatchNorm | None
    factors: int | None = None
    offsets: int | None = None

    def arrays(self) -> list[Floats]:
        return [array for _, array in self.layer.named_arrays()] if self.layer else []

    def folded(self) -> list[Floats]:
        return [*self.layer.scale_and_shift()] if self.layer else []

    def pack_parameters(self, builder: Builder) -> None:
        if self.layer:
            self.factors, self.offsets = (
                builder.pack_rows(builder.indices_of(array)[None], array.size) for array in self.folded()
            )

    def forward(self, builder: Builder) -> Sequence[Any]:
        source, target = self.source.buffer, self.target.buffer
        epilogue = RELU if self.target.after_relu else PLAIN
        return [_scale(builder, source, target, target, epilogue, self.factors, self.offsets)]

    def backward(self, builder: Builder) -> Sequence[Any]:
        g, source = self.target.gradient, self.source
        return [_scale(builder, g, source.gradient, source.buffer, source.next_epilogue(), self.factors)]


@dataclass(eq=False)
class TrainingNorm(Node):
    """Batch norm in training mode, and the ReLU after it if the target is the output of one."""

    source: Value
    target: Value
    layer: BatchNorm

    def prepare(self, batch_size: int | None) -> None:
        only_reader = self.source.readers == [self] and not self.source.after_relu and not self.source.is_input
        if only_reader and self.target.same_gradient is None:  # compute the gradient in place
            self.source.same_gradient = self.target

    def pack_parameters(self, builder: Builder) -> None:
        self._weight, self._bias = (
            builder.pack_rows(builder.indices_of(parameter.data)[None], parameter.data.size)
            for parameter in self.layer.parameters.values()
        )

    def forward(self, builder: Builder) -> Sequence[Any]:
        x, y = self.source.buffer, self.target.buffer
        row_size, pixels = x.width * x.channels, x.height * x.width
        running_mean, running_variance = (builder.pack_shared(buffer) for buffer in self.layer.buffers.values())
        self._statistics = builder.reserve("weights", STATISTICS_ROWS * row_size)
        self._sums = builder.reserve("work", 2 * x.channels)
        self._x = builder.row_table(x)
        return [
            Moments(x=self._x, rows=x.height, row_size=row_size, channels=x.channels, moments=self._sums),
            Statistics(
                pixels=pixels, channels=x.channels, row_size=row_size, moments=self._sums, statistics=self._statistics,
                weight=self._weight, bias=self._bias, running_mean=running_mean, running_variance=running_variance,
                settings=builder.constant(self.layer.momentum, self.layer.epsilon),
            ),
            Normalize(
                x=self._x, rows=x.height, row_size=row_size, statistics=self._statistics, y=builder.row_table(y),
                relu=int(self.target.after_relu),
            ),
        ]  # fmt: skip

    def backward(self, builder: Builder) -> Sequence[Any]:
        x, g, d = self.source.buffer, self.target.gradient, self.source.gradient
        row_size, pixels, g_rows = x.width * x.channels, x.height * x.width, builder.row_table(g)
        return [
            NormSums(
                x=self._x, rows=x.height, row_size=row_size, channels=x.channels, statistics=self._statistics, g=g_rows,
                sums=self._sums,
            ),
            NormTotals(
                pixels=pixels, channels=x.channels, row_size=row_size, sums=self._sums, statistics=self._statistics,
                weight=self._weight, bias=self._bias,
            ),
            NormGradient(
                x=self._x, rows=x.height, row_size=row_size, statistics=self._statistics, g=g_rows,
                d=builder.row_table(d), epilogue=self.source.next_epilogue(), masks=self._x,
            ),
        ]  # fmt: skip
