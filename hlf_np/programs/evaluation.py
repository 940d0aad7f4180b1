"""Networks compiled for evaluation: logits, and whole attacks that run in cache.

In evaluation mode little is left of a network: products of gathered rows (`kernels.convolution` explains how a
convolution and its gradient are such products), pooling, and the joins of residual blocks. A `Program` holds these as
rows of numbers for `kernels.executor`, laid out by `builder`. Everything but the weights depends on the architecture
alone; `pack` collects the weights anew when they have changed.

In front of a network there may be others, one for each *group* of inputs: the decoders of ten classes, in front of one
classifier. They differ in their weights alone, so their operations are the same. Each lane takes its group's weights,
lanes of the same group together; the network behind them takes all lanes at once. A warp is such a front, too, with
constants instead of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numba
import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, flat_rows, plain
from hlf_np.kernels import attack, executor
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.warp import Grid
from hlf_np.kernels.winograd_filters import transform
from hlf_np.layers import Layer, Sequential
from hlf_np.programs import pooling
from hlf_np.programs.builder import Builder, Operation, as_rows
from hlf_np.programs.graph import Graph
from hlf_np.programs.memory import slot
from hlf_np.programs.nodes import Affine, Join, Node, Pool

# Lanes of a workspace: whole tiles, even where an image is a single row. More would read the weights less often, but
# the activations would leave the cache. Those of a `LARGE` network do so anyhow, and an image alone has rows enough.
IMAGES, FEW_IMAGES = 24, 12
LARGE = 1 << 17  # numbers in all activations of an image

# What `ascend` takes, all float32 and flat per task:
Settings = tuple[int, np.float32, int, int, np.float32, bool]  # steps, step size, rule, norm, epsilon, stop early
Box = tuple[Floats, Floats]  # lower, upper (D,)
Kept = tuple[Floats, Booleans, Integers, Floats]  # codes (T, D), success, iterations, loss (T,)


@dataclass(frozen=True)
class Tasks:
    """What is attacked: one row for each image.

    origins : (T, D), the codes around which the space lies; starts : (T, D); labels : (T,).
    groups : (T,), of each; sources : (T, E), the images that are warped, E = 0 for none.
    """

    origins: Floats
    starts: Floats
    labels: Integers
    groups: Integers
    sources: Floats


class Program:
    """A compiled network.

    Parameters
    ----------
    network : its layers must be those of `architectures`, or a VAE's.
    input_shape : (H, W, C) of images, (1, 1, L) of codes.
    warped : whether the inputs are six parameters that warp an image (H, W, 1).
    fronts : networks in front, one for each group of inputs, that differ in nothing but their weights.

    Raises
    ------
    UserError : for a layer that has no compiled form.
    """

    def __init__(
        self,
        network: Layer,
        input_shape: tuple[int, int, int],
        warped: bool = False,
        fronts: Sequence[Layer] = (Sequential(),),
    ) -> None:
        graphs = [Graph(front, input_shape) for front in fronts]
        graph = graphs[0]
        in_front = len(graph.nodes)
        graph.output = graph.sequence(network, graph.output)
        activations = sum(value.height * value.width * value.stride for value in graph.values)
        self.lanes = IMAGES if activations < LARGE else FEW_IMAGES
        builder = Builder(self.lanes)
        builder.buffers(graph)
        front, common = _Part(builder, graph.nodes[:in_front]), _Part(builder, graph.nodes[in_front:])
        self.output = graph.output
        self.slots = np.array([slot(graph.input), np.zeros(5, np.int64)])
        self.gradient, order = builder.input_blocks, builder.input_order
        if not graph.input.narrow:
            self.gradient, order = graph.input.gradient, np.arange(graph.input.channels)
        if warped:
            warp = WarpFront(builder, graph.input.buffer, self.gradient, order)
            front.forward, front.backward = [warp.forward], [warp.backward]
            self.slots, self.gradient, order = warp.slots, warp.gradient, np.arange(6)
        in_order = np.array_equal(order, np.arange(order.size))
        self.gradient_order = order[: 0 if in_order else None].astype(np.uint64)  # unsigned: none counts from behind
        self.front, self.forward, self.backward, self.front_backward = (
            as_rows(ops, executor.FIELDS) for ops in (front.forward, common.forward, common.backward, front.backward)
        )
        self.tables, self.sizes = builder.tables, (builder.work, builder.room)
        self._weights = aligned((len(fronts), builder.weights))
        if warped:
            self._weights[0, warp.at : warp.at + warp.constants.size] = warp.constants
        self._arranged = [_Arranged(_affine(graph.nodes[in_front:]), common, self._weights[0])]
        self._arranged += [
            _Arranged(_affine(other.nodes[:in_front]), front, row)
            for other, row in zip(graphs, self._weights, strict=True)
        ]
        # a multiply and an add each, forward and in the gradient
        self.operations_per_step = 4 * sum(node.multiply_adds for node in _affine(graph.nodes))

    def evaluate(self, inputs: Floats, groups: Integers | None = None) -> Floats:
        """Outputs (N, ...), flat, of inputs (N, ...), float32, each of a group (N,); not of a network behind a warp."""
        slots = np.array([self.slots[0], slot(self.output)])
        outputs = np.empty((len(inputs), int(slots[1, 0] * slots[1, 1])), np.float32)
        groups = np.zeros(len(inputs), np.int64) if groups is None else groups
        threads = numba.get_num_threads()
        rounds = max(1, -(-len(inputs) // (threads * self.lanes)))  # all lanes are busy in the last round too
        lanes = max(1, -(-len(inputs) // (threads * rounds)))
        executor.evaluation_kernel(
            executor.EVALUATION.addresses, executor.OPERATIONS.address, self.front, self.forward, self.tables,
            self.pack(), self.sizes, slots, np.argsort(groups, kind="stable"), plain(groups), flat_rows(plain(inputs)),
            outputs, lanes, threads,
        )  # fmt: skip
        return outputs

    def pack(self) -> Floats:
        """The present weights, in the order and form that the operations expect, (G, W).

        A row holds the weights of a group's front; the first, behind them, also those of the network.
        """
        for arranged in self._arranged:
            arranged.update()
        return self._weights


class _Part:
    """The operations of some nodes.

    Attributes
    ----------
    begin : where their weights begin; sources : for each place from there on the number of the weight that belongs
        there, from 1 in the order of the nodes, 0 for none; filters : see `Builder.filters`.
    """

    def __init__(self, builder: Builder, nodes: Sequence[Node]) -> None:
        self.begin, transformed = builder.weights, len(builder.filters)
        numbers, first = {}, 1
        for layer in _affine(nodes):
            weight, bias = (np.arange(array.size).reshape(array.shape) for array in layer.folded())
            numbers[layer] = layer.as_convolution(weight + first), bias + first + weight.size
            first += weight.size + bias.size
        self.forward: list[Operation] = []
        for node in nodes:
            if isinstance(node, Affine):
                weight, bias = numbers[node]
                starts = builder.place_rows(node.biases(bias), node.target.stride)
                self.forward += builder.forward(node, weight, None, starts)
            elif isinstance(node, Pool):
                self.forward.append(pooling.pool(builder, node))
            elif isinstance(node, Join):
                self.forward.append(pooling.join(builder, node))
        self.backward: list[Operation] = []
        for node in reversed(nodes):
            if isinstance(node, Affine):
                self.backward += builder.gradient(node, numbers[node][0], None)
            elif isinstance(node, Pool):
                self.backward.append(pooling.pool_gradient(builder, node))
            elif isinstance(node, Join):
                self.backward += pooling.join_gradient(builder, node)
        self.sources = builder.sources[self.begin :]
        self.filters = builder.filters[transformed:]


@dataclass
class _Arranged:
    """The weights of some nodes, arranged in `target` as `part` says, and what they were when that was done."""

    nodes: Sequence[Affine]
    part: _Part
    target: Floats
    arrays: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    def update(self) -> None:
        """Arrange the present weights, unless that has been done."""
        present = [array.ravel() for node in self.nodes for array in node.arrays()]
        arrays = np.concatenate([np.zeros(1, np.float32), *present])
        if not np.array_equal(arrays, self.arrays):
            folded = [array.ravel() for node in self.nodes for array in node.folded()]
            numbered = np.concatenate([np.zeros(1, np.float32), *folded])
            sources, begin = self.part.sources, self.part.begin
            np.take(numbered, sources, out=self.target[begin : begin + sources.size], mode="clip")
            transform(self.target, self.part.filters)
            self.arrays = arrays


def _affine(nodes: Sequence[Node]) -> list[Affine]:
    return [node for node in nodes if isinstance(node, Affine)]


class WarpFront:
    """The operations of a warp in front of a network.

    image : the buffer of the warped images, of one channel; blocks, order : where the gradient to them is found.
    """

    def __init__(self, builder: Builder, image: Layout, blocks: Layout, order: Integers) -> None:
        grid = Grid(image.height, image.width, np.float32)
        constants = np.concatenate([*grid.positions, grid.most, grid.half])
        pixels, filled, width = image.height * image.width, grid.positions[0].size, image.width + 3
        code, self.gradient = (self._buffer(builder, Layout(builder.images, 1, 1, LANES)) for _ in range(2))
        plane = self._buffer(builder, Layout(builder.images, image.height + 3, width, 1))
        slopes = self._buffer(builder, Layout(builder.images, 1, 1, LANES + 3 * filled))
        at = builder.reserve("weights", constants.size)
        self.at, self.constants = at, constants
        self.slots = np.array(
            [
                (1, 6, code.base, 0, code.image),
                (image.height, image.width, plane.base + width + 1, width, plane.image),
            ]
        )
        self.forward: Operation = (
            executor.WARP, code.base, code.image, plane.base, plane.image, image.height, image.width, at, filled,
            slopes.base, slopes.image, image.origin, image.row, image.image,
        )  # fmt: skip
        self.backward: Operation = (
            executor.WARP_GRADIENT, code.base, code.image, blocks.base, blocks.image, builder.table(order), pixels, at,
            filled, slopes.base, slopes.image, self.gradient.base, self.gradient.image,
        )  # fmt: skip

    @staticmethod
    def _buffer(builder: Builder, layout: Layout) -> Layout:
        return replace(layout, base=builder.reserve("work", layout.size))


def ascend(program: Program, settings: Settings, box: Box, tasks: Tasks, kept: Kept) -> None:
    """Attack all tasks; `kept` is updated in place."""
    out, gradient = program.output.buffer, program.output.gradient
    # copies: the compiled function takes contiguous arrays that may be written to, and users have others, too
    origins, sources, starts = (np.array(values, order="C") for values in (tasks.origins, tasks.sources, tasks.starts))
    labels, groups = np.array(tasks.labels), np.array(tasks.groups)
    places = (
        executor.OPERATIONS.address, program.front, program.forward, program.backward, program.front_backward,
        program.tables, program.sizes, program.slots,
        program.gradient.origin, program.gradient.image, program.gradient_order,
        out.origin, out.image, gradient.origin, gradient.image, program.output.channels,
    )  # fmt: skip
    attack.attack_kernel(
        attack.PART.addresses, program.pack(), places, settings, box, (origins, sources, starts, labels, groups), kept,
        np.argsort(groups, kind="stable"), program.lanes, numba.get_num_threads(),
    )  # fmt: skip
