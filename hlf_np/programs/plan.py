"""The operations of a training step."""

from __future__ import annotations

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.kernels import training as kernels
from hlf_np.kernels.layout import Layout, window_segments, windows
from hlf_np.kernels.normalization import STATISTICS_ROWS
from hlf_np.kernels.tile import PANEL
from hlf_np.programs import pooling
from hlf_np.programs.builder import Builder, Operation
from hlf_np.programs.graph import Graph
from hlf_np.programs.nodes import Affine, Join, Norm, Pool, Reparameterization

SMALL, FEW = 16_384, 16  # gradients of so many numbers, over more pixels than so many, are summed up in the parts


class Plan:
    """What a graph does in a training step, forward and backward.

    Attributes
    ----------
    parameters : how many numbers the arranged parameters are; their gradients lie in the same order.
    tasks : parts of the gradients to weights; constants : places among the weights, and what belongs there.
    """

    def __init__(self, graph: Graph, builder: Builder, numbers: dict[int, Integers]) -> None:
        self.graph, self.builder, self.numbers = graph, builder, numbers
        self.constants: list[tuple[int, float]] = []
        self.at: dict[int, int] = {}  # where the arrays are among the weights, by their identity
        for node in graph.nodes:  # parameters first, so that their gradients can lie in the same order
            if isinstance(node, Affine):
                weight, bias = node.layer.parameters["weight"].data, node.layer.parameters.get("bias")
                self.at[id(weight)] = builder.matrix(node, self._numbered(node))
                if bias is not None:
                    biases = node.biases(numbers[id(bias.data)])
                    self.at[id(bias.data)] = builder.place_rows(biases, node.target.stride)
            elif isinstance(node, Norm):
                for parameter in node.layer.parameters.values():
                    self._place(parameter.data)
        self.parameters = builder.weights
        self.tasks: list[tuple[int, ...]] = []  # parts of the gradients to weights
        self.totals: list[Operation] = []  # of gradients that are summed up in the parts
        self.statistics = {node.target: self._statistics(node) for node in graph.nodes if isinstance(node, Norm)}
        builder.buffers(graph)

    def _numbered(self, node: Affine) -> Integers:
        """The numbers of a layer's weights, as those of the convolution."""
        weight = node.layer.parameters["weight"].data
        return node.as_convolution(self.numbers[id(weight)].reshape(weight.shape))

    def _place(self, array: Floats) -> None:
        self.at[id(array)] = self.builder.place_rows(self.numbers[id(array)][None], array.size)

    def constant(self, *values: float) -> int:
        """Where these numbers have been put among the weights."""
        at = self.builder.reserve("weights", len(values))
        self.constants += [(at + k, value) for k, value in enumerate(values)]
        return at

    def _statistics(self, node: Norm) -> tuple[int, int, int]:
        """Where batch norm has its statistics and its settings, and in the workspace each part's sums."""
        for buffer in node.layer.buffers.values():
            self._place(buffer)
        return (
            self.builder.reserve("weights", STATISTICS_ROWS * node.source.width * node.source.stride),
            self.constant(node.layer.momentum, node.layer.epsilon),
            self.builder.reserve("work", 2 * node.source.stride),
        )

    def _rows(self, layout: Layout) -> int:
        """A table of where rows of pixels start."""
        return self.builder.table(layout.pixels(np.arange(layout.height), 0))

    def forward(self) -> list[Operation]:
        """From the input to the output."""
        operations: list[Operation] = []
        for node in self.graph.nodes:
            if isinstance(node, Affine):
                parameters = node.layer.parameters
                starts = self.at[id(parameters["bias"].data)] if "bias" in parameters else None
                weights = self.at[id(parameters["weight"].data)]
                operations += self.builder.forward(node, self._numbered(node), weights, starts)
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
                operations.append(pooling.pool(self.builder, node))
            elif isinstance(node, Join):
                operations.append(pooling.join(self.builder, node))
            else:
                operations.append((kernels.REPARAMETERIZE, *self._code_places(node)))
        return operations

    def _code_places(self, node: Reparameterization) -> tuple[int, ...]:
        layouts = (node.source.buffer, node.noise.buffer, node.target.buffer)
        places = [place for layout in layouts for place in (layout.origin, layout.image)]
        return (node.target.channels, *places)

    def backward(self) -> list[Operation]:
        """The gradients to all parameters."""
        operations: list[Operation] = []
        for node in reversed(self.graph.nodes):
            if isinstance(node, Affine):
                operations += self._parameter_gradients(node)
                if not node.source.is_input:
                    weights = self.at[id(node.layer.parameters["weight"].data)]
                    operations += self.builder.gradient(node, self._numbered(node), weights)
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
                operations.append(pooling.pool_gradient(self.builder, node))
            elif isinstance(node, Join):
                operations += pooling.join_gradient(self.builder, node)
            else:
                node.source.next_finish()
                gradients = (node.source.gradient, node.target.gradient)
                places = [place for layout in gradients for place in (layout.origin, layout.image)]
                operations.append((kernels.REPARAMETERIZE_GRADIENT, *self._code_places(node), *places))
        return operations + self.totals

    def _parameter_gradients(self, node: Affine) -> list[Operation]:
        """Of a layer's bias; tasks for its weights."""
        big, small = node.big.buffer, node.small.gradient
        if node.transposed:
            big, small = node.big.gradient, node.small.buffer
        groups, group = window_segments(big, node.kernel)
        pixels, b_steps = small.height * small.width, self.builder.table(small.all_pixels())
        a_steps = self.builder.table(windows(big, node.kernel, node.stride, node.padding))
        at, bias = self.at[id(node.layer.parameters["weight"].data)], "bias" in node.layer.parameters
        size = groups.size * group * -(-small.channels // PANEL) * PANEL
        if size <= SMALL and pixels > FEW:
            sums = self.builder.reserve("work", size)
            self.totals.append((kernels.TOTALS, size, sums, at))
            steps = (a_steps, pixels, b_steps)
            operation = (
                kernels.WEIGHT_SUMS,
                self.builder.table(groups),
                groups.size,
                group,
                *steps,
                small.channels,
                sums,
            )
            return [operation, *(self._bias_gradient(node) if bias else [])]
        for column in range(0, small.channels, PANEL):
            for number, start in enumerate(groups):
                to = at + (column * groups.size + number * PANEL) * group
                self.tasks.append((int(start), a_steps, pixels, column, small.channels, b_steps, to, group))
        return self._bias_gradient(node) if bias else []

    def _bias_gradient(self, node: Affine) -> list[Operation]:
        """The sum of the gradient over pixels and images, or over images if every pixel has a bias of its own."""
        gradient, bias = node.target.gradient, node.layer.parameters["bias"].data
        row, rows, channels = gradient.width * gradient.channels, gradient.height, gradient.channels
        own = bias.size > node.target.channels
        if own:
            assert gradient.frame == 0, "what is unflattened is read without a frame"
            row, rows, channels = row * rows, 1, row * rows
        elif any(isinstance(other, Norm) and other.source is node.target for other in self.graph.nodes):
            return []  # batch norm takes it away again: its gradient is zero
        sums = self.builder.reserve("work", channels)
        self.totals.append((kernels.TOTALS, channels, sums, self.at[id(bias)]))
        starts = self.builder.table(gradient.pixels([0], [0])) if own else self._rows(gradient)
        return [(kernels.BIAS_SUMS, starts, rows, row, channels, sums)]
