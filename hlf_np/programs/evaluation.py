"""Networks compiled for evaluation: logits, and whole attacks that run in cache.

In evaluation mode little is left of a network: products of gathered rows (`kernels.convolution` explains how a
convolution and its gradient are such products), pooling, and the joins of residual blocks. A `Program` holds these as
rows of numbers for `kernels.executor`, laid out by `builder`. Everything but the weights depends on the architecture
alone; `pack` collects the weights anew after each training step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numba
import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, flat_rows
from hlf_np.kernels import attack, executor
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.warp import Grid
from hlf_np.layers import Layer
from hlf_np.programs import pooling
from hlf_np.programs.builder import Builder, Operation, as_rows, slot
from hlf_np.programs.graph import Affine, Graph, Join, Pool

IMAGES = 12  # lanes of a workspace: whole tiles, even where an image is a single row, and everything fits the cache

# What `ascend` takes, all float32 and flat per task:
Settings = tuple[int, np.float32, int, int, np.float32, bool]  # steps, step size, rule, norm, epsilon, stop early
Box = tuple[Floats, Floats]  # lower, upper (D,)
Kept = tuple[Floats, Booleans, Integers, Floats]  # codes (T, D), success, iterations, loss (T,)


@dataclass(frozen=True)
class Tasks:
    """What is attacked: one row for each image.

    origins : (T, D), the codes around which the space lies; starts : (T, D); labels : (T,).
    groups : (T,), which of the programs; sources : (T, E), the images that are warped, E = 0 for none.
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
    network : its layers must be those of `models`, or a decoder's with a model's behind it.
    input_shape : (H, W, C) of images, (1, 1, L) of codes.
    warped : whether the inputs are six parameters that warp an image (H, W, 1).

    Raises
    ------
    UserError : for a layer that has no compiled form.
    """

    def __init__(self, network: Layer, input_shape: tuple[int, int, int], warped: bool = False) -> None:
        graph, builder = Graph(network, input_shape), Builder(IMAGES)
        self._affine = [node for node in graph.nodes if isinstance(node, Affine)]
        numbers = self._numbers()
        builder.buffers(graph)
        forward: list[Operation] = []
        for node in graph.nodes:
            if isinstance(node, Affine):
                weight, bias = numbers[node]
                starts = builder.place_rows(node.biases(bias), node.target.stride)
                matrix = None if node.transposed else builder.place(builder.matrix(node, weight))
                forward += builder.forward(node, weight, matrix, starts)
            elif isinstance(node, Pool):
                forward.append(pooling.pool(builder, node))
            elif isinstance(node, Join):
                forward.append(pooling.join(builder, node))
        backward: list[Operation] = []
        for node in reversed(graph.nodes):
            if isinstance(node, Affine):
                backward += builder.gradient(node, numbers[node][0], None)
            elif isinstance(node, Pool):
                backward.append(pooling.pool_gradient(builder, node))
            elif isinstance(node, Join):
                backward += pooling.join_gradient(builder, node)
        self.output = graph.output
        self.slots = np.array([slot(graph.input), np.zeros(5, np.int64)])
        self.gradient, order = builder.input_blocks, builder.input_order
        if not graph.input.narrow:
            self.gradient, order = graph.input.gradient, np.arange(graph.input.channels)
        self._constants: tuple[int, Floats] = (0, np.zeros(0, np.float32))
        if warped:
            front = WarpFront(builder, graph.input.buffer, self.gradient, order)
            forward, backward = [front.forward, *forward], [*backward, front.backward]
            self.slots, self.gradient, order, self._constants = (
                front.slots, front.gradient, np.arange(6), front.constants
            )  # fmt: skip
        self.gradient_order = order.astype(np.uint64)  # unsigned: no index counts from behind
        self.forward, self.backward = as_rows(forward, executor.FIELDS), as_rows(backward, executor.FIELDS)
        self.tables, self.work, self._sources = builder.tables, builder.work, builder.sources
        # a multiply and an add each, forward and in the gradient
        self.operations_per_step = 4 * sum(node.multiply_adds for node in self._affine)

    def _numbers(self) -> dict[Affine, tuple[Integers, Integers]]:
        """Of each layer the numbers of its weights (O, C, kh, kw) and of its bias (O,), from 1."""
        numbers, first = {}, 1
        for node in self._affine:
            weight, bias = (np.arange(array.size).reshape(array.shape) for array in node.folded())
            numbers[node] = node.as_convolution(weight + first), bias + first + weight.size
            first += weight.size + bias.size
        return numbers

    def evaluate(self, inputs: Floats) -> Floats:
        """Outputs (N, ...), flat, of inputs (N, ...), float32; of a network that warps nothing."""
        slots = np.array([self.slots[0], slot(self.output)])
        outputs = np.empty((len(inputs), int(slots[1, 0] * slots[1, 1])), np.float32)
        threads = numba.get_num_threads()
        rounds = max(1, -(-len(inputs) // (threads * IMAGES)))  # all lanes are busy in the last round too
        lanes = max(1, -(-len(inputs) // (threads * rounds)))
        executor.evaluation_kernel(
            executor.OPERATIONS.address, self.forward, self.tables, self.pack(), self.work, slots,
            flat_rows(np.ascontiguousarray(inputs)), outputs, lanes, threads,
        )  # fmt: skip
        return outputs

    def pack(self) -> Floats:
        """The network's present weights, in the order and form that the operations expect."""
        return self.pack_into(aligned((self.weights,)))

    @property
    def weights(self) -> int:
        """How many numbers `pack` gives."""
        return self._sources.size

    def pack_into(self, weights: Floats) -> Floats:
        """The same, into an array (W,)."""
        arrays = [array.ravel() for node in self._affine for array in node.folded()]
        np.take(np.concatenate([np.zeros(1, np.float32), *arrays]), self._sources, out=weights, mode="clip")
        at, constants = self._constants
        weights[at : at + constants.size] = constants
        return weights


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
        self.constants = at, constants
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


def ascend(programs: Sequence[Program], settings: Settings, box: Box, tasks: Tasks, kept: Kept) -> None:
    """Attack all tasks; `kept` is updated in place. The programs differ in nothing but their weights."""
    first = programs[0]
    out, gradient = first.output.buffer, first.output.gradient
    program = (
        executor.OPERATIONS.address, first.forward, first.backward, first.tables, first.work, first.slots,
        first.gradient.origin, first.gradient.image, first.gradient_order,
        out.origin, out.image, gradient.origin, gradient.image, first.output.channels,
    )  # fmt: skip
    order = np.argsort(tasks.groups, kind="stable")
    weights = aligned((len(programs), first.weights))
    for row, one in zip(weights, programs, strict=True):
        one.pack_into(row)
    attack.attack_kernel(
        weights, program, settings, box, (tasks.origins, tasks.sources, tasks.starts, tasks.labels), kept, order,
        _parts(np.bincount(tasks.groups, minlength=len(programs)), numba.get_num_threads()), IMAGES,
    )  # fmt: skip


def _parts(counts: Integers, threads: int) -> Integers:
    """(P, 3) parts of about equal work: first task, the one behind the last, group; `counts` : tasks of each group."""
    share = max(1, -(-int(counts.sum()) // threads))
    parts, first = [], 0
    for group, count in enumerate(counts):
        pieces = -(-int(count) // share)
        bounds = [first + piece * int(count) // max(1, pieces) for piece in range(pieces + 1)]
        parts += [(begin, end, group) for begin, end in pairwise(bounds)]
        first += int(count)
    return np.array(parts, np.int64).reshape(-1, 3)
