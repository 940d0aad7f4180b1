"""Does a learned on-manifold adversarial example still show its class?

Off the true manifold there is no telling for certain: somebody must look. An *oracle* looks at thousands: a
classifier that is larger, and trained on far more data, than any that is attacked, so that it seldom errs on new
images. What it says is evidence, not truth. It was not attacked itself, but adversarial examples transfer a little, so
the share of labels kept is if anything too low.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hlf_np.architectures import Architecture, Kind
from hlf_np.arrays import Floats, Integers
from hlf_np.checks import check_labels
from hlf_np.data.dataset import Split
from hlf_np.files import digest
from hlf_np.models import Model, load
from hlf_np.optim import AdamConfig
from hlf_np.training import Progress, TrainingConfig, train


@dataclass(frozen=True)
class Recipe:
    """A classifier and how it is trained."""

    architecture: Architecture
    training: TrainingConfig


@dataclass(frozen=True)
class OracleConfig(Recipe):
    """A CNN twice as wide as the paper's; fewer epochs, since there is so much more data.

    With 100,000 training images of FONTS (hard) it errs on 3.7 % of the test images.
    """

    architecture: Architecture = field(default_factory=lambda: Architecture(Kind.CNN, (32, 64, 128)))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=8, adam=AdamConfig(decay=0.7)))


def train_oracle(
    split: Split,
    config: OracleConfig | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """A classifier to judge others by; UserError for bad images or labels, or a damaged file in the folder.

    split : many images, none of them from the test set.
    folder : where the oracle is kept; as with `class_vaes`, its file's name tells what it was made from.
    progress : called after each epoch.
    """
    return train_once("oracle", config or OracleConfig(), split, seed, folder, progress)


def train_once(
    name: str, recipe: Recipe, split: Split, seed: int, folder: Path | None = None, progress: Progress | None = None
) -> Model:
    """A classifier that is trained unless the folder has it: as `name`-digest.npz, of recipe, seed and images."""
    path = folder and folder / f"{name}-{digest([asdict(recipe), seed], split.images, split.labels)}.npz"
    if path and path.exists():
        return load(path)
    model = Model(recipe.architecture, seed)
    train(model, split, seed=seed, config=recipe.training, progress=progress)
    if path:
        model.save(path)
    return model


def stored_oracle(folder: Path) -> Model | None:
    """The oracle that `train_oracle` left in a folder, if any."""
    path = next(folder.glob("oracle-*.npz"), None)
    return load(path) if path else None


def has_oracle(folder: Path) -> bool:
    """Whether `train_oracle` has left an oracle in a folder."""
    return any(folder.glob("oracle-*.npz"))


def labels_kept(oracle: Model, images: Floats, labels: Integers) -> float:
    """The share of images (N, H, W, C) that the oracle assigns to their labels (N,); NaN if there are none."""
    labels = check_labels(labels, oracle.classes, len(images))
    return float((oracle.predict(images) == labels).mean()) if len(labels) else math.nan
