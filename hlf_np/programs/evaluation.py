"""Networks compiled for evaluation: logits, and whole attacks that run in cache.

In evaluation mode little is left of a network: products of gathered rows (`kernels.convolution` explains how a
convolution and its gradient are such products), pooling, and the joins of residual blocks. A `Program` holds these as
rows of numbers for `kernels.executor`, laid out by `builder`. Everything but the weights depends on the architecture
alone; `pack` collects the weights anew after each training step.
"""

from __future__ import annotations

import numba
import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, flat_rows
from hlf_np.kernels import executor
from hlf_np.kernels.buffers import aligned
from hlf_np.layers import Layer
from hlf_np.programs.builder import Builder, Operation, as_rows, slot
from hlf_np.programs.graph import Affine, Graph, Join, Pool

IMAGES = 12  # lanes of a workspace: whole tiles, even where an image is a single row, and everything fits the cache

# What `Program.ascend` takes, all float32 and flat per task:
Settings = tuple[int, np.float32, int, int, np.float32, bool]  # steps, step size, rule, norm, epsilon, stop early
Box = tuple[Floats, Floats]  # lower, upper (D,)
Tasks = tuple[Floats, Integers, Floats, Integers]  # origins (N, D), which of them (T,), starts (T, D), labels (T,)
Kept = tuple[Floats, Booleans, Integers, Floats]  # codes (T, D), success, iterations, loss (T,)


class Program:
    """A compiled network.

    Parameters
    ----------
    network : its layers must be those of `models`, or a decoder's with a model's behind it.
    input_shape : (H, W, C) of images, (1, 1, L) of codes.

    Raises
    ------
    UserError : for a layer that has no compiled form.
    """

    def __init__(self, network: Layer, input_shape: tuple[int, int, int]) -> None:
        graph, builder = Graph(network, input_shape), Builder(IMAGES)
        self._affine = [node for node in graph.nodes if isinstance(node, Affine)]
        numbers = self._numbers()
        builder.buffers(graph)
        forward: list[Operation] = []
        matrices: dict[Affine, int] = {}
        for node in graph.nodes:
            if isinstance(node, Affine):
                weight, bias = numbers[node]
                starts = builder.place_rows(node.biases(bias), node.target.stride)
                if not node.transposed:
                    matrices[node] = builder.place(builder.matrix(node, weight))
                forward += builder.forward(node, weight, matrices.get(node, -1), starts)
            elif isinstance(node, Pool):
                forward.append(builder.pool(node))
            elif isinstance(node, Join):
                forward.append(builder.join(node))
        backward: list[Operation] = []
        for node in reversed(graph.nodes):
            if isinstance(node, Affine):
                backward += builder.gradient(node, numbers[node][0], None)
            elif isinstance(node, Pool):
                backward.append(builder.pool_gradient(node))
            elif isinstance(node, Join):
                backward += builder.join_gradient(node)
        self.input, self.output = graph.input, graph.output
        self.gradient, order = builder.input_blocks, builder.input_order
        if not graph.input.narrow:
            self.gradient, order = graph.input.gradient, np.arange(graph.input.channels)
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

    def logits(self, images: Floats) -> Floats:
        """Logits (N, classes) of images (N, H, W, C) or codes, float32."""
        result = np.empty((len(images), self.output.channels), np.float32)
        lanes, parts = _shares(len(images))
        out, codes = self.output.buffer, flat_rows(np.ascontiguousarray(images))
        executor.logits_kernel(
            executor.OPERATIONS.address, self.forward, self.tables, self.pack(), self.work, slot(self.input),
            out.origin, out.image, codes, result, lanes, parts,
        )  # fmt: skip
        return result

    def ascend(self, settings: Settings, box: Box, tasks: Tasks, kept: Kept) -> None:
        """Attack all tasks; `kept` is updated in place."""
        out, gradient = self.output.buffer, self.output.gradient
        program = (
            executor.OPERATIONS.address, self.forward, self.backward, self.tables, self.pack(), self.work,
            slot(self.input), self.gradient.origin, self.gradient.image, self.gradient_order,
            out.origin, out.image, gradient.origin, gradient.image, self.output.channels,
        )  # fmt: skip
        lanes, parts = _shares(len(tasks[2]))
        executor.attack_kernel(program, settings, box, tasks, kept, lanes, parts)

    def pack(self) -> Floats:
        """The network's present weights, in the order and form that the operations expect."""
        arrays = [array.ravel() for node in self._affine for array in node.folded()]
        weights = aligned((self._sources.size,))
        return np.take(np.concatenate([np.zeros(1, np.float32), *arrays]), self._sources, out=weights, mode="clip")


def _shares(tasks: int) -> tuple[int, int]:
    """(lanes, parts): tasks split evenly over the threads, and lanes so that all are busy in the last round too."""
    parts = numba.get_num_threads()
    share = -(-tasks // parts)
    rounds = max(1, -(-share // IMAGES))
    return max(1, -(-share // rounds)), parts
