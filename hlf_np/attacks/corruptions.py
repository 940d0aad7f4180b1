"""Attacks of other kinds than the trainings use: the worst of a few rotations, elastic deformations, fogs and blurs.

Robustness against the perturbations that a model was trained with says little about others: an adversary may do what
the defender has not thought of (Kang et al., 2019, "Testing Robustness Against Unforeseen Adversaries"). The attacks
here move strokes, which a ball of small norm hardly allows, or leave a learned manifold that knows no fog. Not all
leave every space of the trainings: fog of density 0.3 changes no pixel by more than 0.3, so regular adversarial
training may have seen it, and small rotations are among the adversarial transformations. Each attack draws `queries`
corruptions of every image and keeps the one of highest loss; they need no gradients. Their sizes are chosen such that
people still recognise the letter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from hlf_np.attacks.attack import AttackResult
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split, check_split
from hlf_np.models import Model
from hlf_np.operations import IDENTITY, cross_entropy
from hlf_np.operations.affine import COMPILED, affine_matrix
from hlf_np.random import generator
from hlf_np.spaces import Space
from hlf_np.support.arrays import Booleans, Floats, flat_rows, per_row
from hlf_np.support.checks import check_fields, check_range, store_counts

ROTATION = 5  # the index of the angle among the six affine parameters


@dataclass(frozen=True)
class Corruption(ABC):
    """The worst of several random corruptions of each image. An `Attack`.

    Parameters
    ----------
    queries : int
        The number of corruptions to draw, at least 1.
    """

    name: ClassVar[str]
    bounded: ClassVar[bool] = False

    queries: int = 10

    def __post_init__(self) -> None:
        check_fields(self)
        store_counts(self, queries=1)

    @abstractmethod
    def corrupted(self, images: Floats, random: np.random.Generator) -> Floats:
        """Return a random corruption of each image: (N, H, W, C) in [0, 1] to the same."""

    def find(self, model: Model, split: Split, space: Space, seed: int = 0) -> AttackResult:
        """Run the attack, see `Attack.find`; the space is ignored.

        Of the corruptions that fool the model, or of all if none does, the one of highest cross-entropy is kept.
        `iterations` is its number, 0 for the image itself.
        """
        split = check_split(split, model.classes, model.image_shape)
        random, labels = generator(seed, self.name), split.labels
        best, iterations = split.images.copy(), np.zeros(len(split), np.int64)
        success, losses = _judged(model, split)
        for query in range(1, self.queries + 1):
            images = self.corrupted(split.images.copy(), random).astype(np.float32)
            trial = Split(np.clip(images, 0, 1), labels)
            fooled, trial_losses = _judged(model, trial)
            better = (fooled > success) | ((fooled == success) & (trial_losses > losses))
            best[better], iterations[better] = trial.images[better], query
            success, losses = np.where(better, fooled, success), np.where(better, trial_losses, losses)
        return AttackResult(best, best - split.images, success, iterations, losses, success[None])


def _judged(model: Model, split: Split) -> tuple[Booleans, Floats]:
    """Return whether each image is misclassified, and its cross-entropy."""
    logits, predictions = model.logits_and_predictions(split.images)
    return predictions != split.labels, cross_entropy(Tensor(logits), split.labels).data


@dataclass(frozen=True)
class Rotation(Corruption):
    """Rotations about the centre by a uniform angle.

    Parameters
    ----------
    max_angle : float
        The largest angle, in radians.

    Examples
    --------
    >>> import hlf_np as hlf
    >>> model, test = hlf.models.cnn(), hlf.data.load_fonts(0, 20).test
    >>> result = Rotation().find(model, test, hlf.spaces.ImageBall(0.3))
    >>> result.images.shape, bool((result.success == (model.predict(result.images) != test.labels)).all())
    ((20, 28, 28, 1), True)
    """

    name: ClassVar[str] = "rotation"

    max_angle: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("max_angle", self.max_angle)

    def corrupted(self, images: Floats, random: np.random.Generator) -> Floats:
        parameters = np.tile(np.asarray(IDENTITY, np.float32), (len(images), 1))  # (N, 6)
        parameters[:, ROTATION] = random.uniform(-self.max_angle, self.max_angle, len(images))
        matrices = affine_matrix(Tensor(parameters)).data  # (N, 2, 3), in units of half a height and half a width
        height, width = (np.float32(max(size - 1, 1)) for size in images.shape[1:3])
        matrices[:, 0, 1] *= height / width
        matrices[:, 1, 0] *= width / height
        return COMPILED.warp_images(images, matrices)


@dataclass(frozen=True)
class ElasticDeformation(Corruption):
    """Displacements of the pixels by smooth random fields (Simard et al., 2003).

    Parameters
    ----------
    displacement : float
        Root mean square of the displacements along each axis, in pixels.
    smoothness : float
        Standard deviation of the Gaussian that smooths the fields, in pixels.
    """

    name: ClassVar[str] = "elastic"

    displacement: float = 1.0
    smoothness: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("displacement", self.displacement)
        check_range("smoothness", self.smoothness)

    def corrupted(self, images: Floats, random: np.random.Generator) -> Floats:
        count, height, width, channels = images.shape
        fields = _smooth(random.standard_normal((2, count, height, width), np.float32), self.smoothness)
        rms = np.sqrt(np.square(fields).mean(axis=(0, 2, 3), keepdims=True))  # of each image
        image, row, column = np.indices((count, height, width), np.float32)
        row, column = np.stack([row, column]) + self.displacement * fields / rms
        # the first coordinate is whole, so that images do not mix; outside of them all is black
        moved = [
            map_coordinates(images[..., channel], [image, row, column], order=1, mode="grid-constant")
            for channel in range(channels)
        ]
        return np.stack(moved, axis=-1)


@dataclass(frozen=True)
class Fog(Corruption):
    """A mixture with a random cloud: noise of many scales, the larger the scale the stronger.

    Parameters
    ----------
    density : float
        The weight of the cloud, from 0 to 1.
    """

    name: ClassVar[str] = "fog"

    density: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("density", self.density, 1)

    def corrupted(self, images: Floats, random: np.random.Generator) -> Floats:
        count, height, width, _ = images.shape
        cloud: Floats = np.zeros((count, height, width), np.float32)
        scale = max(min(height, width) / 4, 1)  # the largest that the shorter side shows
        while scale >= 1:
            octave = _smooth(random.standard_normal(cloud.shape, np.float32), scale)
            cloud += scale * octave / np.maximum(per_row(flat_rows(octave).std(axis=1), octave), 1e-6)
            scale /= 2
        lowest, highest = (per_row(bound(flat_rows(cloud), axis=1), cloud) for bound in (np.min, np.max))
        cloud = (cloud - lowest) / np.maximum(highest - lowest, 1e-6)  # from 0 to 1 in each image
        return (1 - self.density) * images + self.density * cloud[..., None]


@dataclass(frozen=True)
class Blur(Corruption):
    """Gaussian blur; each query draws one width for all images.

    Parameters
    ----------
    max_width : float
        The largest standard deviation of the Gaussian, in pixels.
    """

    name: ClassVar[str] = "blur"

    max_width: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("max_width", self.max_width)

    def corrupted(self, images: Floats, random: np.random.Generator) -> Floats:
        width = random.uniform(0, self.max_width)
        return np.asarray(gaussian_filter(images, (0, width, width, 0), mode="constant"))


def _smooth(fields: Floats, width: float) -> Floats:
    """Smooth random fields (..., H, W) by a Gaussian of this standard deviation, in pixels."""
    return np.asarray(gaussian_filter(fields, (*(0,) * (fields.ndim - 2), width, width), mode="wrap"))


# The attacks with which runs measure robustness against other kinds of attacks than those of the trainings.
UNSEEN_ATTACKS: tuple[Corruption, ...] = (Rotation(), ElasticDeformation(), Fog(), Blur())
