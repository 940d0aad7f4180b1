"""Convolutions in Winograd's form, as operations; `kernels.winograd` explains it."""

from __future__ import annotations

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels import executor
from hlf_np.kernels.convolution import panels
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import PLAIN, RELU
from hlf_np.kernels.winograd import BLOCK, SIDE, TURNED
from hlf_np.programs.builder import Builder, Operation
from hlf_np.programs.nodes import Affine

STEP = SIDE // 2  # from one patch to the next: as many pixels as it gives outputs


def convolution(builder: Builder, node: Affine, numbers: Integers, starts: int) -> Operation:
    """The layer itself; `numbers` : of its transformed weights, (O, C, 4, 4); `starts` : where its biases are."""
    source, target = node.source.buffer, node.target.buffer
    matrices = numbers.transpose(2, 3, 1, 0)
    return _operation(builder, source, target, target, matrices, starts, RELU if node.target.rectified else PLAIN)


def gradient(builder: Builder, node: Affine, numbers: Integers) -> Operation:
    """The gradient to the source: the convolution with the turned filters, from outputs to inputs."""
    finish = node.source.next_finish()
    source, target = node.target.gradient, node.source.gradient
    matrices = numbers[:, :, TURNED][:, :, :, TURNED].transpose(2, 3, 0, 1)
    start = builder.zeros(target.channels)
    return _operation(builder, source, target, node.source.buffer, matrices, start, finish)


def _operation(
    builder: Builder, source: Layout, target: Layout, gates: Layout, matrices: Integers, start: int, finish: int
) -> Operation:
    """matrices : numbers of the weights, (4, 4, channels of the source, of the target)."""
    rows, columns = (np.arange(0, size, STEP) - 1 for size in (source.height, source.width))
    extra = (0, source.channels - matrices.shape[2]), (0, target.channels - matrices.shape[3])
    filled = np.pad(matrices, ((0, 0), (0, 0), *extra)).reshape(-1, source.channels, target.channels)
    lines = np.concatenate([np.arange(BLOCK) * layout.channels for layout in (source, target)])
    return (
        executor.WINOGRAD,
        builder.table(source.pixels(rows, columns)),
        rows.size * columns.size,
        source.row,
        source.channels,
        builder.place(np.stack([panels(matrix) for matrix in filled])),
        start,
        builder.zeros(target.channels),
        target.channels,
        builder.table(_outputs(target)),
        builder.table(_outputs(gates)),
        finish,
        builder.room,
        builder.table(lines),
    )


def _outputs(layout: Layout) -> Integers:
    """Where the 2x2 outputs of every patch go, one after another; -1 beyond the image."""
    extra = [(0, -size % STEP) for size in (layout.height, layout.width)]
    pixels = layout.all_pixels().reshape(layout.images, layout.height, layout.width)
    pixels = np.pad(pixels, [(0, 0), *extra], constant_values=-1)
    patches = pixels.reshape(layout.images, pixels.shape[1] // STEP, STEP, pixels.shape[2] // STEP, STEP)
    return patches.transpose(0, 1, 3, 2, 4).ravel()
