"""Networks compiled for training: a whole step, forward, backward and update, without allocating anything.

The instructions are those of evaluation, and with each layer's the ones for its parameters; batch norm is a node of
its own that uses the batch's statistics. `kernels.training` says how a batch is cut into parts and stages.

During training the parameters live in one array, arranged as the products read them. `TrainingProgram.store` copies
them to the layers, and what somebody writes into the layers behind that is taken over by the next step.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np

from hlf_np.arrays import Array, Floats, Integers, flat_rows
from hlf_np.kernels import training as kernels
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.instructions import encoded
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.training_instructions import CLOSING, SoftmaxLoss, TradesLoss, VaeLoss
from hlf_np.kernels.winograd_filters import FILTERS, transform
from hlf_np.layers import Layer
from hlf_np.losses import CROSS_ENTROPY, CrossEntropy, Loss, Trades
from hlf_np.optim import AdamConfig
from hlf_np.programs.builder import FIRST, ONE, ZERO, Builder, Counter, numbered, slot
from hlf_np.programs.graph import Graph
from hlf_np.programs.reparameterization import Reparameterization
from hlf_np.programs.values import NotCompiledError, Value

if TYPE_CHECKING:
    from hlf_np.manifolds.vae import Vae


class TrainingProgram(ABC):
    """A network compiled for training, and Adam's state; NotCompiledError for a network that cannot be compiled.

    network : whose arrays are trained.
    graph : of the network, in training mode; targets : what comes with every image besides it; config : of Adam.
    batch_size : of most batches; others work too.
    faces : how many images the network sees of each in a batch, one behind the other: 2 for a loss of clean and
        perturbed ones together. All of an image are in the same part.
    """

    faces: ClassVar[int] = 1

    def __init__(self, network: Layer, graph: Graph, targets: Value, config: AdamConfig, batch_size: int) -> None:
        self.network, self.config, self.steps = network, config, 0
        self.image_shape = graph.input.shape
        self._images = self.faces * _images_per_part(batch_size)
        self._flat = np.zeros(0, np.float32)
        builder, results = Builder(self._images, _numbering(network), training=True), Value(1, 1, 2)
        graph.finish()
        for node in graph.nodes:  # parameters first, so that their gradients can lie in the same order
            node.place(builder)
        parameters = builder.weights
        builder.buffers(graph)
        for value in (targets, results):
            value.buffer = builder.buffer(value)
        steps = [step for node in graph.nodes for step in node.forward(builder)]
        steps.append(self._loss(graph, builder, targets, results))
        for node in reversed(graph.nodes):
            steps += [*node.parameter_gradients(builder), *node.backward(builder)]
        steps += builder.totals
        self._rows, self._stages = encoded(steps), _stages(steps)
        self._tasks = encoded(sorted(builder.tasks, key=lambda task: -task.pixels * task.rows))  # the longest first
        self._tables = builder.tables
        self._slots = np.array([slot(graph.input), slot(targets), slot(results)])
        self._gradients = aligned((kernels.HALVES, parameters))
        self._first, self._second = (aligned((parameters,)) for _ in range(2))
        self._weights = aligned((builder.weights,))
        self._work, self._rooms = aligned((0, builder.work)), aligned((0, builder.room))
        self._results = np.zeros((0, 2), np.float32)
        self._vectors = builder.filters
        for at, constant in builder.constants:
            self._weights[at] = constant
        self._arrange(builder.sources, parameters)
        self._stored = True  # the layers hold the present weights, and perhaps other ones by now

    def _arrange(self, sources: Integers, parameters: int) -> None:
        """Find out where each number has its place, which others are copies of it, and whose gradients add up.

        A layer that is used twice has its weights in two places, with a gradient at each; the second is a copy.
        """
        filled = np.flatnonzero(sources)
        numbers = sources[filled]
        self._filled, self._numbers = filled, numbers
        self._places = np.zeros(numbers.max(initial=FIRST) + 1, np.int64)
        self._places[numbers[::-1]] = filled[::-1]  # each number's first place is its own
        own = self._places[numbers]
        copies = (filled != own) & (numbers >= FIRST)
        self._runs = _runs(filled[copies], own[copies])
        tied = copies & (filled < parameters)
        self._ties = own[tied], filled[tied]

    @abstractmethod
    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> Any:
        """The loss and its gradient; two numbers of each image go into `results`."""

    @abstractmethod
    def random_targets(self, random: np.random.Generator, count: int) -> Floats:
        """Targets (N, T) for the program's check."""

    def gradients(self, inputs: Floats, targets: Floats) -> Floats:
        """Forward and backward for a batch of inputs (N, D) and targets (N, T); the results (N, 2)."""
        if self._stored:
            self._load()
        parts = -(-len(inputs) // self._images)
        if parts > len(self._work):
            self._work = aligned((parts, self._work.shape[1]))
            self._results = np.zeros((parts * self._images, 2), np.float32)
        threads = numba.get_num_threads()
        if threads > len(self._rooms):
            self._rooms = aligned((threads, self._rooms.shape[1]))
        results = self._results[: len(inputs)]
        own, copies = self._ties
        self._gradients[:, own] = 0  # a bias in front of a batch norm has none of its own
        kernels.gradients_kernel(
            kernels.addresses(), self._rows, self._stages, self._tasks, self._tables, self._weights, self._work,
            self._rooms[:threads], self._images, self._slots, inputs, targets, results, self._gradients,
        )  # fmt: skip
        if own.size:
            for half in self._gradients:
                np.add.at(half, own, half[copies])
        return results

    def update(self, learning_rate: float) -> None:
        """A step of Adam."""
        self.steps += 1
        kernels.update_kernel(
            (kernels.UPDATES.addresses, kernels.COPIES.addresses, FILTERS.addresses), self._weights, self._gradients,
            self._first, self._second, self.config.settings(self.steps, learning_rate).astype(np.float32), self._runs,
            self._vectors,
        )  # fmt: skip

    def gradient(self) -> list[Floats]:
        """Of every array, in the order of `named_arrays`, the gradient that `gradients` has left; zero for buffers."""
        total = np.append(self._gradients.sum(axis=0), np.float32(0))
        number = _numbering(self.network)
        places = np.minimum(self._places, len(total) - 1)
        return [total[places[number(array)]] for _, array in self.network.named_arrays()]

    def store(self) -> None:
        """Put the present parameters and statistics into the layers, which keep their old ones until then."""
        if self._stored:
            return
        flat = self._weights[self._places]
        flat[:FIRST] = ZERO, ONE
        first = FIRST
        for array in _arrays(self.network):
            array[...] = flat[first : first + array.size].reshape(array.shape)
            first += array.size
        self._flat, self._stored = flat, True

    def _load(self) -> None:
        """Take over what is in the layers, unless it is what `store` has put there."""
        self._stored = False
        flat = numbered(_arrays(self.network))
        if flat.size != self._places.size:
            raise NotCompiledError("the shapes of a network's arrays changed while it was trained")
        if not np.array_equal(flat, self._flat):
            self._weights[self._filled] = flat[self._numbers]
            transform(self._weights, self._vectors)


class ClassifierTraining(TrainingProgram):
    """Training a classifier with the cross-entropy, or, in the classes that inherit from this, another loss.

    network : what the graph knows to read; image_shape : (H, W, C); loss : of the class that `CLASSIFIERS` says.
    """

    def __init__(
        self,
        network: Layer,
        image_shape: tuple[int, int, int],
        config: AdamConfig,
        batch_size: int = 100,
        loss: Loss = CROSS_ENTROPY,
    ) -> None:
        graph = Graph(network, image_shape, self.faces * batch_size)
        self.classes, self.loss = graph.output.channels, loss
        super().__init__(network, graph, Value(1, 1, 1), config, batch_size)

    def step(self, clean: Floats, perturbed: Floats, labels: Integers, learning_rate: float) -> tuple[Floats, Integers]:
        """One step of Adam on a batch, see `AutodiffLearner`; with a single face only the perturbed one is seen."""
        images = perturbed if self.faces == 1 else np.stack((clean, perturbed), axis=1)
        inputs = images.reshape(self.faces * len(labels), -1)
        results = self.gradients(inputs, np.repeat(labels, self.faces).astype(np.float32)[:, None])
        self.update(learning_rate)
        return results[:: self.faces, 0].copy(), results[:, 1].reshape(-1, self.faces).T.astype(np.int64).ravel()

    def random_targets(self, random: np.random.Generator, count: int) -> Floats:
        return random.integers(0, self.classes, (count, 1)).astype(np.float32)

    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> Any:
        logits, gradient, labels, to = graph.output.buffer, graph.output.gradient, targets.buffer, results.buffer
        return SoftmaxLoss(
            logits=logits.origin, logits_step=logits.image, gradient=gradient.origin, gradient_step=gradient.image,
            labels=labels.origin, labels_step=labels.image, classes=graph.output.channels, results=to.origin,
            results_step=to.image,
        )  # fmt: skip


class TradesTraining(ClassifierTraining):
    """The same with TRADES; see `losses.Trades`."""

    faces = 2

    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> TradesLoss:
        assert isinstance(self.loss, Trades)
        return TradesLoss._make((*super()._loss(graph, builder, targets, results), builder.constant(self.loss.beta)))


# What trains a classifier, by the class of its loss; all others are left to autodiff.
CLASSIFIERS: dict[type, type[ClassifierTraining]] = {CrossEntropy: ClassifierTraining, Trades: TradesTraining}


class VaeTraining(TrainingProgram):
    """Training a variational autoencoder; see `manifolds.vae`.

    vae : everything, Adam's settings too, is as its config says.
    """

    def __init__(self, vae: Vae) -> None:
        config = vae.config
        self.weight, self.latents = config.reconstruction_weight, config.latent_dimensions
        noise = Value(1, 1, config.latent_dimensions)
        graph = Graph(vae.encoder, config.image_shape, config.batch_size)
        self.posterior = graph.output
        codes = graph.add(Reparameterization(self.posterior, graph.value(*noise.shape), noise))
        graph.output, graph.output_shape = codes, (config.latent_dimensions,)
        graph.append(vae.decoder)
        super().__init__(vae, graph, noise, config.adam, config.batch_size)

    def step(self, images: Floats, noise: Floats, learning_rate: float) -> tuple[Floats, Floats]:
        """One step of Adam on a batch; summed absolute error and KL of each image before the step, (N,) each.

        images : (N, H, W, C) float32; noise : (N, L) float32, from N(0, I).
        """
        results = self.gradients(flat_rows(images), noise)
        self.update(learning_rate)
        return results[:, 0].copy(), results[:, 1].copy()

    def random_targets(self, random: np.random.Generator, count: int) -> Floats:
        return random.standard_normal((count, self.latents), np.float32)

    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> VaeLoss:
        x, y, g = graph.input.buffer, graph.output.buffer, graph.output.gradient
        posterior, to = self.posterior.buffer, results.buffer
        return VaeLoss(
            rows=x.height, row=x.width * x.channels, y=y.origin, y_row_step=y.row, y_step=y.image, x=x.origin,
            x_row_step=x.row, x_step=x.image, g=g.origin, g_row_step=g.row, g_step=g.image,
            weight=builder.constant(self.weight), latents=targets.channels, posterior=posterior.origin,
            posterior_step=posterior.image, results=to.origin, results_step=to.image,
        )  # fmt: skip


def _images_per_part(batch_size: int) -> int:
    """An even share of a batch: ten parts of a large one, four of a small one."""
    return -(-batch_size // (10 if batch_size >= 80 else 4))


def _arrays(network: Layer) -> list[Floats]:
    """The arrays of a network, each once."""
    return list({id(array): array for _, array in network.named_arrays()}.values())


def _numbering(network: Layer) -> Callable[[Array], Integers]:
    """The numbers of the entries of each of the network's arrays, by its identity.

    NotCompiledError where different parameters have memory in common: a step would move it twice.
    """
    arrays = _arrays(network)
    parameters = {id(parameter): parameter.data for _, parameter in network.named_parameters()}.values()
    if any(np.may_share_memory(*pair) for pair in itertools.combinations(arrays, 2)) or any(
        a is b for a, b in itertools.combinations(parameters, 2)
    ):
        raise NotCompiledError("arrays that have memory in common are not trained by compiled code")
    count = Counter()
    numbers = {id(array): count(array) for array in arrays}
    return lambda array: numbers[id(array)]


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


def _stages(steps: list[Any]) -> Integers:
    """Of each stage its first instruction, the first of its end, and the next stage's first."""
    closing = np.array([isinstance(step, CLOSING) for step in steps] + [False])
    ends = np.flatnonzero(closing & ~np.roll(closing, 1))
    behind = np.flatnonzero(~closing & np.roll(closing, 1))
    if not len(ends) or behind[-1] < len(steps):
        ends, behind = np.append(ends, len(steps)), np.append(behind, len(steps))
    return np.stack([np.append(0, behind[:-1]), ends, behind], axis=1)
