"""Checks that a compiled program computes what autodiff computes; `compiler` runs them before it uses a program.

Programs are compared with autodiff in float64, with random weights: initial weights, such as biases of 0 and
statistics of 0 and 1, are often too simple to reveal mistakes. Outputs and gradients must agree up to `TOLERANCE`; the
gradient of one input may differ. Where a ReLU's input is 0 up to rounding, or two maxima of a window are nearly equal,
single and double precision may take different branches, which changes the gradient a little.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.kernels.interpreter import executor
from hlf_np.layers import Layer
from hlf_np.operations import warp
from hlf_np.programs.affine import Affine
from hlf_np.programs.evaluation import Program
from hlf_np.programs.training import TrainingProgram
from hlf_np.random import generator
from hlf_np.support.arrays import Floats, Integers

INPUTS = 5
TOLERANCE = 1e-2  # relative to the norm of the expected vector; a wrong layout gives errors that are much larger

# Takes a network, images and targets; returns what a training program reports of each image, and the loss.
Reference = Callable[[Any, Tensor, Floats], tuple[Sequence[Tensor], Tensor]]


def randomized(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Fill the arrays of layers with random values for which activations neither vanish nor explode; return them."""
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
    """Return whether a program computes the right outputs, and the right gradients with respect to its inputs.

    Parameters
    ----------
    program : Program
        The program to check.
    layers : sequence of Layer
        The network, then its preprocessors.
    """
    random = generator(0, "check, inputs")
    network, *preprocessors = map(_in_double, layers)
    count = min(INPUTS, program.capacity)
    groups = random.integers(0, len(preprocessors), count)
    sources = random.random((count, program.source_region.size), np.float32)
    if sources.size:  # parameters of a warp, near the identity
        inputs = np.array([0, 0, 0, 0, 1, 0]) + 0.2 * random.standard_normal((count, 6))
    elif len(program.input_shape) == 1:  # codes
        inputs = random.standard_normal((count, *program.input_shape))
    else:
        inputs = random.random((count, *program.input_shape))
    inputs = inputs.astype(np.float32)
    cotangents = random.standard_normal((count, *program.output_shape))
    outputs, gradients = _run(program, inputs, sources, groups, cotangents)
    right_outputs, right_gradients = [], []
    for k, group in enumerate(groups):
        x = Tensor(inputs[k : k + 1].astype(np.float64), requires_grad=True)
        images = x
        if sources.size:
            images = warp(Tensor(sources[k].reshape(1, *program.input_shape).astype(np.float64)), x)
        y = network(preprocessors[group](images))
        right_outputs.append(_close(outputs[k], y.data))
        if y.requires_grad:
            y.backward(cotangents[k : k + 1])
            right_gradients.append(_close(gradients[k], np.zeros(0) if x.gradient is None else x.gradient))
    decoder = isinstance(program.output.writer, Affine) and program.output.writer.sigmoid  # has no input gradient
    return all(right_outputs) and (decoder or sum(right_gradients) >= count - 1)


def training(program: TrainingProgram, layers: Sequence[Layer], reference: Reference) -> bool:
    """Return whether a program computes the right losses, parameter gradients and running statistics.

    Parameters
    ----------
    program : TrainingProgram
        The program to check.
    layers : sequence of Layer
        The network alone.
    reference : callable
        Computes losses by autodiff.
    """
    random = generator(0, "check, inputs")
    network, count = _in_double(layers[0]), INPUTS * program.views_per_image
    for _ in range(2):  # the second batch meets what the first has left in memory
        images = random.random((count, *program.image_shape), np.float32)
        targets = program.random_targets(random, count)
        results = program.gradients(images.reshape(count, -1), targets).copy()
        reports, loss = reference(network, Tensor(images.astype(np.float64)), targets.astype(np.float64))
    loss.backward()
    program.store()
    expected = {id(parameter.data): parameter.gradient for _, parameter in network.named_parameters()}
    norms = [float(np.linalg.norm(gradient)) for gradient in expected.values() if gradient is not None]
    agreements = [_close(column, report.data) for column, report in zip(results.T, reports, strict=False)]
    arrays, own_arrays = network.named_arrays(), layers[0].named_arrays()
    for (_, theirs), gradient, (_, ours) in zip(arrays, program.gradient(), own_arrays, strict=True):
        if id(theirs) not in expected:
            agreements.append(_close(ours, theirs))
        elif (expected_gradient := expected[id(theirs)]) is not None:
            # the gradient of a bias before a batch norm is nothing but rounding
            agreements.append(_close(gradient, expected_gradient, min_norm=max(norms, default=0) / 20))
    return all(agreements)


def _in_double(layer: Layer) -> Layer:
    """Return a copy that computes in double precision."""
    double = copy.deepcopy(layer)
    for inner in double.every_layer():
        for parameter in inner.parameters.values():
            parameter.data = parameter.data.astype(np.float64)
        for name, buffer in inner.buffers.items():
            inner.buffers[name] = buffer.astype(np.float64)
    return double


def _close(actual: Floats, expected: Floats, min_norm: float = 0.0) -> bool:
    difference, norm = np.linalg.norm(actual.ravel() - expected.ravel()), np.linalg.norm(expected)
    return bool(difference <= TOLERANCE * max(float(norm), min_norm, 1e-30))


def _run(
    program: Program, inputs: Floats, sources: Floats, groups: Integers, cotangents: Floats
) -> tuple[Floats, Floats]:
    """Run the instructions of a program once, without the kernels around them.

    Returns outputs (N, E) and gradients (N, D) of N inputs, N at most the capacity of a workspace.

    cotangents : (N, E), the gradients with respect to the outputs.
    """
    work, scratch = (np.zeros(size, np.float32) for size in program.sizes)
    weights, images = program.packed_weights(), range(len(inputs))

    def run(instructions: Integers) -> None:
        executor.run_instructions(instructions, program.tables, weights[0], work, scratch, 0, len(inputs))

    def run_by_group(instructions: Integers) -> None:
        for image, group in enumerate(groups):
            executor.run_instructions(instructions, program.tables, weights[group], work, scratch, image, image + 1)

    for image in images:
        work[program.input_region.positions(image)] = inputs[image].ravel()
        work[program.source_region.positions(image)] = sources[image].ravel()
        work[program.output.gradient_region.positions(image)] = cotangents[image].ravel()
    run_by_group(program.preprocess_forward)
    run(program.forward)
    outputs = np.stack([work[program.output.region.positions(image)] for image in images])
    run(program.backward)
    run_by_group(program.preprocess_backward)
    offsets = program.gradient_offsets if program.gradient_offsets.size else np.arange(inputs[0].size)
    first = program.gradient.origin + offsets.astype(np.int64)
    gradients = np.stack([work[first + image * program.gradient.image] for image in images])
    return outputs, gradients
