"""What all cells of a run share: images, spaces to perturb in, and an oracle of labels.

The learned manifold and the oracle are trained once per results folder and kept in it, file by file, so that a
run which was stopped goes on with the VAE it was at. They are trained on the first images of the whole
training set, whatever the number of images in a cell: as in the paper, they stand for what is known about
the data, not for what a classifier has seen of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hlf_np.data.dataset import Dataset
from hlf_np.data.fonts import LETTERS, Fonts, load_prototypes
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.store import Store
from hlf_np.experiments.work import oracle_epoch_work, vae_epoch_work
from hlf_np.manifolds import Vae, VaeLog, class_vaes
from hlf_np.manifolds.oracle import OracleConfig, train_oracle
from hlf_np.models import Model
from hlf_np.spaces import ImageBall, LearnedManifold, Space, Transformations, TrueManifold
from hlf_np.training import EpochLog

# Called with what goes on and how much work (in image passes) has been done since the last call.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Groundwork:
    """What every cell needs; oracle : None if nobody judges labels."""

    dataset: Dataset
    spaces: tuple[Space, ...]
    oracle: Model | None = None


def fonts_of(config: RunConfig) -> Fonts:
    """The generator of a run's images."""
    return Fonts(load_prototypes(), config.difficulty, config.data_seed)


def classes_of(config: RunConfig) -> tuple[str, ...]:
    """The names of the dataset's classes."""
    return LETTERS


def spaces_of(config: RunConfig, fonts: Fonts, vaes: tuple[Vae, ...] = ()) -> tuple[Space, ...]:
    """The spaces that models are trained and attacked in: whoever adds a space to runs adds it here."""
    learned = (LearnedManifold(vaes, epsilon=config.latent_epsilon),) if vaes else ()
    return (
        ImageBall(config.epsilon),
        TrueManifold(fonts, epsilon=config.latent_epsilon),
        *learned,
        Transformations(fonts.box, epsilon=config.latent_epsilon),
    )


def load_dataset(config: RunConfig, fonts: Fonts) -> Dataset:
    """As many images as the largest cell needs.

    Raises
    ------
    UserError : if the dataset is too small.
    """
    return fonts.dataset(max(config.sizes), config.n_test)


def lay_groundwork(config: RunConfig, store: Store, progress: Progress) -> Groundwork:
    """Load the images, and train the VAEs and the oracle or take those that the results folder has."""
    fonts = fonts_of(config)
    vaes: tuple[Vae, ...] = ()
    oracle = None
    if config.n_vae:
        vaes = _vaes(config, fonts, store, progress)
        if config.n_oracle:
            oracle = _oracle(config, fonts, store, progress)
    return Groundwork(load_dataset(config, fonts), spaces_of(config, fonts, vaes), oracle)


def _vaes(config: RunConfig, fonts: Fonts, store: Store, progress: Progress) -> tuple[Vae, ...]:
    def epoch_done(entry: VaeLog) -> None:
        progress(f"VAE of {entry.name}: epoch {entry.epoch}/{config.vae.epochs}", vae_epoch_work(config))

    progress("VAEs: training", 0)
    split = fonts.split(np.arange(config.n_vae * fonts.classes))  # every tenth image is of the same class
    return class_vaes(split, fonts.classes, config.vae, folder=store.manifolds, progress=epoch_done)


def _oracle(config: RunConfig, fonts: Fonts, store: Store, progress: Progress) -> Model:
    settings = OracleConfig()

    def epoch_done(entry: EpochLog) -> None:
        progress(f"oracle: epoch {entry.epoch}/{settings.training.epochs}", oracle_epoch_work(config))

    progress("oracle: training", 0)
    return train_oracle(fonts.split(np.arange(config.n_oracle)), settings, folder=store.manifolds, progress=epoch_done)
