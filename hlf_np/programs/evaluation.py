"""Networks compiled for evaluation: logits, and whole attacks that run in cache.

In evaluation mode little is left of a network: products of gathered rows (`kernels.convolution` explains how a
convolution and its gradient are such products), pooling, and the joins of residual blocks. A `Program` holds these as
`kernels.instructions`, written by the nodes of a `Graph` into a `Builder`. Everything but the weights depends on the
architecture alone; `pack` collects the weights anew when they have changed.

In front of a network there may be others, one for each *group* of inputs: the decoders of ten classes, in front of one
classifier. They differ in their weights alone, so their instructions are the same. Each lane takes its group's weights,
lanes of the same group together; the network behind them takes all lanes at once. A warp is such a front, too, with
constants instead of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, flat_rows, plain
from hlf_np.kernels import attack, executor
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.instructions import encoded
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.winograd_filters import transform
from hlf_np.layers import Layer, Sequential
from hlf_np.programs.affine import Affine
from hlf_np.programs.builder import Builder, Counter, numbered, slot
from hlf_np.programs.graph import Graph
from hlf_np.programs.structure import structure
from hlf_np.programs.values import Node, NotCompiledError, Value
from hlf_np.programs.warping import PARAMETERS, WarpFront

# Lanes of a workspace: whole tiles, even where an image is a single row. More would read the weights less often, but
# the activations would leave the cache. Those of a `LARGE` network do so anyhow, and an image alone has rows enough.
IMAGES, FEW_IMAGES = 24, 12
LARGE = 1 << 17  # numbers in all activations of an image
MOST = 1 << 26  # numbers in the activations of a workspace, a quarter of a gigabyte

# What `ascend` takes, all float32 and flat per task:
Settings = tuple[int, np.float32, int, int, np.float32, bool]  # steps, step size, rule, norm, epsilon, stop early
Box = tuple[Floats, Floats]  # lower, upper (D,)
Kept = tuple[Floats, Booleans, Integers, Floats]  # codes (T, D), success, iterations, loss (T,)


@dataclass(frozen=True)
class Tasks:
    """What is attacked: one row for each image.

    origins : (T, D), the codes around which the space lies; starts : (T, D); labels : (T,).
    targets : (T, classes), log p of the divergence KL(p || q) that is ascended; (T, 0) for the cross-entropy.
    groups : (T,), of each; sources : (T, E), the images that are warped, E = 0 for none.
    """

    origins: Floats
    starts: Floats
    targets: Floats
    labels: Integers
    groups: Integers
    sources: Floats


class Program:
    """A compiled network; UserError for one that does not fit, NotCompiledError for one that cannot be compiled.

    network : what the graph knows to read.
    input_shape : (H, W, C) of images, (L,) of codes.
    warped : whether the inputs are six parameters that warp an image (H, W, 1).
    fronts : networks in front, one for each group of inputs, that differ in nothing but their weights.
    """

    def __init__(
        self,
        network: Layer,
        input_shape: tuple[int, ...],
        warped: bool = False,
        fronts: Sequence[Layer] = (Sequential(),),
    ) -> None:
        graphs = [Graph(front, input_shape) for front in fronts]
        if len({structure(front) for front in fronts}) > 1:
            raise NotCompiledError("networks in front that differ in more than their weights are not compiled together")
        graph = graphs[0]
        in_front = len(graph.nodes)
        graph.append(network)
        graph.finish()
        builder = Builder(_lanes(graph), Counter())
        builder.buffers(graph)
        front, common = (_Part(builder, nodes) for nodes in (graph.nodes[:in_front], graph.nodes[in_front:]))
        self.lanes, self.input_shape = builder.images, input_shape
        self.output, self.output_shape = graph.output, graph.output_shape
        self.slots = np.array([slot(graph.input), np.zeros(7, np.int64)])
        self.gradient, order = builder.input_gradient, builder.input_order
        if not graph.input.narrow:
            self.gradient, order = graph.input.gradient, _order(graph.input)
        if warped:
            warp = WarpFront(builder, graph.input.buffer, self.gradient, order)
            front.forward, front.backward = [warp.forward], [warp.backward]
            self.slots, self.gradient, order = warp.slots, warp.code_gradient, np.arange(PARAMETERS)
        in_order = np.array_equal(order, np.arange(order.size))
        self.gradient_order = order[: 0 if in_order else None].astype(np.uint64)  # unsigned: none counts from behind
        self.front, self.forward, self.backward, self.front_backward = map(
            encoded, (front.forward, common.forward, common.backward, front.backward)
        )
        self.tables, self.sizes = builder.tables, (builder.work, builder.room)
        self._weights = aligned((len(fronts), builder.weights))
        if warped:
            self._weights[0, warp.at : warp.at + warp.constants.size] = warp.constants
        self._arranged = [_Arranged(graph.nodes[in_front:], common, self._weights[0])]
        self._arranged += [
            _Arranged(other.nodes[:in_front], front, row) for other, row in zip(graphs, self._weights, strict=True)
        ]
        # a multiply and an add each, forward and in the gradient
        self.operations_per_step = 4 * sum(node.multiply_adds for node in graph.nodes if isinstance(node, Affine))

    def evaluate(self, inputs: Floats, groups: Integers | None = None) -> Floats:
        """Outputs (N, ...), flat, of inputs (N, ...), float32, each of a group (N,); not of a network behind a warp."""
        slots = np.array([self.slots[0], slot(self.output)])
        outputs = np.empty((len(inputs), int(np.prod(self.output.shape))), np.float32)
        groups = np.zeros(len(inputs), np.int64) if groups is None else groups
        threads = numba.get_num_threads()
        rounds = max(1, -(-len(inputs) // (threads * self.lanes)))  # all lanes are busy in the last round too
        lanes = max(1, -(-len(inputs) // (threads * rounds)))
        executor.evaluation_kernel(
            executor.EVALUATION.addresses, threads, threads, executor.INSTRUCTIONS.address, self.front, self.forward,
            self.tables, self.pack(), self.sizes, slots, np.argsort(groups, kind="stable"), plain(groups),
            flat_rows(plain(inputs)), outputs, lanes,
        )  # fmt: skip
        return outputs

    def pack(self) -> Floats:
        """The present weights, in the order and form that the instructions expect, (G, W).

        A row holds the weights of a group's front; the first, behind them, also those of the network.
        """
        for arranged in self._arranged:
            arranged.update()
        return self._weights


class _Part:
    """The instructions of some nodes.

    begin : where their weights begin; sources : for each place from there on the number of what belongs there;
    filters : see `Builder.filters`.
    """

    def __init__(self, builder: Builder, nodes: Sequence[Node]) -> None:
        builder.number = Counter()
        self.begin, transformed = builder.weights, len(builder.filters)
        for node in nodes:
            node.place(builder)
        self.forward: list[Any] = [step for node in nodes for step in node.forward(builder)]
        self.backward: list[Any] = [step for node in reversed(nodes) for step in node.backward(builder)]
        self.sources = builder.sources[self.begin :]
        self.filters = builder.filters[transformed:]


@dataclass
class _Arranged:
    """The weights of some nodes, arranged in `target` as `part` says, and what they were when that was done."""

    nodes: Sequence[Node]
    part: _Part
    target: Floats
    arrays: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    def update(self) -> None:
        """Arrange the present weights, unless that has been done."""
        arrays = numbered([array for node in self.nodes for array in node.arrays()])
        if not np.array_equal(arrays, self.arrays):
            values = numbered([array for node in self.nodes for array in node.folded()])
            sources, begin = self.part.sources, self.part.begin
            np.take(values, sources, out=self.target[begin : begin + sources.size], mode="clip")
            transform(self.target, self.part.filters)
            self.arrays = arrays


def _lanes(graph: Graph) -> int:
    """How many images a workspace holds."""
    activations = sum(value.pixels * value.stride for value in graph.values)
    return max(1, min(IMAGES if activations < LARGE else FEW_IMAGES, MOST // activations))


def _order(value: Value) -> Integers:
    """Where each number of an image is in the gradient, relative to the image's first."""
    gradient = value.gradient
    one = Layout(1, value.height, value.width, gradient.channels, gradient.frame)
    return (one.all_pixels()[:, None] - one.origin + np.arange(value.channels)).ravel()


def ascend(program: Program, settings: Settings, box: Box, tasks: Tasks, kept: Kept) -> None:
    """Attack all tasks; `kept` is updated in place."""
    out, gradient = program.output.buffer, program.output.gradient
    # copies: the compiled function takes contiguous arrays that may be written to, and users have others, too
    origins, sources, starts, targets = (
        np.array(values, order="C") for values in (tasks.origins, tasks.sources, tasks.starts, tasks.targets)
    )
    labels, groups = np.array(tasks.labels), np.array(tasks.groups)
    places = (
        executor.INSTRUCTIONS.address, program.front, program.forward, program.backward, program.front_backward,
        program.tables, program.sizes, program.slots,
        program.gradient.origin, program.gradient.image, program.gradient_order,
        out.origin, out.image, gradient.origin, gradient.image, program.output.channels,
    )  # fmt: skip
    attack.attack_kernel(
        attack.PART.addresses, program.pack(), places, settings, box,
        (origins, sources, starts, targets, labels, groups), kept, np.argsort(groups, kind="stable"), program.lanes,
        numba.get_num_threads(),
    )  # fmt: skip
