"""Decides what is compiled, and makes sure that it is right.

A `Compiler` caches the programs of an object's networks. It uses no program unchecked: the first time in a process that
a network of some `structure` is compiled, the program of a copy with random weights is compared with autodiff in
double precision, outputs and gradients for a few random inputs (`check`). If they differ, there is one warning, and
autodiff computes from then on. Autodiff also computes where a network cannot be compiled.

Programs follow the weights of their networks. Whether settings, layers or shapes have changed is checked whenever a
program is requested. Copies of a compiler begin empty, so a copied or unpickled model compiles its own network.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.layers import Layer
from hlf_np.losses import Loss
from hlf_np.optim import AdamConfig
from hlf_np.programs import check
from hlf_np.programs.evaluation import NO_PREPROCESSOR, Program
from hlf_np.programs.structure import structure
from hlf_np.programs.training import CLASSIFIERS, ClassifierTraining
from hlf_np.programs.vae_training import VaeSettings, VaeTraining
from hlf_np.programs.values import NotCompiledError
from hlf_np.support.arrays import IMAGES_PER_BATCH, Floats, Integers
from hlf_np.support.checks import same_objects
from hlf_np.support.errors import UserError

_verdicts: dict[Hashable, bool] = {}  # of each structure compiled in this process, whether its program is right


class _Entry(NamedTuple):
    """A cached program, or None, and what it was compiled for: the structure, and every layer."""

    layers: Sequence[Layer]
    key: Hashable
    program: Program | None


class Compiler:
    """The programs of some networks, compiled when they are first requested."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    def __reduce__(self) -> tuple[type[Compiler], tuple[()]]:
        return Compiler, ()

    def program(
        self,
        network: Layer,
        input_shape: tuple[int, ...],
        preprocessors: Sequence[Layer] = NO_PREPROCESSOR,
        warped: bool = False,
        check_shapes: Callable[[], None] = lambda: None,
    ) -> Program | None:
        """Return the program of a network as it is now.

        Parameters
        ----------
        network, input_shape, preprocessors, warped
            See `Program`.
        check_shapes : callable
            Called for every new structure before it is compiled; raises UserError if the layers do not fit together.

        Returns
        -------
        Program or None
            None if autodiff must compute.
        """
        layers = (network, *preprocessors)
        slot = (*map(id, layers), input_shape, warped)
        key = (tuple(map(structure, layers)), input_shape, warped)
        every_layer = [inner for layer in layers for inner in layer.every_layer()]  # a program reads their arrays
        entry = self._entries.get(slot)
        if entry is None or entry.key != key or not same_objects(entry.layers, every_layer):
            check_shapes()
            program = _checked(
                key, layers, lambda layers: Program(layers[0], input_shape, warped, layers[1:]), check.evaluation
            )
            entry = self._entries[slot] = _Entry(every_layer, key, program)
        return entry.program

    def evaluate(
        self,
        inputs: Floats,
        network: Layer,
        preprocessors: Sequence[Layer] = NO_PREPROCESSOR,
        groups: Integers | None = None,
    ) -> Floats:
        """Compute the outputs of a network, by its program if it has one, else by autodiff.

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, ...)
            Images or codes.
        network : Layer
            The network.
        preprocessors : sequence of Layer
            One network for each group of inputs, applied before `network`.
        groups : ndarray of int64, shape (N,), optional
            The preprocessor of each input; the first one by default.

        Returns
        -------
        ndarray of float32, shape (N, ...)
            The outputs.
        """
        program = self.program(network, inputs.shape[1:], preprocessors)
        if program:
            return program.evaluate(inputs, groups).reshape(len(inputs), *program.output_shape)
        groups = np.zeros(len(inputs), np.int64) if groups is None else groups
        shape = network.output_shape(preprocessors[0].output_shape(inputs.shape[1:]))
        outputs = np.empty((len(inputs), *shape), np.float32)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            for batch in np.split(rows, range(IMAGES_PER_BATCH, len(rows), IMAGES_PER_BATCH)):
                outputs[batch] = network(preprocessors[group](Tensor(inputs[batch]))).data
        return outputs


def classifier_training(
    network: Layer, image_shape: tuple[int, int, int], config: AdamConfig, loss: Loss
) -> ClassifierTraining | None:
    """Compile the training of a classifier; return None if autodiff must compute."""
    kind = CLASSIFIERS.get(type(loss))
    if kind is None:
        return None
    views = kind.views_per_image

    def reference(network: Layer, images: Tensor, labels: Floats) -> tuple[Sequence[Tensor], Tensor]:
        clean, perturbed = Tensor(images.data[::views]), Tensor(images.data[views - 1 :: views])
        losses = loss(partial(network, training=True), clean, perturbed, labels[::views, 0].astype(np.int64))
        return [Tensor(np.repeat(losses.data, views))], losses.mean()

    key, compare = ("classifier", structure(network), image_shape, loss), partial(check.training, reference=reference)
    return _checked(key, (network,), lambda layers: kind(layers[0], image_shape, config, loss=loss), compare)


def vae_training(vae: Layer, config: VaeSettings, reference: check.Reference) -> VaeTraining | None:
    """Compile the training of a VAE; return None if autodiff must compute."""
    key = ("vae", structure(vae), config.image_shape, config.batch_size, config.reconstruction_weight)
    compare = partial(check.training, reference=reference)
    return _checked(key, (vae,), lambda layers: VaeTraining(layers[0], config), compare)


Compiled = TypeVar("Compiled")


def _checked(
    key: Hashable,
    layers: Sequence[Any],
    compile_layers: Callable[[Sequence[Any]], Compiled],
    compare: Callable[[Any, Sequence[Layer]], bool],
) -> Compiled | None:
    """Return the program of layers if programs of this key are right, else None.

    compile_layers : compiles layers to a program.
    compare : returns whether a program is right, given the layers that it was compiled from.
    """
    try:
        if key not in _verdicts:
            copies = check.randomized(copy.deepcopy(layers))
            try:
                problem = "" if compare(compile_layers(copies), copies) else "differs from its autodiff"
            except UserError:
                raise
            except Exception as error:  # a mistake of the compiler must not stop the user
                problem = f"cannot be built ({type(error).__name__}: {error})"
            _verdicts[key] = not problem
            if problem:
                warnings.warn(
                    f"the compiled form of a network {problem}. Results are still right, but computed slowly, by"
                    " autodiff. Please report the network.",
                    stacklevel=4,
                )
        return compile_layers(layers) if _verdicts[key] else None
    except NotCompiledError:
        return None
