"""Networks compiled for training: a whole step, forward, backward and update, without allocating anything.

The operations are those of evaluation, and with each layer's the ones for its parameters; batch norm is an operation of
its own that uses the batch's statistics. `kernels.training` says how a batch is cut into parts and stages.

During training the parameters live in one array, arranged as the products read them. `TrainingProgram.store` copies
them to where the layers keep them: the arrays of all layers become views of one flat array.
"""

from __future__ import annotations

import numba
import numpy as np

from hlf_np.arrays import Floats, Integers, flat_rows
from hlf_np.kernels import executor
from hlf_np.kernels import training as kernels
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.layout import Layout, windows
from hlf_np.kernels.tile import PANEL, PLAIN, RELU, padded
from hlf_np.layers import Layer
from hlf_np.optim import AdamConfig
from hlf_np.programs.builder import Builder, Operation, as_rows, slot
from hlf_np.programs.graph import Affine, Graph, Norm, Pool, Value

IMAGES = 10  # of a part: an even share of a batch of 100 for 2, 5 or 10 threads


class TrainingProgram:
    """A network compiled for training with the cross-entropy, and Adam's state.

    Parameters
    ----------
    network : its layers must be those of `models`. Its arrays become views of one flat array.
    image_shape : (H, W, C); config : of Adam.

    Raises
    ------
    UserError : for a layer that has no compiled form.
    """

    def __init__(self, network: Layer, image_shape: tuple[int, int, int], config: AdamConfig) -> None:
        self.config, self.steps = config, 0
        graph, builder = Graph(network, image_shape, training=True), Builder(IMAGES)
        self._flat, numbers = _flatten(network)
        plan = _Plan(graph, builder, numbers)
        self._ops, self._stages = _staged(plan.forward() + plan.loss() + plan.backward())
        self._tasks = np.array(sorted(plan.tasks, key=lambda task: -task[2] * task[7]))  # the longest first
        self._tables, self._images = builder.tables, IMAGES
        self._slots = np.array([slot(graph.image.buffer), slot(plan.labels), slot(plan.results)])
        self._gradients = aligned((plan.parameters,))
        self._weights = aligned((builder.weights,))
        self._work = np.zeros((0, builder.work), np.float32)
        self._results = np.zeros((0, 2), np.float32)
        self._first, self._second = (aligned((plan.parameters,)) for _ in range(2))
        sources = builder.sources
        filled = np.flatnonzero(sources)
        numbered = sources[filled] - 1
        self._places = np.zeros(self._flat.size, np.int64)
        self._places[numbered[::-1]] = filled[::-1]  # each number's first place is its own, further ones are copies
        copies = filled != self._places[numbered]
        self._to, self._source = filled[copies], self._places[numbered[copies]]
        self._weights[filled] = self._flat[numbered]
        for at, value in plan.constants:
            self._weights[at] = value

    def step(self, images: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """One step of Adam on a batch, in place.

        Parameters
        ----------
        images : (N, H, W, C) float32; labels : (N,).

        Returns
        -------
        The loss of each image before the step, (N,), and the class that was predicted, (N,).
        """
        parts = -(-len(images) // self._images)
        if parts > len(self._work):
            self._work = aligned((parts, self._work.shape[1]))
            self._results = np.zeros((parts * self._images, 2), np.float32)
        results = self._results[: len(images)]
        kernels.gradients_kernel(
            self._ops, self._stages, self._tasks, self._tables, self._weights, self._work, self._images, self._slots,
            flat_rows(images), labels.astype(np.float32)[:, None], results, self._gradients, numba.get_num_threads(),
        )  # fmt: skip
        self.steps += 1
        kernels.update_kernel(
            self._weights, self._gradients, self._first, self._second,
            self.config.settings(self.steps, learning_rate).astype(np.float32),
            self._to, self._source,
        )  # fmt: skip
        return results[:, 0].copy(), results[:, 1].astype(np.int64)

    def store(self) -> None:
        """Put the present parameters and statistics into the layers, which keep their old ones until then."""
        np.take(self._weights, self._places, out=self._flat, mode="clip")


class _Plan:
    """The operations of a step."""

    def __init__(self, graph: Graph, builder: Builder, numbers: dict[int, Integers]) -> None:
        self.graph, self.builder, self.numbers = graph, builder, numbers
        self.constants: list[tuple[int, float]] = []
        self.at: dict[int, int] = {}  # where the arrays are among the weights, by their identity
        for node in graph.nodes:  # parameters first: their gradients lie in the same order
            if isinstance(node, Affine):
                weight = node.layer.parameters["weight"].data
                numbered = node.as_convolution(numbers[id(weight)].reshape(weight.shape))
                self.at[id(weight)] = builder.place(builder.matrix(node, numbered))
                if "bias" in node.layer.parameters:
                    self._place(node.layer.parameters["bias"].data)
            elif isinstance(node, Norm):
                self._place(node.layer.parameters["weight"].data)
                self._place(node.layer.parameters["bias"].data)
        self.parameters = builder.weights
        self.tasks: list[tuple[int, ...]] = []  # parts of the gradients to weights
        self.totals: list[Operation] = []  # of the gradients to biases
        self.statistics = {node.target: self._statistics(node) for node in graph.nodes if isinstance(node, Norm)}
        builder.buffers(graph)
        self.labels, self.results = (builder.buffer(Value(1, 1, size)) for size in (1, 2))

    def _place(self, array: Floats) -> None:
        numbers = np.zeros(padded(array.size), np.int64)
        numbers[: array.size] = self.numbers[id(array)]
        self.at[id(array)] = self.builder.place(numbers)

    def _constant(self, *values: float) -> int:
        at = self.builder.reserve("weights", len(values))
        self.constants += [(at + k, value) for k, value in enumerate(values)]
        return at

    def _statistics(self, node: Norm) -> tuple[int, int, int]:
        """Where batch norm has its statistics and its settings, and in the workspace each part's sums."""
        for buffer in node.layer.buffers.values():
            self._place(buffer)
        return (
            self.builder.reserve("weights", kernels.STATISTICS_ROWS * node.source.width * node.source.stride),
            self._constant(node.layer.momentum, node.layer.epsilon),
            self.builder.reserve("work", 2 * node.source.stride),
        )

    def _rows(self, layout: Layout) -> int:
        """A table of where rows of pixels start."""
        return self.builder.table(layout.pixels(np.arange(layout.height), 0))

    def forward(self) -> list[Operation]:
        """From the images to the logits."""
        operations: list[Operation] = []
        for node in self.graph.nodes:
            if isinstance(node, Affine):
                parameters = node.layer.parameters
                start = (
                    self.at[id(parameters["bias"].data)]
                    if "bias" in parameters
                    else self.builder.zeros(node.target.buffer.channels)
                )
                finish = RELU if node.target.rectified else PLAIN
                operations.append(self.builder.forward(node, self.at[id(parameters["weight"].data)], start, finish))
            elif isinstance(node, Norm):
                x, y = node.source.buffer, node.target.buffer
                at, settings, moments = self.statistics[node.target]
                arrays = (*(p.data for p in node.layer.parameters.values()), *node.layer.buffers.values())
                own = [self.at[id(array)] for array in arrays]
                row, pixels = x.width * x.channels, x.height * x.width
                values = (self._rows(x), x.height, row)
                operations += [
                    (kernels.MOMENTS, *values, x.channels, moments),
                    (kernels.STATISTICS, pixels, x.channels, row, moments, at, *own, settings),
                    (kernels.NORMALIZE, *values, at, self._rows(y), int(node.target.rectified)),
                ]
            elif isinstance(node, Pool):
                operations.append(self.builder.pool(node))
            else:
                operations.append(self.builder.join(node))
        return operations

    def loss(self) -> list[Operation]:
        """The cross-entropy and its gradient."""
        logits, gradient = self.graph.logits.buffer, self.graph.logits.gradient
        places = (logits.origin, logits.image, gradient.origin, gradient.image, self.labels.origin, self.labels.image)
        results = (self.results.origin, self.results.image)
        return [(kernels.SOFTMAX_LOSS, *places, self.graph.logits.channels, *results)]

    def backward(self) -> list[Operation]:
        """The gradients to all parameters."""
        operations: list[Operation] = []
        for node in reversed(self.graph.nodes):
            if isinstance(node, Affine):
                operations += self._parameter_gradients(node)
                if not node.source.is_image:
                    weight = node.layer.parameters["weight"].data
                    numbered = node.as_convolution(self.numbers[id(weight)].reshape(weight.shape))
                    operations += self.builder.gradient(node, numbered)
            elif isinstance(node, Norm):
                node.source.next_finish()
                x, g, d = node.source.buffer, node.target.gradient, node.source.gradient
                at, _, sums = self.statistics[node.target]
                own = [self.at[id(parameter.data)] for parameter in node.layer.parameters.values()]
                row, pixels = x.width * x.channels, x.height * x.width
                values, g_rows = (self._rows(x), x.height, row), self._rows(g)
                operations += [
                    (kernels.NORM_SUMS, *values, x.channels, at, g_rows, sums),
                    (kernels.NORM_TOTALS, pixels, x.channels, row, sums, at, *own),
                    (kernels.NORM_GRADIENT, *values, at, g_rows, self._rows(d)),
                ]
            elif isinstance(node, Pool):
                operations.append(self.builder.pool_gradient(node))
            else:
                operations += self.builder.join_gradient(node)
        return operations + self.totals

    def _parameter_gradients(self, node: Affine) -> list[Operation]:
        """Of a layer's bias; tasks for its weights. A bias before batch norm cancels there: its gradient is zero."""
        source, gradient, parameters = node.source.buffer, node.target.gradient, node.layer.parameters
        groups, group = np.arange(node.kernel[0]) * source.row, node.kernel[1] * source.channels
        if group == source.row:
            groups, group = groups[:1], node.kernel[0] * group
        pixels, b_steps = gradient.height * gradient.width, self.builder.table(gradient.all_pixels())
        a_steps = self.builder.table(windows(source, node.kernel, node.stride, node.padding))
        at = self.at[id(parameters["weight"].data)]
        for column in range(0, gradient.channels, PANEL):
            for number, start in enumerate(groups):
                to = at + (column * groups.size + number * PANEL) * group
                self.tasks.append((int(start), a_steps, pixels, column, gradient.channels, b_steps, to, group))
        normalised = any(isinstance(other, Norm) and other.source is node.target for other in self.graph.nodes)
        if "bias" not in parameters or normalised:
            return []
        sums = self.builder.reserve("work", gradient.channels)
        self.totals.append((kernels.BIAS_TOTALS, gradient.channels, sums, self.at[id(parameters["bias"].data)]))
        row = gradient.width * gradient.channels
        return [(kernels.BIAS_SUMS, self._rows(gradient), gradient.height, row, gradient.channels, sums)]


def _flatten(network: Layer) -> tuple[Floats, dict[int, Integers]]:
    """All arrays of a network as views of one, and by identity the numbers of each array's entries there, from 1."""
    flat = np.concatenate([array.ravel() for _, array in network.named_arrays()])
    numbers: dict[int, Integers] = {}
    first = 0

    def view(array: Floats) -> Floats:
        nonlocal first
        own = flat[first : first + array.size].reshape(array.shape)
        numbers[id(own)] = np.arange(first + 1, first + 1 + array.size)
        first += array.size
        return own

    for layer in network.every_layer():
        for parameter in layer.parameters.values():
            parameter.data = view(parameter.data)
        for name, buffer in layer.buffers.items():
            layer.buffers[name] = view(buffer)
    return flat, numbers


def _staged(operations: list[Operation]) -> tuple[Integers, Integers]:
    """Rows of operations; and of each stage its first operation, the first of its end, and the next stage's first."""
    closing = np.array([operation[0] >= kernels.STATISTICS for operation in operations] + [False])
    ends = np.flatnonzero(closing & ~np.roll(closing, 1))
    behind = np.flatnonzero(~closing & np.roll(closing, 1))
    if not len(ends) or behind[-1] < len(operations):
        ends, behind = np.append(ends, len(operations)), np.append(behind, len(operations))
    stages = np.stack([np.append(0, behind[:-1]), ends, behind], axis=1)
    return as_rows(operations, max(kernels.FIELDS, executor.FIELDS)), stages
