"""Does a compiled program compute what the autodiff does? Asked before it is used; see `compiler`.

The comparison is with the autodiff in float64, for random weights, as initial ones are often too simple to tell: biases
of 0, statistics of 0 and 1. Outputs have to agree to `TOLERANCE`. So have gradients, but for one of the inputs: where a
ReLU's input is 0 up to rounding, or two maxima of a window are nearly the same, single and double precision may take
different sides, which changes a gradient a little.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.kernels import executor
from hlf_np.layers import Layer
from hlf_np.operations import warp
from hlf_np.programs.affine import Affine
from hlf_np.programs.builder import slot
from hlf_np.programs.evaluation import Program
from hlf_np.programs.training import TrainingProgram
from hlf_np.random import generator

INPUTS = 5
TOLERANCE = 1e-2  # of the length of the right vector; what is laid out wrongly is wrong by much more


def randomized(layers: Sequence[Layer]) -> Sequence[Layer]:
    """The same layers, with random parameters and statistics, such that activations neither vanish nor explode."""
    random = generator(0, "check, weights")
    for layer in layers:
        for name, array in layer.named_arrays():
            if array.ndim > 1:
                array[...] = random.standard_normal(array.shape) * np.sqrt(2 / max(1, array[0].size))
            elif name.endswith(("weight", "running_var")):
                array[...] = random.uniform(0.5, 1.5, array.shape)
            else:
                array[...] = random.standard_normal(array.shape) / 4
    return layers


def evaluation(program: Program, layers: Sequence[Layer]) -> bool:
    """Whether a program of (network, *fronts) gives the right outputs, and the right gradients to its inputs."""
    random = generator(0, "check, inputs")
    network, *fronts = map(_in_double, layers)
    count = min(INPUTS, program.lanes)
    groups = random.integers(0, len(fronts), count)
    sources = random.random((count, int(np.prod(program.slots[1, :3]))), np.float32)
    if sources.size:  # parameters of a warp, near those that move nothing
        inputs = np.array([0, 0, 0, 0, 1, 0]) + 0.2 * random.standard_normal((count, 6))
    elif len(program.input_shape) == 1:  # codes
        inputs = random.standard_normal((count, *program.input_shape))
    else:
        inputs = random.random((count, *program.input_shape))
    inputs = inputs.astype(np.float32)
    cotangents = random.standard_normal((count, *program.output_shape))
    outputs, gradients = _run(program, inputs, sources, groups, cotangents)
    for_outputs, for_gradients = [], []
    for k, group in enumerate(groups):
        x = Tensor(inputs[k : k + 1].astype(np.float64), requires_grad=True)
        images = x
        if sources.size:
            images = warp(Tensor(sources[k].reshape(1, *program.input_shape).astype(np.float64)), x)
        y = network(fronts[group](images))
        for_outputs.append(_close(outputs[k], y.data))
        if y.requires_grad:
            y.backward(cotangents[k : k + 1])
            for_gradients.append(_close(gradients[k], np.zeros(0) if x.gradient is None else x.gradient))
    decoded = isinstance(program.output.writer, Affine) and program.output.writer.sigmoid
    return all(for_outputs) and (decoded or sum(for_gradients) >= count - 1)


# Of a network, images and targets: what a training program reports of each image, and the loss.
Reference = Callable[[Any, Tensor, Floats], tuple[Sequence[Tensor], Tensor]]


def training(program: TrainingProgram, layers: Sequence[Layer], reference: Reference) -> bool:
    """Whether a program gives the right losses, gradients to all parameters and running statistics."""
    random = generator(0, "check, inputs")
    network, count = _in_double(layers[0]), INPUTS * program.faces
    for _ in range(2):  # the second batch finds what the first has left behind
        images = random.random((count, *program.image_shape), np.float32)
        targets = program.random_targets(random, count)
        found = program.gradients(images.reshape(count, -1), targets).copy()
        reports, loss = reference(network, Tensor(images.astype(np.float64)), targets.astype(np.float64))
    loss.backward()
    program.store()
    right = {id(parameter.data): parameter.gradient for _, parameter in network.named_parameters()}
    lengths = [float(np.linalg.norm(gradient)) for gradient in right.values() if gradient is not None]
    agreeing = [_close(column, report.data) for column, report in zip(found.T, reports, strict=False)]
    arrays, own_arrays = network.named_arrays(), layers[0].named_arrays()
    for (_, theirs), gradient, (_, ours) in zip(arrays, program.gradient(), own_arrays, strict=True):
        if id(theirs) not in right:
            agreeing.append(_close(ours, theirs))
        elif (wanted := right[id(theirs)]) is not None:
            # that of a bias in front of a batch norm is nothing but rounding
            agreeing.append(_close(gradient, wanted, least=max(lengths, default=0) / 20))
    return all(agreeing)


def _in_double(layer: Layer) -> Layer:
    """A copy that computes in double precision."""
    double = copy.deepcopy(layer)
    for inner in double.every_layer():
        for parameter in inner.parameters.values():
            parameter.data = parameter.data.astype(np.float64)
        for name, buffer in inner.buffers.items():
            inner.buffers[name] = buffer.astype(np.float64)
    return double


def _close(found: Floats, right: Floats, least: float = 0.0) -> bool:
    difference, length = np.linalg.norm(found.ravel() - right.ravel()), np.linalg.norm(right)
    return bool(difference <= TOLERANCE * max(float(length), least, 1e-30))


def _run(
    program: Program, inputs: Floats, sources: Floats, groups: Integers, cotangents: Floats
) -> tuple[Floats, Floats]:
    """Outputs (N, E) and gradients (N, D) of a few inputs, N below the number of lanes, without the loops around them.

    cotangents : (N, E), the gradients with respect to the outputs.
    """
    work, room = (np.zeros(size, np.float32) for size in program.sizes)
    weights, lanes, gradient = program.pack(), range(len(inputs)), program.output.gradient
    to = *program.output.shape, gradient.origin, gradient.row, gradient.channels, gradient.image

    def run(instructions: Integers) -> None:
        executor.run_instructions(instructions, program.tables, weights[0], work, room, 0, len(inputs))

    def run_front(instructions: Integers) -> None:
        for lane, group in enumerate(groups):
            executor.run_instructions(instructions, program.tables, weights[group], work, room, lane, lane + 1)

    for lane in lanes:
        for place, values in zip(program.slots, (inputs[lane], sources[lane]), strict=True):
            work[_numbers(place, lane)] = values.ravel()
        work[_numbers(to, lane)] = cotangents[lane].ravel()
    run_front(program.front)
    run(program.forward)
    outputs = np.stack([work[_numbers(slot(program.output), lane)] for lane in lanes])
    run(program.backward)
    run_front(program.front_backward)
    order = program.gradient_order if program.gradient_order.size else np.arange(inputs[0].size)
    first = program.gradient.origin
    gradients = np.stack([work[first + lane * program.gradient.image + order.astype(np.int64)] for lane in lanes])
    return outputs, gradients


def _numbers(place: Integers | tuple[int, ...], lane: int) -> Integers:
    """Where the numbers of a lane's value are; place : as of `builder.slot`."""
    rows, runs, length, origin, row_step, run_step, lane_step = place
    row, run, number = np.ogrid[:rows, :runs, :length]
    return np.asarray(origin + lane * lane_step + row * row_step + run * run_step + number).ravel()
