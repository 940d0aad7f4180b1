"""Pooling, and the joins of residual blocks, as operations."""

from __future__ import annotations

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels import executor
from hlf_np.kernels.layout import Layout, windows
from hlf_np.kernels.tile import ADD, GATE, PLAIN
from hlf_np.programs.builder import Builder, Operation
from hlf_np.programs.nodes import Join, Pool


def pool(builder: Builder, node: Pool) -> Operation:
    """The pooling itself."""
    layout, to = node.source.buffer, node.target.buffer
    starts = builder.table(windows(layout, (node.kernel, node.kernel), node.stride, 0))
    positions = builder.table(_positions(layout, node.kernel))
    kind = executor.MAX_POOL if node.largest else executor.AVERAGE_POOL
    return (
        kind, starts, to.height * to.width, positions, node.kernel**2, builder.table(to.all_pixels()), to.channels
    )  # fmt: skip


def pool_gradient(builder: Builder, node: Pool) -> Operation:
    """The gradient to what is pooled."""
    source, gradient = node.source, node.target.gradient
    finish = source.next_finish()
    assert not finish & ADD, "a pooled value is read by the pooling alone"
    kind = executor.MAX_POOL_GRADIENT if node.largest else executor.AVERAGE_POOL_GRADIENT
    starts = windows(source.gradient, (node.kernel, node.kernel), node.stride, 0)
    positions = _positions(source.gradient, node.kernel)
    gates = builder.table(source.buffer.all_pixels()) if finish & GATE else -1
    own = (builder.table(gradient.all_pixels()), builder.table(starts), builder.table(positions))
    cleared = (builder.table(source.gradient.all_pixels()), source.height * source.width)
    return (kind, *pool(builder, node)[1:], *own, *cleared, gates)


def join(builder: Builder, node: Join) -> Operation:
    """relu(body + shortcut)."""
    to = node.target.buffer
    tables = [builder.table(value.buffer.all_pixels()) for value in (node.body, node.shortcut, node.target)]
    return (executor.JOIN, tables[0], to.height * to.width, tables[1], tables[2], to.channels)


def join_gradient(builder: Builder, node: Join) -> list[Operation]:
    """Copies of the gradient to the branches that do not share its buffer."""
    gradient = node.target.gradient
    copies: list[Operation] = []
    for value in (node.body, node.shortcut):
        if value.same_gradient is None:
            finish = value.next_finish()
            assert finish == PLAIN, "a shortcut is the first to write its gradient, and not the last"
            tables = (builder.table(gradient.all_pixels()), builder.table(value.gradient.all_pixels()))
            pixels = gradient.height * gradient.width
            copies.append((executor.COPY, tables[0], pixels, tables[1], gradient.channels))
    return copies


def _positions(layout: Layout, kernel: int) -> Integers:
    """Where the pixels of a pooling window lie, relative to its first."""
    return (np.arange(kernel)[:, None] * layout.row + np.arange(kernel) * layout.channels).ravel()
