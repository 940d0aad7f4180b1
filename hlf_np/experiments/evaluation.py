"""Measuring a model: its test error, the attacks on it, and what they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np import attacks
from hlf_np.arrays import Booleans, Floats, Integers
from hlf_np.attacks import AttackResult, SuccessRate
from hlf_np.checks import check_labels
from hlf_np.data.dataset import Split
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.further_attacks import smallest_perturbations, transfer_rate
from hlf_np.experiments.results import Examples, Measurements
from hlf_np.manifolds.distance import project, subspace_distances
from hlf_np.manifolds.oracle import labels_kept
from hlf_np.models import Model
from hlf_np.spaces import ImageBall, LearnedManifold, Space, TrueManifold

REGULAR, ON_TRUE_MANIFOLD, ON_LEARNED_MANIFOLD = "regular", "on_true_manifold", "on_learned_manifold"
CLEAN = "clean"
# The attacks that are measured, by what their columns begin with.
MEASURED: dict[type[Space], str] = {
    ImageBall: REGULAR,
    TrueManifold: ON_TRUE_MANIFOLD,
    LearnedManifold: ON_LEARNED_MANIFOLD,
}
NEIGHBOURS = 50  # that span the subspace
TRANSFERRED = (REGULAR, ON_TRUE_MANIFOLD)
Found = tuple[Measurements, Mapping[str, Examples], Mapping[str, Floats]]


@dataclass(frozen=True)
class Yardstick:
    """What stands for the manifold where distances to it are measured.

    words : what that is; others : what regular examples are compared with.
    suffix : of the names of its distances; on_manifold : the attack whose examples are compared.
    """

    words: str
    others: str
    suffix: str
    on_manifold: str

    @property
    def kinds(self) -> tuple[str, str, str]:
        """Of images that are measured: regular examples, on-manifold ones, clean images."""
        return (REGULAR, self.on_manifold, CLEAN)

    def key(self, kind: str) -> str:
        """The name of a kind's distances in `CellResult.distances`; with `_distance`, of their mean."""
        return kind + self.suffix


TRUE = Yardstick("the true manifold", "an image on it", "", ON_TRUE_MANIFOLD)
SUBSPACE = Yardstick(
    "the subspace of nearest training images", "one on the learned manifold", "_subspace", ON_LEARNED_MANIFOLD
)
YARDSTICKS = (TRUE, SUBSPACE)


def evaluate(
    model: Model,
    test: Split,
    config: RunConfig,
    spaces: Sequence[Space],
    oracle: Model | None = None,
    neighbours: Floats | None = None,
    surrogate: Model | None = None,
) -> Found:
    """Attack a model in all spaces that are measured.

    Parameters
    ----------
    test : all count for the test error; the first of them are attacked, where classified correctly.
    oracle : judges the labels of adversarial examples on the learned manifold.
    neighbours : training images (M, H, W, C) to measure distances by where no true manifold is among the spaces;
        without them none are.
    surrogate : makes adversarial examples to be transferred to the model.

    Returns
    -------
    Measurements, examples and distances, as in `CellResult`.
    """
    check_labels(test.labels, model.classes, len(test))
    correct = model.predict(test.images) == test.labels
    measured: dict[str, float] = {"test_error": float(1 - correct.mean())}
    examples: dict[str, Examples] = {}
    to_project: dict[str, tuple[Floats, Split, Space]] = {}  # images, what they were before, and where they were sought
    for space in spaces:
        kind = MEASURED.get(type(space))
        if kind is None:
            continue
        count = config.n_attacked if kind == REGULAR else config.n_attacked_on_manifold
        attacked = test.take(np.flatnonzero(correct[:count]))
        result = attacks.run(model, attacked, space, config.attack, config.attack_seed)
        rate = SuccessRate.of(result)
        measured |= {f"{kind}_success": rate.average, f"{kind}_success_worst": rate.worst}
        examples[kind] = _examples(model, attacked, result, config.n_examples)
        if kind == REGULAR and config.carlini_wagner:
            measured |= smallest_perturbations(model, attacked, config.carlini_wagner)
        if surrogate is not None and kind in TRANSFERRED:
            measured[f"{kind}_transfer_success"] = transfer_rate(
                surrogate, model, test.take(slice(count)), space, config
            )
        if kind == ON_LEARNED_MANIFOLD and oracle is not None:
            measured["learned_labels_kept"] = labels_kept(oracle, result.images, attacked.labels)
        successful = np.flatnonzero(result.success)[: config.n_projected]
        to_project[kind] = result.images[successful], attacked.take(successful), space
    clean = test.take(slice(0, config.n_projected))
    to_project[CLEAN] = clean.images, clean, ImageBall(config.epsilon)
    distances = _distances(to_project, spaces, neighbours)
    means = {f"{kind}_distance": float(found.mean()) for kind, found in distances.items() if len(found)}
    return Measurements(**measured, **means), examples, distances


def _distances(
    found: Mapping[str, tuple[Floats, Split, Space]], spaces: Sequence[Space], neighbours: Floats | None
) -> dict[str, Floats]:
    """The distance (N,) of each kind of images (N, H, W, C) to what stands for the manifold.

    The subspace of neighbours goes through the image that the attack started from. On the learned manifold that is the
    reconstruction of the original: how good it is, is another question.
    """
    manifold = next((space for space in spaces if isinstance(space, TrueManifold)), None)
    if manifold is None and neighbours is None:
        return {}
    yardstick = SUBSPACE if manifold is None else TRUE
    distances = {}
    for kind in yardstick.kinds:
        if kind not in found:
            continue
        images, originals, space = found[kind]
        if manifold is not None:
            # from the codes of the originals: where an adversarial example came from is the best guess
            chart = manifold.chart(originals.images, originals.labels, originals.codes)
            distances[yardstick.key(kind)] = project(images, chart).distances
        elif neighbours is not None:
            around = space.chart(originals.images, originals.labels, originals.codes)
            starts, count = around.decoded(around.start), min(NEIGHBOURS, len(neighbours))
            distances[yardstick.key(kind)] = subspace_distances(images, starts, neighbours, count)
    return distances


def _examples(model: Model, attacked: Split, result: AttackResult, count: int) -> Examples:
    """The first successful adversarial example of every class, up to a number."""
    shown = first_of_each_class(attacked.labels, result.success)[:count]
    images = result.images[shown]
    return Examples(attacked.images[shown], images, attacked.labels[shown], model.predict(images))


def first_of_each_class(labels: Integers, allowed: Booleans) -> Integers:
    """Indices of the first allowed image of every class that has one."""
    candidates = np.flatnonzero(allowed)
    _, first = np.unique(labels[candidates], return_index=True)
    return candidates[first]
