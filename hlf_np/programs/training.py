"""Networks compiled for training: a whole step, forward, backward and update, without allocating anything.

The operations are those of evaluation, and with each layer's the ones for its parameters; batch norm is an operation of
its own that uses the batch's statistics (see `plan`). `kernels.training` says how a batch is cut into parts and stages.

During training the parameters live in one array, arranged as the products read them. `TrainingProgram.store` copies
them to where the layers keep them: the arrays of all layers become views of one flat array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numba
import numpy as np

from hlf_np.arrays import Floats, Integers, flat_rows
from hlf_np.kernels import training as kernels
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.winograd_filters import FILTERS, transform
from hlf_np.layers import Layer
from hlf_np.optim import AdamConfig
from hlf_np.programs.builder import Builder, Operation, as_rows
from hlf_np.programs.graph import Graph
from hlf_np.programs.memory import slot
from hlf_np.programs.nodes import Value
from hlf_np.programs.plan import Plan

if TYPE_CHECKING:
    from hlf_np.manifolds.vae import Vae


class TrainingProgram(ABC):
    """A network compiled for training, and Adam's state.

    Parameters
    ----------
    network : its layers' arrays become views of one flat array.
    graph : of the network, in training mode; targets : what comes with every image besides it; config : of Adam.
    batch_size : of most batches; others work too.

    Raises
    ------
    UserError : for a layer that has no compiled form.
    """

    def __init__(self, network: Layer, graph: Graph, targets: Value, config: AdamConfig, batch_size: int) -> None:
        self.config, self.steps = config, 0
        self._images = _images_per_part(batch_size)
        builder, results = Builder(self._images), Value(1, 1, 2)
        self._flat, numbers = _flatten(network)
        plan = Plan(graph, builder, numbers)
        for value in (targets, results):
            value.buffer = builder.buffer(value)
        self._ops, self._stages = _staged([*plan.forward(), self._loss(plan, targets, results), *plan.backward()])
        self._tasks = np.array(sorted(plan.tasks, key=lambda task: -task[2] * task[7]))  # the longest first
        self._tables = builder.tables
        self._slots = np.array([slot(graph.input), slot(targets), slot(results)])
        self._gradients = aligned((kernels.HALVES, plan.parameters))
        self._first, self._second = (aligned((plan.parameters,)) for _ in range(2))
        self._weights = aligned((builder.weights,))
        self._work, self._rooms = aligned((0, builder.work)), aligned((0, builder.room))
        self._results = np.zeros((0, 2), np.float32)
        sources = builder.sources
        filled = np.flatnonzero(sources)
        numbered = sources[filled] - 1
        self._places = np.zeros(self._flat.size, np.int64)
        self._places[numbered[::-1]] = filled[::-1]  # each number's first place is its own, further ones are copies
        copies = filled != self._places[numbered]
        self._runs = _runs(filled[copies], self._places[numbered[copies]])
        self._weights[filled] = self._flat[numbered]
        for at, constant in plan.constants:
            self._weights[at] = constant
        self._vectors = builder.filters
        transform(self._weights, self._vectors)

    @abstractmethod
    def _loss(self, plan: Plan, targets: Value, results: Value) -> Operation:
        """The loss and its gradient; two numbers of each image go into `results`."""

    def _step(self, inputs: Floats, targets: Floats, learning_rate: float) -> Floats:
        """One step of Adam on a batch of inputs (N, D) and targets (N, T); the results (N, 2)."""
        parts = -(-len(inputs) // self._images)
        if parts > len(self._work):
            self._work = aligned((parts, self._work.shape[1]))
            self._results = np.zeros((parts * self._images, 2), np.float32)
        threads = numba.get_num_threads()
        if threads > len(self._rooms):
            self._rooms = aligned((threads, self._rooms.shape[1]))
        results = self._results[: len(inputs)]
        kernels.gradients_kernel(
            kernels.addresses(), self._ops, self._stages, self._tasks, self._tables, self._weights, self._work,
            self._rooms[:threads], self._images, self._slots, inputs, targets, results, self._gradients,
        )  # fmt: skip
        self.steps += 1
        kernels.update_kernel(
            (kernels.UPDATES.addresses, kernels.COPIES.addresses, FILTERS.addresses), self._weights, self._gradients,
            self._first, self._second, self.config.settings(self.steps, learning_rate).astype(np.float32), self._runs,
            self._vectors,
        )  # fmt: skip
        return results

    def store(self) -> None:
        """Put the present parameters and statistics into the layers, which keep their old ones until then."""
        np.take(self._weights, self._places, out=self._flat, mode="clip")


class ClassifierTraining(TrainingProgram):
    """Training a classifier with the cross-entropy.

    network : its layers must be those of `architectures`; image_shape : (H, W, C).
    """

    def __init__(
        self, network: Layer, image_shape: tuple[int, int, int], config: AdamConfig, batch_size: int = 100
    ) -> None:
        super().__init__(network, Graph(network, image_shape, batch_size), Value(1, 1, 1), config, batch_size)

    def step(self, images: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """One step of Adam on a batch.

        Parameters
        ----------
        images : (N, H, W, C) float32; labels : (N,).

        Returns
        -------
        The loss of each image before the step, (N,), and the class that was predicted, (N,).
        """
        results = self._step(flat_rows(images), labels.astype(np.float32)[:, None], learning_rate)
        return results[:, 0].copy(), results[:, 1].astype(np.int64)

    def _loss(self, plan: Plan, targets: Value, results: Value) -> Operation:
        logits = plan.graph.output
        buffers = (logits.buffer, logits.gradient, targets.buffer)
        places = [place for buffer in buffers for place in (buffer.origin, buffer.image)]
        return (kernels.SOFTMAX_LOSS, *places, logits.channels, results.buffer.origin, results.buffer.image)


class VaeTraining(TrainingProgram):
    """Training a variational autoencoder; see `manifolds.vae`.

    vae : everything, Adam's settings too, is as its config says.
    """

    def __init__(self, vae: Vae) -> None:
        config = vae.config
        self.weight = config.reconstruction_weight
        noise = Value(1, 1, config.latent_dimensions)
        graph = Graph(vae.encoder, config.image_shape, config.batch_size)
        self.posterior = graph.output
        codes = graph.reparameterized(self.posterior, noise)
        graph.output = graph.sequence(vae.decoder, codes)
        super().__init__(vae, graph, noise, config.adam, config.batch_size)

    def step(self, images: Floats, noise: Floats, learning_rate: float) -> tuple[Floats, Floats]:
        """One step of Adam on a batch.

        Parameters
        ----------
        images : (N, H, W, C) float32; noise : (N, L) float32, from N(0, I).

        Returns
        -------
        Summed absolute error and KL of each image before the step, (N,) each.
        """
        results = self._step(flat_rows(images), noise, learning_rate)
        return results[:, 0].copy(), results[:, 1].copy()

    def _loss(self, plan: Plan, targets: Value, results: Value) -> Operation:
        output, image, to = plan.graph.output, plan.graph.input.buffer, results.buffer
        sizes = (image.height, image.width * image.channels)
        layouts = (output.buffer, image, output.gradient)
        places = [place for layout in layouts for place in (layout.origin, layout.row, layout.image)]
        posterior = (targets.channels, self.posterior.buffer.origin, self.posterior.buffer.image)
        weight = plan.constant(self.weight)
        return (kernels.VAE_LOSS, *sizes, *places, weight, *posterior, to.origin, to.image)


def _images_per_part(batch_size: int) -> int:
    """An even share of a batch: ten parts of a large one, four of a small one."""
    return -(-batch_size // (10 if batch_size >= 80 else 4))


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


def _runs(to: Integers, source: Integers) -> Integers:
    """Copies of numbers as runs, see `kernels.training.copy_block`: up to a vector of neighbours whose originals are
    evenly spaced, single ones elsewhere. to : sorted."""
    if not to.size:
        return np.zeros((0, 4), np.int64)
    first = np.flatnonzero(np.diff(to // LANES, prepend=-1))
    count = np.diff(first, append=to.size)
    step = np.where(count > 1, source[np.minimum(first + 1, to.size - 1)] - source[first], 0)
    within = np.arange(to.size) - np.repeat(first, count)
    even = (to == np.repeat(to[first], count) + within) & (
        source == np.repeat(source[first], count) + within * np.repeat(step, count)
    )
    regular = np.logical_and.reduceat(even, first)
    single = ~np.repeat(regular, count)
    runs = np.stack([to[first], source[first], step, count], axis=1)[regular]
    ones = np.stack([to[single], source[single], np.zeros_like(to[single]), np.ones_like(to[single])], axis=1)
    return np.concatenate([runs, ones])


def _staged(operations: list[Operation]) -> tuple[Integers, Integers]:
    """Rows of operations; and of each stage its first operation, the first of its end, and the next stage's first."""
    closing = np.array([operation[0] >= kernels.STATISTICS for operation in operations] + [False])
    ends = np.flatnonzero(closing & ~np.roll(closing, 1))
    behind = np.flatnonzero(~closing & np.roll(closing, 1))
    if not len(ends) or behind[-1] < len(operations):
        ends, behind = np.append(ends, len(operations)), np.append(behind, len(operations))
    stages = np.stack([np.append(0, behind[:-1]), ends, behind], axis=1)
    return as_rows(operations, kernels.FIELDS), stages
