"""Networks compiled for evaluation: logits, and whole attacks that run in cache.

In evaluation mode little is left of a network: products of gathered rows (`kernels.products.convolution` explains how a
convolution and its gradient are such products), pooling, and residual additions. A `Program` holds these as
instructions, which the nodes of a `Graph` write. Everything but the weights depends on the architecture alone;
`Program.packed_weights` packs the weights again when they have changed.

A network may be preceded by *preprocessors*, one for each *group* of inputs: for instance the decoders of ten classes,
followed by one classifier. They differ in their weights alone, so their instructions are the same. Each image in the
workspace is computed with the weights of its group, neighbours of the same group together; then the network computes
all images at once. A warp is a preprocessor, too, with constants instead of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numba
import numpy as np

from hlf_np.kernels.buffers import aligned_zeros
from hlf_np.kernels.instructions.encoding import encoded
from hlf_np.kernels.interpreter import attack, executor, gradient
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.winograd.filters import transform_filters
from hlf_np.layers import Layer, Sequential
from hlf_np.programs.affine import Affine
from hlf_np.programs.builder import Builder
from hlf_np.programs.capacity import capacity
from hlf_np.programs.graph import Graph
from hlf_np.programs.structure import structure
from hlf_np.programs.symbolic import SymbolicIndices, value_pool
from hlf_np.programs.values import NO_REGION, Node, NotCompiledError, Value
from hlf_np.programs.warping import PARAMETERS, WarpPreprocessor
from hlf_np.support.arrays import Floats, Integers, as_contiguous, flat_rows

NO_PREPROCESSOR: tuple[Layer, ...] = (Sequential(),)


class Program:
    """A network compiled for evaluation.

    Parameters
    ----------
    network : Layer
        A network of layers that the graph can read.
    input_shape : tuple of int
        (H, W, C) for images, (L,) for codes.
    warped : bool
        Whether the inputs are six parameters of a warp of an image (H, W, 1).
    preprocessors : sequence of Layer
        One network for each group of inputs, applied before `network`. They may differ in their weights alone.

    Raises
    ------
    UserError
        If the layers do not fit together.
    NotCompiledError
        If a layer is not compiled.

    Attributes
    ----------
    capacity : int
        The number of images that a workspace holds.
    preprocess_forward, forward, backward, preprocess_backward : ndarray of int64, shape (count, fields)
        The instructions.
    tables : ndarray of int64
        The tables of the instructions.
    sizes : tuple of int
        The elements of a workspace, and of the scratch memory of a thread.
    input_region, source_region : Region
        Where inputs belong in the work, and the images that are warped.
    output : Value
        The output of the network.
    output_shape : tuple of int
        Its shape for each image.
    gradient : Layout
        Where the gradient with respect to the inputs is.
    gradient_offsets : ndarray of uint64, shape (D,)
        Where its elements are, relative to the first of the image; empty if they are contiguous.
    operations_per_step : int
        Floating-point operations per image of a forward and a backward pass.
    """

    def __init__(
        self,
        network: Layer,
        input_shape: tuple[int, ...],
        warped: bool = False,
        preprocessors: Sequence[Layer] = NO_PREPROCESSOR,
    ) -> None:
        graphs = [Graph(preprocessor, input_shape) for preprocessor in preprocessors]
        if len({structure(preprocessor) for preprocessor in preprocessors}) > 1:
            raise NotCompiledError("preprocessors that differ in more than their weights are not compiled together")
        graph = graphs[0]
        preprocessing = len(graph.nodes)  # the first nodes
        graph.append(network)
        graph.choose_algorithms()
        builder = Builder(capacity(graph), SymbolicIndices())
        graph.allocate(builder)
        own, common = (_Lowered(builder, nodes) for nodes in (graph.nodes[:preprocessing], graph.nodes[preprocessing:]))
        self.capacity, self.input_shape = builder.images, input_shape
        self.output, self.output_shape = graph.output, graph.output_shape
        self.input_region, self.source_region = graph.input.region, NO_REGION
        self.gradient, offsets = builder.input_gradient, builder.input_offsets
        if not graph.input.unpadded:
            self.gradient, offsets = graph.input.gradient, _offsets(graph.input)
        if warped:
            warp = WarpPreprocessor(builder, graph.input.buffer, self.gradient, offsets)
            own.forward, own.backward = [warp.forward], [warp.backward]
            self.input_region, self.source_region = warp.code_region, warp.source_region
            self.gradient, offsets = warp.code_gradient, np.arange(PARAMETERS)
        contiguous = np.array_equal(offsets, np.arange(offsets.size))
        # unsigned, so that compiled code need not test for negative indices
        self.gradient_offsets = offsets[: 0 if contiguous else None].astype(np.uint64)
        self.preprocess_forward, self.forward = encoded(own.forward), encoded(common.forward)
        self.backward, self.preprocess_backward = encoded(common.backward), encoded(own.backward)
        self.tables, self.sizes = builder.tables, (builder.work_size, builder.scratch_size)
        self._weights = aligned_zeros((len(preprocessors), builder.weights_size))
        if warped:
            self._weights[0, warp.position : warp.position + warp.constants.size] = warp.constants
        self._packers = [_Packer(graph.nodes[preprocessing:], common, self._weights[0])]
        self._packers += [
            _Packer(other.nodes[:preprocessing], own, row) for other, row in zip(graphs, self._weights, strict=True)
        ]
        # a multiplication and an addition each, in the forward pass and in the gradient
        self.operations_per_step = 4 * sum(node.multiply_adds for node in graph.nodes if isinstance(node, Affine))

    def evaluate(self, inputs: Floats, groups: Integers | None = None) -> Floats:
        """Compute outputs; not supported for a program that warps.

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, ...)
            Images or codes.
        groups : ndarray of int64, shape (N,), optional
            The preprocessor of each input; the first one by default.

        Returns
        -------
        ndarray of float32, shape (N, E)
            The outputs, flat.
        """
        outputs = np.empty((len(inputs), int(np.prod(self.output.shape))), np.float32)
        groups = np.zeros(len(inputs), np.int64) if groups is None else groups
        threads = numba.get_num_threads()
        rounds = max(1, -(-len(inputs) // (threads * self.capacity)))
        images = max(1, -(-len(inputs) // (threads * rounds)))  # so that the last round is full, too
        executor.evaluation_kernel(
            executor.EVALUATION.addresses, threads, self.packed_weights(), np.argsort(groups, kind="stable"),
            as_contiguous(groups), flat_rows(as_contiguous(inputs)), outputs, images, *self.kernel_arguments,
        )  # fmt: skip
        return outputs

    def input_gradient(
        self, inputs: Floats, output_gradients: Floats, groups: Integers | None = None, sources: Floats | None = None
    ) -> Floats:
        """Compute gradients with respect to the inputs of a function of the logits.

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, ...)
            Images or codes.
        output_gradients : ndarray of float32, shape (N, classes)
            Gradients of the function with respect to the logits.
        groups : ndarray of int64, shape (N,), optional
            The preprocessor of each input; the first one by default.
        sources : ndarray of float32, shape (N, E), optional
            The images that a program warps, flat.

        Returns
        -------
        ndarray of float32, shape (N, D)
            The gradients, flat.
        """
        groups = np.zeros(len(inputs), np.int64) if groups is None else as_contiguous(groups)
        sources = np.empty((len(inputs), 0), np.float32) if sources is None else as_contiguous(sources)
        codes = flat_rows(as_contiguous(inputs))
        gradients, own = np.empty(codes.shape, np.float32), as_contiguous(output_gradients.astype(np.float32))
        threads = numba.get_num_threads()
        gradient.gradient_kernel(
            gradient.GRADIENT.addresses, threads, self.packed_weights(), np.argsort(groups, kind="stable"),
            (codes, sources, own, groups), gradients, self.capacity, self.kernel_arguments,
        )  # fmt: skip
        return gradients

    def packed_weights(self) -> Floats:
        """Return the present weights as the instructions read them, packed again if they have changed.

        Returns
        -------
        ndarray of float32, shape (G, W)
            Each row has the weights of a group's preprocessor; the first row also has those of the network.
        """
        for packer in self._packers:
            packer.update()
        return self._weights

    @cached_property
    def kernel_arguments(self) -> executor.Network:
        """The program as the kernels take it."""
        logits, logits_gradient = self.output.buffer, self.output.gradient
        return executor.Network(
            run=executor.INSTRUCTIONS.address,
            preprocess_forward=self.preprocess_forward,
            forward=self.forward,
            backward=self.backward,
            preprocess_backward=self.preprocess_backward,
            tables=self.tables,
            work_size=self.sizes[0],
            scratch_size=self.sizes[1],
            input_region=np.array(self.input_region),
            source_region=np.array(self.source_region),
            output_region=np.array(self.output.region),
            gradient=self.gradient.origin,
            gradient_stride=self.gradient.image,
            gradient_offsets=self.gradient_offsets,
            logits=logits.origin,
            logits_stride=logits.image,
            logits_gradient=logits_gradient.origin,
            logits_gradient_stride=logits_gradient.image,
            classes=self.output.channels,
        )


class _Lowered:
    """The instructions of some nodes, and the layout of their weights.

    begin : the position of their weights.
    weight_indices : the symbolic index of each element from there on.
    filters : see `Builder.filters`.
    """

    def __init__(self, builder: Builder, nodes: Sequence[Node]) -> None:
        builder.indices_of = SymbolicIndices()
        self.begin, earlier_filters = builder.weights_size, len(builder.filters)
        for node in nodes:
            node.pack_parameters(builder)
        self.forward: list[Any] = [step for node in nodes for step in node.forward(builder)]
        self.backward: list[Any] = [step for node in reversed(nodes) for step in node.backward(builder)]
        self.weight_indices = builder.weight_indices[self.begin :]
        self.filters = builder.filters[earlier_filters:]


@dataclass
class _Packer:
    """Packs the weights of some nodes into `target`, and remembers the arrays that it has packed."""

    nodes: Sequence[Node]
    lowered: _Lowered
    target: Floats
    packed: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    def update(self) -> None:
        """Pack the present weights if they have changed."""
        arrays = value_pool([array for node in self.nodes for array in node.arrays()])
        if not np.array_equal(arrays, self.packed):
            values = value_pool([array for node in self.nodes for array in node.folded()])
            indices, begin = self.lowered.weight_indices, self.lowered.begin
            np.take(values, indices, out=self.target[begin : begin + indices.size], mode="clip")
            transform_filters(self.target, self.lowered.filters)
            self.packed = arrays


def _offsets(value: Value) -> Integers:
    """Return where each element of an image is in its gradient, relative to the first."""
    gradient = value.gradient
    image = Layout(1, value.height, value.width, gradient.channels, gradient.halo)
    return (image.all_pixels()[:, None] - image.origin + np.arange(value.channels)).ravel()


def ascend(
    program: Program,
    settings: attack.AscentSettings,
    box: attack.Box,
    tasks: attack.AttackTasks,
    best: attack.BestCodes,
) -> None:
    """Attack all tasks; `best` is updated in place.

    Parameters
    ----------
    program : Program
        The classifier, with the decoder of codes as its preprocessor.
    settings, box, tasks, best
        See `kernels.interpreter.attack`.
    """
    own_tasks = attack.AttackTasks(*map(as_contiguous, tasks))
    attack.attack_kernel(
        attack.PART.addresses, program.packed_weights(), program.kernel_arguments, settings, box, own_tasks, best,
        np.argsort(own_tasks.groups, kind="stable"), program.capacity, numba.get_num_threads(),
    )  # fmt: skip
