"""Networks compiled for training: a whole step, forward, backward and update, without allocating memory.

The instructions are those of evaluation, and for each layer those for its parameters; batch norm is a node of its own
that uses the statistics of the batch. `kernels.interpreter.training` says how a batch is cut into parts and stages.

During training the parameters are in one array, packed as the products read them. `TrainingProgram.store` copies them
back to the layers. Values that are written into the layers after that are used by the next step.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numba
import numpy as np

from hlf_np.kernels.buffers import aligned_zeros
from hlf_np.kernels.instructions.encoding import encoded
from hlf_np.kernels.instructions.training import REDUCTIONS, SoftmaxLoss, TradesLoss
from hlf_np.kernels.interpreter import training as kernels
from hlf_np.kernels.interpreter import update
from hlf_np.kernels.products.tile import LANES
from hlf_np.kernels.winograd.filters import FILTER_TRANSFORM, transform_filters
from hlf_np.layers import Layer
from hlf_np.losses import CROSS_ENTROPY, CrossEntropy, Loss, Trades
from hlf_np.optim import AdamConfig
from hlf_np.programs.builder import Builder
from hlf_np.programs.graph import Graph
from hlf_np.programs.structure import structure
from hlf_np.programs.symbolic import FIRST_INDEX, INDEX_OF_ONE, INDEX_OF_ZERO, SymbolicIndices, value_pool
from hlf_np.programs.values import NotCompiledError, Value
from hlf_np.support.arrays import Array, Floats, Integers
from hlf_np.support.checks import check_labels, same_objects
from hlf_np.support.errors import UserError

IMAGES_PER_PART = 12  # one or two full tiles of rows, even where an image is a single row


class TrainingProgram(ABC):
    """A network compiled for training, and Adam's state.

    Parameters
    ----------
    network : Layer
        The network whose arrays are trained.
    graph : Graph
        Its graph, in training mode.
    targets : Value
        What the loss needs of each image besides the image itself.
    config : AdamConfig
        The optimiser.
    batch_size : int
        The size of most batches; others work, too.

    Raises
    ------
    NotCompiledError
        If the network cannot be compiled.

    Attributes
    ----------
    views_per_image : int
        How many views of each image the network sees, next to each other in the batch: 2 for a loss of clean and
        perturbed images together. All views of an image are in the same part of the batch.
    """

    views_per_image: ClassVar[int] = 1

    def __init__(self, network: Layer, graph: Graph, targets: Value, config: AdamConfig, batch_size: int) -> None:
        self.network, self.config, self.steps = network, config, 0
        self._structure, self._parameters = structure(network), _trained(network)
        self.image_shape = graph.input.shape
        images = self.views_per_image * _images_per_part(batch_size)
        self._stored_values = np.zeros(0, np.float32)
        builder, results = Builder(images, _symbolic_indices(network), training=True), Value(1, 1, 2)
        graph.choose_algorithms()
        for node in graph.nodes:  # parameters come first, so that their gradients have the same layout
            node.pack_parameters(builder)
        parameters = builder.weights_size
        graph.allocate(builder)
        for value in (targets, results):
            value.allocate(builder)
        steps = [step for node in graph.nodes for step in node.forward(builder)]
        steps.append(self._loss(graph, builder, targets, results))
        for node in reversed(graph.nodes):
            steps += [*node.parameter_gradients(builder), *node.backward(builder)]
        steps += builder.totals
        panels = sorted(builder.weight_gradients, key=lambda panel: -panel.pixels * panel.rows)  # the longest first
        self._program = kernels.Program(
            instructions=encoded(steps),
            stages=_stages(steps),
            panels=encoded(panels),
            tables=builder.tables,
            input_region=np.array(graph.input.region),
            target_region=np.array(targets.region),
            result_region=np.array(results.region),
            images=images,
        )
        self._gradients = aligned_zeros((kernels.BATCH_HALVES, parameters))
        self._first, self._second = (aligned_zeros((parameters,)) for _ in range(2))  # Adam's moments
        self._weights = aligned_zeros((builder.weights_size,))
        self._work, self._scratch = aligned_zeros((0, builder.work_size)), aligned_zeros((0, builder.scratch_size))
        self._results = np.zeros((0, 2), np.float32)
        self._filters = builder.filters
        for position, constant in builder.constants:
            self._weights[position] = constant
        self._link_copies(builder.weight_indices, parameters)
        self._stored = True  # whether the layers have the present weights; they may have been changed since

    def _link_copies(self, weight_indices: Integers, parameters: int) -> None:
        """Find the position of each entry, its copies, and the gradients that belong together.

        A layer that is used twice has its weights at two positions, with a gradient for each; the second is a copy.
        """
        packed = np.flatnonzero(weight_indices)
        indices = weight_indices[packed]
        self._packed, self._indices = packed, indices
        self._positions = np.zeros(FIRST_INDEX + sum(array.size for array in _arrays(self.network)), np.int64)
        if not np.isin(np.arange(FIRST_INDEX, self._positions.size), indices).all():
            raise NotCompiledError("arrays that the forward pass does not use are left to autodiff, which reports them")
        self._positions[indices[::-1]] = packed[::-1]  # the first position of each entry counts, all others are copies
        original = self._positions[indices]
        copies = (packed != original) & (indices >= FIRST_INDEX)
        self._copies = _strided_copies(packed[copies], original[copies])
        tied = copies & (packed < parameters)
        self._tied = original[tied], packed[tied]

    @abstractmethod
    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> Any:
        """Return the instruction that computes the loss and its gradient, and two results for each image."""

    @abstractmethod
    def random_targets(self, random: np.random.Generator, count: int) -> Floats:
        """Draw targets (N, T) for checking the program."""

    def gradients(self, inputs: Floats, targets: Floats) -> Floats:
        """Run the forward and the backward pass of a batch.

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, D)
            The images, flat.
        targets : ndarray of float32, shape (N, T)
            What the loss needs besides the images.

        Returns
        -------
        ndarray of float32, shape (N, 2)
            Two results for each image, overwritten by the next call.
        """
        if self._stored:
            self._load()
        images = self._program.images
        parts = -(-len(inputs) // images)
        if parts > len(self._work):
            self._work = aligned_zeros((parts, self._work.shape[1]))
            self._results = np.zeros((parts * images, 2), np.float32)
        threads = numba.get_num_threads()
        if threads > len(self._scratch):
            self._scratch = aligned_zeros((threads, self._scratch.shape[1]))
        results = self._results[: len(inputs)]
        original, copies = self._tied
        self._gradients[:, original] = 0  # a bias before a batch norm has no instruction that writes its gradient
        memory = kernels.Memory(self._weights, self._work, self._scratch[:threads], self._gradients)
        batch = kernels.Batch(inputs, targets, results)
        kernels.gradients_kernel(kernels.gradient_addresses(), *self._program, *memory, *batch)
        if original.size:
            for half in self._gradients:
                np.add.at(half, original, half[copies])
        return results

    def update(self, learning_rate: float) -> None:
        """Take a step of Adam along the gradients of the last batch."""
        self.steps += 1
        settings = self.config.settings(self.steps, learning_rate).astype(np.float32)
        update.update_kernel(
            (update.UPDATES.addresses, update.COPIES.addresses, FILTER_TRANSFORM.addresses), self._weights,
            self._gradients, self._first, self._second, settings, self._copies, self._filters,
        )  # fmt: skip

    def gradient(self) -> list[Floats]:
        """Return the gradients of the last batch, in the order of `named_arrays`; zeros for buffers."""
        total = np.append(self._gradients.sum(axis=0), np.float32(0))
        indices_of = _symbolic_indices(self.network)
        positions = np.minimum(self._positions, len(total) - 1)
        return [total[positions[indices_of(array)]] for _, array in self.network.named_arrays()]

    def store(self) -> None:
        """Copy the present parameters and statistics into the layers, which keep their old ones until then."""
        if self._stored:
            return
        values = self._weights[self._positions]
        values[:FIRST_INDEX] = INDEX_OF_ZERO, INDEX_OF_ONE  # these indices are also their values
        first = FIRST_INDEX
        for array in _arrays(self.network):
            array[...] = values[first : first + array.size].reshape(array.shape)
            first += array.size
        self._stored_values, self._stored = values, True

    def _load(self) -> None:
        """Pack the arrays of the layers, unless they are what `store` has left there."""
        if structure(self.network) != self._structure or not same_objects(_trained(self.network), self._parameters):
            raise UserError("the network changed while it was trained: train it again, or with engine='autodiff'")
        self._stored = False
        values = value_pool(_arrays(self.network))
        if not np.array_equal(values, self._stored_values):
            self._weights[self._packed] = values[self._indices]
            transform_filters(self._weights, self._filters)


class ClassifierTraining(TrainingProgram):
    """The compiled training of a classifier with the cross-entropy; subclasses have other losses.

    Parameters
    ----------
    network : Layer
        A network of layers that the graph can read.
    image_shape : tuple of int
        (H, W, C).
    config : AdamConfig
        The optimiser.
    batch_size : int
        The usual size of a batch, which decides between algorithms; others may be slower.
    loss : Loss
        The loss, of the class that `CLASSIFIERS` maps to this class.
    """

    def __init__(
        self,
        network: Layer,
        image_shape: tuple[int, int, int],
        config: AdamConfig,
        batch_size: int = 100,
        loss: Loss = CROSS_ENTROPY,
    ) -> None:
        graph = Graph(network, image_shape, self.views_per_image * batch_size)
        self.classes, self.loss = graph.output.channels, loss
        super().__init__(network, graph, Value(1, 1, 1), config, batch_size)

    def step(self, clean: Floats, perturbed: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """Take one step of Adam on a batch; `AutodiffTrainStep.step` describes parameters and result.

        A loss of one view per image uses the perturbed images only.
        """
        labels = check_labels(labels, self.classes, len(perturbed))
        if not clean.shape == perturbed.shape == (len(labels), *self.image_shape):
            raise UserError(f"images must have shape (N, {', '.join(map(str, self.image_shape))}), not {clean.shape}")
        views = self.views_per_image
        images = perturbed if views == 1 else np.stack((clean, perturbed), axis=1)
        inputs = images.reshape(views * len(labels), -1)
        results = self.gradients(inputs, np.repeat(labels, views).astype(np.float32)[:, None])
        self.update(learning_rate)
        return results[::views, 0].copy(), results[:, 1].reshape(-1, views).T.astype(np.int64).ravel()

    def random_targets(self, random: np.random.Generator, count: int) -> Floats:
        return random.integers(0, self.classes, (count, 1)).astype(np.float32)

    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> Any:
        logits, gradient, labels, to = graph.output.buffer, graph.output.gradient, targets.buffer, results.buffer
        return SoftmaxLoss(
            logits=logits.origin, logits_stride=logits.image, gradient=gradient.origin, gradient_stride=gradient.image,
            labels=labels.origin, labels_stride=labels.image, classes=graph.output.channels, results=to.origin,
            results_stride=to.image,
        )  # fmt: skip


class TradesTraining(ClassifierTraining):
    """The compiled training of a classifier with TRADES; see `losses.Trades`."""

    views_per_image = 2

    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> TradesLoss:
        assert isinstance(self.loss, Trades)
        return TradesLoss._make((*super()._loss(graph, builder, targets, results), builder.constant(self.loss.beta)))


# For each class of losses, the class that trains with it; other losses are left to autodiff.
CLASSIFIERS: dict[type, type[ClassifierTraining]] = {CrossEntropy: ClassifierTraining, Trades: TradesTraining}


def _images_per_part(batch_size: int) -> int:
    """Return how many images are computed together: full tiles of rows, or half of a small batch."""
    return IMAGES_PER_PART if batch_size > IMAGES_PER_PART else -(-batch_size // 2)


def _trained(network: Layer) -> list[object]:
    """Return the parameters of a network, each followed by whether it is trained."""
    return [part for _, parameter in network.named_parameters() for part in (parameter, parameter.requires_grad)]


def _arrays(network: Layer) -> list[Floats]:
    """Return the arrays of a network, each once."""
    return list({id(array): array for _, array in network.named_arrays()}.values())


def _symbolic_indices(network: Layer) -> Callable[[Array], Integers]:
    """Return a function that gives the symbolic indices of each of the network's arrays, found by identity.

    Raises NotCompiledError if parameters share memory, which a step would update twice, or must not be changed.
    """
    arrays = _arrays(network)
    trained = all(parameter.requires_grad for _, parameter in network.named_parameters())
    if not trained or not all(array.flags.writeable for array in arrays):
        raise NotCompiledError("frozen parameters and read-only arrays are left as they are by autodiff only")
    parameters = {id(parameter): parameter.data for _, parameter in network.named_parameters()}.values()
    if any(np.may_share_memory(*pair) for pair in itertools.combinations(arrays, 2)) or any(
        a is b for a, b in itertools.combinations(parameters, 2)
    ):
        raise NotCompiledError("arrays that share memory are not trained by compiled code")
    indices_of = SymbolicIndices()
    indices = {id(array): indices_of(array) for array in arrays}
    return lambda array: indices[id(array)]


def _strided_copies(targets: Integers, sources: Integers) -> Integers:
    """Return copies of single elements as strided copies, see `kernels.interpreter.update.copy_block`.

    Up to a vector of neighbouring targets are one copy if their sources are evenly spaced; all others stay single.

    targets : (N,), sorted.
    sources : (N,).
    """
    if not targets.size:
        return np.zeros((0, 4), np.int64)
    first = np.flatnonzero(np.diff(targets // LANES, prepend=-1))  # of the targets in each vector
    count = np.diff(first, append=targets.size)
    stride = np.where(count > 1, sources[np.minimum(first + 1, targets.size - 1)] - sources[first], 0)
    within = np.arange(targets.size) - np.repeat(first, count)
    even = (targets == np.repeat(targets[first], count) + within) & (
        sources == np.repeat(sources[first], count) + within * np.repeat(stride, count)
    )
    regular = np.logical_and.reduceat(even, first)
    single = ~np.repeat(regular, count)
    strided = np.stack([targets[first], sources[first], stride, count], axis=1)[regular]
    zeros, ones = np.zeros_like(targets[single]), np.ones_like(targets[single])
    return np.concatenate([strided, np.stack([targets[single], sources[single], zeros, ones], axis=1)])


def _stages(steps: list[Any]) -> Integers:
    """Return for each stage its first instruction, its first reduction, and the next stage's first instruction."""
    reduces = np.array([isinstance(step, REDUCTIONS) for step in steps] + [False])
    begins = np.flatnonzero(reduces & ~np.roll(reduces, 1))
    ends = np.flatnonzero(~reduces & np.roll(reduces, 1))
    if not len(begins) or ends[-1] < len(steps):
        begins, ends = np.append(begins, len(steps)), np.append(ends, len(steps))
    return np.stack([np.append(0, ends[:-1]), begins, ends], axis=1)
