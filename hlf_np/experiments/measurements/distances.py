"""Distances of images to the manifold of the data, or to what approximates it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hlf_np.spaces import ImageBall, LearnedManifold, Space, TrueManifold
from hlf_np.support.arrays import Floats

SUBSPACE_NEIGHBOURS = 50  # training images that span the subspace, as in the paper
CLEAN = "clean"  # the kind of images that were not attacked


@dataclass(frozen=True)
class DistanceReference:
    """What distances are measured to: the true manifold, or a subspace that approximates it.

    Parameters
    ----------
    description : str
        The reference in words.
    baseline : str
        The on-manifold images that regular adversarial examples are compared with, in words.
    suffix : str
        Suffix of the keys of its distances.
    on_manifold : type of Space
        The space whose adversarial examples are the on-manifold images.
    others : tuple of Space classes
        Further spaces whose adversarial examples are measured.
    """

    description: str
    baseline: str
    suffix: str
    on_manifold: type[Space]
    others: tuple[type[Space], ...] = ()

    @property
    def spaces(self) -> tuple[type[Space], ...]:
        """The spaces whose adversarial examples are measured."""
        return (ImageBall, self.on_manifold, *self.others)

    @property
    def kinds(self) -> tuple[str, str, str]:
        """The kinds of images that are compared: regular examples, on-manifold examples and clean images."""
        return (ImageBall.name, self.on_manifold.name, CLEAN)

    def key(self, kind: str) -> str:
        """Return the key of a kind in `CellResult.distances`; the column of the mean appends `_distance`."""
        return kind + self.suffix


TRUE_MANIFOLD_REFERENCE = DistanceReference("the true manifold", "an image on it", "", TrueManifold)
SUBSPACE_REFERENCE = DistanceReference(
    "the subspace of nearest training images",
    "one on the learned manifold",
    "_subspace",
    LearnedManifold,
    others=(TrueManifold,),
)
DISTANCE_REFERENCES = (TRUE_MANIFOLD_REFERENCE, SUBSPACE_REFERENCE)


def mean_or_nan(values: Floats) -> float:
    """Return the mean of values (N,); NaN if there are none."""
    return float(values.mean()) if len(values) else math.nan
