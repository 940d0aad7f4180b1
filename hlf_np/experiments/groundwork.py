"""What all cells of a run share: images, spaces to perturb in, an oracle of labels, a surrogate for transfer attacks.

The learned manifold, the oracle and the surrogate are trained once per results folder and kept in it, file by file, so
that a run which was stopped goes on with the VAE it was at. They are trained on the first images of the whole
training set, whatever the number of images in a cell: as in the paper, they stand for what is known about
the data, not for what a classifier has seen of it. So do the images that stand for the manifold where it is neither
known nor learned: those among which nearest neighbours are sought.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hlf_np.architectures import Architecture
from hlf_np.arrays import Floats
from hlf_np.data.dataset import Dataset
from hlf_np.data.fonts import Fonts, load_prototypes
from hlf_np.errors import UserError
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.jobs import Progress
from hlf_np.experiments.source import IdxSource, Source, open_idx
from hlf_np.experiments.store import Store
from hlf_np.experiments.work import oracle_epoch_work, surrogate_epoch_work, vae_epoch_work
from hlf_np.manifolds import Vae, VaeConfig, VaeLog, class_vaes
from hlf_np.manifolds.oracle import OracleConfig, Recipe, train_once, train_oracle
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import ImageBall, LearnedManifold, Space, Transformations, TrueManifold
from hlf_np.training import SPACES, EpochLog, TrainingConfig


@dataclass(frozen=True)
class Groundwork:
    """What every cell needs.

    oracle : None if nobody judges labels.
    neighbours : images (M, H, W, C) that stand for the manifold where distances to it are measured; None where the
        true one is known.
    surrogate : None if no attack is transferred.
    """

    dataset: Dataset
    spaces: tuple[Space, ...]
    oracle: Model | None = None
    neighbours: Floats | None = None
    surrogate: Model | None = None


def source_of(config: RunConfig) -> Source:
    """Where a run's images come from.

    Raises
    ------
    UserError : if they are files, and are missing, damaged, or no longer those of the configuration.
    """
    if config.has_true_manifold:
        return fonts_of(config)
    source = open_idx(Path(config.path), config.dataset, config.data_seed)
    if source.stored.digest != config.digest:
        raise UserError(f"{config.path!r} holds other images than this run began with: put those back, or start anew")
    return source


def fonts_of(config: RunConfig) -> Fonts:
    """The generator of a run on FONTS."""
    return Fonts(load_prototypes(), config.difficulty, config.data_seed)


def fit(
    config: RunConfig,
    source: Source,
    channels: tuple[int, ...] | None = None,
    vae_channels: tuple[int, ...] | None = None,
    **chosen: Any,
) -> RunConfig:
    """A configuration, such as a preset, made one of this source, with what the user chose.

    Unless they were chosen, it has no more images than there are, and no training on a manifold that is not known or
    not to be learned. What is not used, be it the VAEs or the oracle, need not fit the images.

    Raises
    ------
    UserError : for choices that do not go together, and networks that are too large for the images.
    """
    if isinstance(source, Fonts):
        described: dict[str, Any] = {"difficulty": source.difficulty}
    else:
        assert isinstance(source, IdxSource)
        described = {"path": str(source.path), "digest": source.stored.digest, "prototypes": ""}
    judged = min(source.image_shape[:2]) >= OracleConfig().architecture.smallest_image
    most = {"n_vae": source.class_size, "n_oracle": judged * source.train_size, "n_neighbours": source.train_size}
    most |= dict.fromkeys(("n_test", "n_attacked", "n_attacked_on_manifold"), source.test_size)
    described |= {name: min(getattr(config, name), bound) for name, bound in most.items()}
    missing: set[type[Space]] = set() if isinstance(source, Fonts) else {TrueManifold}
    if chosen.get("n_vae", described["n_vae"]):
        described["vae"] = _vae_config(config.vae, vae_channels, source)
    else:
        missing.add(LearnedManifold)
    shape: dict[str, Any] = {"classes": len(source.class_names), "image_shape": source.image_shape}
    wanted: Architecture = chosen.get("architecture", config.architecture)
    fitting = wanted.with_widths(channels, **shape) if channels else replace(wanted, **shape)
    described |= {
        "dataset": source.name,
        "data_seed": source.seed,
        "classes": source.class_names,
        "sizes": tuple(size for size in config.sizes if size <= source.train_size) or (source.train_size,),
        "trainings": tuple(t for t in config.trainings if not missing.intersection(SPACES[t])),
    }
    return replace(config, **described | chosen | {"architecture": fitting})


def _vae_config(vae: VaeConfig, channels: tuple[int, ...] | None, source: Source) -> VaeConfig:
    try:
        return replace(vae, channels=channels or vae.channels, image_shape=source.image_shape)
    except UserError as error:
        raise UserError(f"{error}: give --vae-images 0 to leave the learned manifold out") from None


def spaces_of(config: RunConfig, source: Source, vaes: tuple[Vae, ...] = ()) -> tuple[Space, ...]:
    """The spaces that models are trained and attacked in: whoever adds a space to runs adds it here."""
    size: dict[str, Any] = {"epsilon": config.latent_epsilon, "norm": config.norm}
    known = (TrueManifold(source, **size),) if isinstance(source, Fonts) else ()
    learned = (LearnedManifold(vaes, **size),) if vaes else ()
    return (
        ImageBall(config.epsilon, config.norm),
        *known,
        *learned,
        Transformations(source.box, epsilon=config.latent_epsilon),
    )


def load_dataset(config: RunConfig, source: Source) -> Dataset:
    """As many images as the largest cell needs.

    Raises
    ------
    UserError : if the dataset is too small.
    """
    return source.dataset(max(config.sizes), config.n_test)


def lay_groundwork(config: RunConfig, store: Store, progress: Progress) -> Groundwork:
    """Load the images, and train the VAEs, oracle and surrogate or take those that the results folder has."""
    source = source_of(config)
    vaes: tuple[Vae, ...] = ()
    oracle = None
    if config.n_vae:
        vaes = _vaes(config, source, store, progress)
        if config.n_oracle:
            oracle = _oracle(config, source, store, progress)
    neighbours = None if config.has_true_manifold else source.dataset(config.n_neighbours, 0).train.images
    surrogate = _surrogate(config, source, store, progress) if config.n_transfer else None
    return Groundwork(load_dataset(config, source), spaces_of(config, source, vaes), oracle, neighbours, surrogate)


def _vaes(config: RunConfig, source: Source, store: Store, progress: Progress) -> tuple[Vae, ...]:
    def epoch_done(entry: VaeLog) -> None:
        progress(f"VAE of {entry.name}: epoch {entry.epoch}/{config.vae.epochs}", vae_epoch_work(config))

    progress("VAEs: training", 0)
    split = source.of_each_class(config.n_vae)
    return class_vaes(split, len(config.classes), config.vae, folder=store.manifolds, progress=epoch_done)


def _oracle(config: RunConfig, source: Source, store: Store, progress: Progress) -> Model:
    settings = OracleConfig()
    architecture = replace(settings.architecture, classes=len(config.classes), image_shape=source.image_shape)
    settings = replace(settings, architecture=architecture)

    def epoch_done(entry: EpochLog) -> None:
        progress(f"oracle: epoch {entry.epoch}/{settings.training.epochs}", oracle_epoch_work(config))

    progress("oracle: training", 0)
    split = source.dataset(config.n_oracle, 0).train
    return train_oracle(split, settings, folder=store.manifolds, progress=epoch_done)


def _surrogate(config: RunConfig, source: Source, store: Store, progress: Progress) -> Model:
    """A normally trained model like those of the grid, from a seed that none of them has."""

    def epoch_done(entry: EpochLog) -> None:
        progress(f"surrogate: epoch {entry.epoch}/{config.epochs}", surrogate_epoch_work(config))

    progress("surrogate: training", 0)
    recipe = Recipe(config.architecture, TrainingConfig((), config.epochs, config.batch_size, config.adam))
    seed = int(generator(0, "surrogate").integers(2**31, 2**32))
    split = source.dataset(config.n_transfer, 0).train
    return train_once("surrogate", recipe, split, seed, store.models, epoch_done)
