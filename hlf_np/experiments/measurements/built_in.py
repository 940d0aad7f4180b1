"""The measurements of the package, and those that each space and each attack adds."""

from __future__ import annotations

import copy
import math

import numpy as np

from hlf_np.attacks import UNSEEN_ATTACKS, Attack, Objective, SuccessRate, Transfer, checked_result
from hlf_np.attacks.attack import input_gradient
from hlf_np.autodiff import Tensor
from hlf_np.experiments.measurements.distances import (
    DISTANCE_REFERENCES,
    SUBSPACE_REFERENCE,
    DistanceReference,
    mean_or_nan,
)
from hlf_np.experiments.measurements.measurement import Display, Measurement
from hlf_np.experiments.measurements.subject import Subject
from hlf_np.manifolds.oracle import labels_kept
from hlf_np.manifolds.tangent import tangent_share
from hlf_np.spaces import SPACES, DataManifold, ImageBall, LearnedManifold, Need, Norm, Space, TrueManifold


def of_space(space: type[Space]) -> tuple[Measurement, Measurement]:
    """Return the success rates of attacks in a space: averaged over restarts, and in any restart."""
    column, title = f"{space.name}_success", f"Success rate of {space.attack_label()}"
    return (
        Measurement(column, title, lambda s: s.rate(space).average, space.needs),
        Measurement(
            f"{column}_worst",
            f"{title}, any restart",
            lambda s: s.rate(space).worst,
            space.needs,
            Display.RESTARTS,
        ),
    )


def of_attack(attack: Attack) -> Measurement:
    """Return the success rate of an attack in image space, on the images that the run's own attack is applied to."""

    def compute(subject: Subject) -> float:
        space = subject.space(ImageBall)
        assert space is not None
        model, attacked = subject.model, subject.attacked(ImageBall)
        # a copy, so that an attack with a state starts afresh for each model, in any process
        result = copy.deepcopy(attack).find(model, attacked, space, subject.config.attack_seed)
        return SuccessRate.of(checked_result(attack, result, model, attacked, space)).average

    return Measurement(f"{attack.name}_success", f"Success rate of attack {attack.name}", compute)


def _mean_distance(reference: DistanceReference, kind: str) -> Measurement:
    """Return the mean L2 distance of a kind of images: successful adversarial examples, or clean images."""
    key = reference.key(kind)
    return Measurement(
        f"{key}_distance",
        f"Distance of {kind} images to {reference.description}",
        lambda subject: mean_or_nan(subject.distances.get(key, np.empty(0))),
        None,
        Display.NOWHERE,
        False,
    )


def _labels_kept(subject: Subject) -> float:
    """Return the share of images attacked on the learned manifold to which the oracle still assigns their label."""
    if subject.oracle is None:
        return math.nan
    return labels_kept(subject.oracle, subject.attack(LearnedManifold).images, subject.attacked(LearnedManifold).labels)


def _reconstruction_error(subject: Subject) -> float:
    """Return the share of the images attacked on the learned manifold whose reconstruction is misclassified."""
    return float(1 - subject.start(LearnedManifold).correct.mean())


def _gradient_tangent_share(subject: Subject) -> float:
    """Return the mean tangent share of the gradient of the cross-entropy with respect to the image."""
    images = subject.first_tested
    if not len(images):
        return math.nan
    pixels = Tensor(images.images, requires_grad=True)
    gradients = input_gradient(Objective.CROSS_ENTROPY.of(subject.model.forward(pixels), images.labels), pixels)
    return float(np.nanmean(tangent_share(gradients, subject.tangent_bases)))


def _unseen_success(name: str) -> Measurement:
    """Return the success rate of an attack unlike those of any training."""
    title = f"Success rate of {name} attacks, which no training uses"
    return Measurement(f"{name}_success", title, lambda s: s.unseen_rates[name], display=Display.NOWHERE)


