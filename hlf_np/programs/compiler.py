"""Who decides what is compiled, and makes sure that it is right.

A `Compiler` keeps the programs of an object's networks. It never trusts one unseen: the first time in a process that a
network of some `structure` is compiled, the program of a copy with random weights is compared with the autodiff in
double precision, logits and gradients for a few random inputs (`check`). Where they differ, there is one warning, and
autodiff computes from then on. Where a network cannot be compiled at all, autodiff computes, too.

Programs follow the weights of their networks. What else may change, settings, layers or shapes, is looked at whenever a
program is asked for. A copy of a compiler begins empty, so a copied or unpickled model compiles its own network.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.errors import UserError
from hlf_np.layers import Layer, Sequential
from hlf_np.losses import Loss
from hlf_np.optim import AdamConfig
from hlf_np.programs import check
from hlf_np.programs.evaluation import Program
from hlf_np.programs.structure import structure
from hlf_np.programs.training import CLASSIFIERS, ClassifierTraining, VaeTraining
from hlf_np.programs.values import NotCompiledError

if TYPE_CHECKING:
    from hlf_np.manifolds.vae import Vae

IMAGES_PER_BATCH = 200  # of a network that is not compiled
NO_FRONT: tuple[Layer, ...] = (Sequential(),)

_verdicts: dict[Hashable, bool] = {}  # whether programs of this structure have been found right, in this process


class Compiler:
    """The programs of some networks, compiled when they are first asked for."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Sequence[Layer], Hashable, Program | None]] = {}

    def __reduce__(self) -> tuple[type[Compiler], tuple[()]]:
        return Compiler, ()

    def program(
        self,
        network: Layer,
        input_shape: tuple[int, ...],
        fronts: Sequence[Layer] = NO_FRONT,
        warped: bool = False,
        check_shapes: Callable[[], None] = lambda: None,
    ) -> Program | None:
        """The program of a network as it is now, see `Program`; None if autodiff has to compute.

        check_shapes : called for every new structure, before it is compiled; UserError if it does not fit together.
        """
        layers = (network, *fronts)
        place = (*map(id, layers), input_shape, warped)
        now = (tuple(map(structure, layers)), input_shape, warped)
        kept = self._kept.get(place)
        if kept is None or kept[1] != now or any(a is not b for a, b in zip(kept[0], layers, strict=True)):
            check_shapes()
            program = _checked(
                now, layers, lambda layers: Program(layers[0], input_shape, warped, layers[1:]), check.evaluation
            )
            kept = layers, now, program
            self._kept[place] = kept
        return kept[2]

    def evaluate(
        self, inputs: Floats, network: Layer, fronts: Sequence[Layer] = NO_FRONT, groups: Integers | None = None
    ) -> Floats:
        """Outputs (N, ...) of inputs (N, ...), each through the front of its group (N,) and the network."""
        program = self.program(network, inputs.shape[1:], fronts)
        if program:
            return program.evaluate(inputs, groups).reshape(len(inputs), *program.output_shape)
        groups = np.zeros(len(inputs), np.int64) if groups is None else groups
        outputs = np.empty((len(inputs), *network.output_shape(fronts[0].output_shape(inputs.shape[1:]))), np.float32)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            for part in np.split(rows, range(IMAGES_PER_BATCH, len(rows), IMAGES_PER_BATCH)):
                outputs[part] = network(fronts[group](Tensor(inputs[part]))).data
        return outputs


def classifier_training(
    network: Layer, image_shape: tuple[int, int, int], config: AdamConfig, loss: Loss
) -> ClassifierTraining | None:
    """A compiled training of a classifier; None if autodiff has to compute."""
    kind = CLASSIFIERS.get(type(loss))
    if kind is None:
        return None
    faces = kind.faces

    def reference(network: Layer, images: Tensor, labels: Floats) -> tuple[Sequence[Tensor], Tensor]:
        clean, perturbed = Tensor(images.data[::faces]), Tensor(images.data[faces - 1 :: faces])
        losses = loss(partial(network, training=True), clean, perturbed, labels[::faces, 0].astype(np.int64))
        return [Tensor(np.repeat(losses.data, faces))], losses.mean()

    key, compare = ("classifier", structure(network), image_shape, loss), partial(check.training, reference=reference)
    return _checked(key, (network,), lambda layers: kind(layers[0], image_shape, config, loss=loss), compare)


def vae_training(vae: Vae, reference: check.Reference) -> VaeTraining | None:
    """A compiled training of a VAE; None if autodiff has to compute."""
    key = ("vae", structure(vae), vae.config.image_shape, vae.config.batch_size, vae.config.reconstruction_weight)
    return _checked(key, (vae,), lambda layers: VaeTraining(*layers), partial(check.training, reference=reference))


Compiled = TypeVar("Compiled")


def _checked(
    key: Hashable,
    layers: Sequence[Any],
    compiled: Callable[[Sequence[Any]], Compiled],
    compare: Callable[[Any, Sequence[Layer]], bool],
) -> Compiled | None:
    """What `compiled` makes of layers, if programs of this key are right."""
    try:
        if key not in _verdicts:
            copies = check.randomized(copy.deepcopy(layers))
            try:
                problem = "" if compare(compiled(copies), copies) else "differs from its autodiff"
            except UserError:
                raise
            except Exception as error:  # no mistake of the compiler is to reach a user
                problem = f"cannot be made ({type(error).__name__}: {error})"
            _verdicts[key] = not problem
            if problem:
                warnings.warn(
                    f"the compiled form of a network {problem}; autodiff computes instead: the results are right, but"
                    " slow. Please report the network.",
                    stacklevel=4,
                )
        return compiled(layers) if _verdicts[key] else None
    except NotCompiledError:
        return None
