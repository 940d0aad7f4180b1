"""Does an adversarial example on the learned manifold still show its class?

Away from the true manifold only a human observer can tell with certainty. To check thousands of images, an *oracle*
stands in: a classifier that is larger, and trained on far more data, than any model under attack, so that it rarely
errs on new images. Its predictions are evidence, not ground truth. The attacks do not target the oracle, but
adversarial examples transfer to some degree, so the measured share of labels kept is, if anything, too low.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from hlf_np.data.dataset import Split
from hlf_np.models import Model, load
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.optim import AdamConfig
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import check_labels
from hlf_np.support.errors import UserError
from hlf_np.support.files import digest, only_stored, stored_as
from hlf_np.support.serialization import identity
from hlf_np.training import Progress, TrainingConfig, train


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier and its training.

    Parameters
    ----------
    architecture : Architecture
        The network.
    training : TrainingConfig
        The settings of its training.
    """

    architecture: Architecture
    training: TrainingConfig


# The oracle: a CNN twice as wide as the paper's, trained for fewer epochs on many more images. With 100,000 training
# images of FONTS (hard) its test error is 3.7 %.
ORACLE = ClassifierConfig(Architecture(Kind.CNN, (32, 64, 128)), TrainingConfig(epochs=8, adam=AdamConfig(decay=0.7)))


def train_once(
    name: str,
    config: ClassifierConfig,
    split: Split,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
    reuse: bool = False,
) -> Model:
    """Train a classifier, or load it if the folder has it already.

    Parameters
    ----------
    name : str
        Prefix of the file name, which continues with a digest of `config`, `seed` and the images.
    config : ClassifierConfig
        The network and its training.
    split : Split
        The training images.
    seed : int
        Seed of the weights and the training.
    folder : Path, optional
        Where the classifier is stored.
    progress : callable, optional
        Called with an `EpochLog` after each epoch.
    reuse : bool
        Load any classifier of this name that the folder has, whatever its digest; see `class_vaes`.

    Returns
    -------
    Model
        The trained classifier.
    """
    path = stored_as(name, folder, lambda: digest(identity([config, seed]), split.images, split.labels), reuse)
    if path and path.exists():
        model = load(path)
        if model.architecture != config.architecture:  # possible with `reuse` only
            raise UserError(f"{str(path)!r} has another architecture: delete it, or repeat the run that trained it")
        return model
    model = Model.from_architecture(config.architecture, seed)
    train(model, split, seed=seed, config=config.training, progress=progress)
    if path:
        model.save(path)
    return model


def stored_oracle(folder: Path) -> Model | None:
    """Load the oracle that is stored in a folder; None if there is none, UserError if there are several."""
    path = only_stored("oracle", folder)
    return load(path) if path else None


def has_oracle(folder: Path) -> bool:
    """Return whether a folder has an oracle."""
    return any(folder.glob("oracle-*.npz"))


def labels_kept(oracle: Model, images: Floats, labels: Integers) -> float:
    """Compute the share of images that the oracle assigns to their labels.

    Parameters
    ----------
    oracle : Model
        The judge of labels.
    images : ndarray of floats, shape (N, H, W, C)
        Images in [0, 1].
    labels : ndarray of integers, shape (N,)
        The labels that the images should have kept.

    Returns
    -------
    float
        The share, from 0 to 1; NaN if there are no images.
    """
    labels = check_labels(labels, oracle.classes, len(images))
    return float((oracle.predict(images) == labels).mean()) if len(labels) else math.nan