def _carlini_wagner_success(kind: type[Space]) -> Measurement:
    """Return the success rate of Carlini and Wagner's attack in a space."""

    def compute(subject: Subject) -> float:
        result = subject.carlini_wagner(kind)
        return subject.rate(kind, result).average if result else math.nan

    column = f"{'' if kind is ImageBall else f'{kind.name}_'}carlini_wagner_success"
    title = f"Success rate of {kind.attack_label()} by Carlini and Wagner, L2"
    return Measurement(column, title, compute, kind.needs, Display.TABLE)


def _carlini_wagner_norm(subject: Subject) -> float:
    """Return the mean L2 norm of the successful perturbations."""
    result = subject.carlini_wagner(ImageBall)
    return mean_or_nan(Norm.L2.of(result.perturbations[result.success]) if result else np.empty(0))


def _transfer_success(kind: type[Space]) -> Measurement:
    """Return the success rate of the surrogate's adversarial examples, averaged over restarts.

    It is a fraction of the candidates that both models classify correctly at first.
    """

    def compute(subject: Subject) -> float:
        space, source = subject.space(kind), subject.surrogate
        if source is None or space is None:
            return math.nan
        start = subject.start(kind)
        both = start.correct & (source.predict(start.images) == start.candidates.labels)
        attacked = start.candidates.take(np.flatnonzero(both & start.perturbable))
        result = Transfer(source, subject.config.attack).find(
            subject.model, attacked, space, subject.config.attack_seed
        )
        return SuccessRate.of(result, int(both.sum())).average

    title = f"Success rate of {kind.attack_label()} transferred from another model"
    return Measurement(f"{kind.name}_transfer_success", title, compute, kind.needs, Display.TABLE)


MANIFOLDS_AND_IMAGES = (ImageBall, TrueManifold, LearnedManifold)  # where the paper attacks in further ways
# Success rates of attacks other than the run's own.
FURTHER_RATES = (
    *(_carlini_wagner_success(kind) for kind in MANIFOLDS_AND_IMAGES),
    *(_transfer_success(kind) for kind in MANIFOLDS_AND_IMAGES),
)
_RATES = [of_space(space) for space in SPACES if space.measured and space is not DataManifold]
MEASUREMENTS = (  # in the order of the columns
    Measurement("test_error", "Test error", lambda s: float(1 - s.correct.mean())),
    *(average for average, _ in _RATES),
    *(worst for _, worst in _RATES),
    Measurement(
        "learned_labels_kept",
        "Share of images attacked on the learned manifold that keep their label, according to the oracle",
        _labels_kept,
        Need.LEARNED_MANIFOLD,
        Display.TABLE,
    ),
    *(_mean_distance(reference, kind) for reference in DISTANCE_REFERENCES for kind in reference.kinds),
    _mean_distance(SUBSPACE_REFERENCE, TrueManifold.name),
    Measurement(
        "train_loss",
        "Mean loss of the last epoch",
        lambda s: s.log[-1].loss if s.log else math.nan,
        display=Display.NOWHERE,
        share=False,
    ),
    # the time of training and attacks together, which `run_cell` fills in
    Measurement("seconds", "Seconds per model", lambda s: math.nan, display=Display.NOWHERE, share=False),
    Measurement(
        "reconstruction_error",
        "Share of images whose reconstruction by the autoencoders is misclassified",
        _reconstruction_error,
        Need.LEARNED_MANIFOLD,
        Display.TABLE,
    ),
    *of_space(DataManifold),
    Measurement(
        "gradient_tangent_share",
        "Tangent share of loss gradients on the true manifold",
        _gradient_tangent_share,
        Need.TRUE_MANIFOLD,
        Display.TABLE,
    ),
    *FURTHER_RATES,
    Measurement(
        "carlini_wagner_norm",
        "L2 norm of successful regular perturbations by Carlini and Wagner",
        _carlini_wagner_norm,
        display=Display.TABLE,
        share=False,
    ),
    Measurement(
        "unseen_success",
        "Success rate of attacks unlike those of any training, mean of " + ", ".join(a.name for a in UNSEEN_ATTACKS),
        lambda s: float(np.mean(list(s.unseen_rates.values()))),
        display=Display.TABLE,
    ),
    *(_unseen_success(attack.name) for attack in UNSEEN_ATTACKS),
)
