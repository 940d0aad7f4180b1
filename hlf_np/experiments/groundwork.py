"""What all cells of a run share: images, spaces to perturb in, an oracle of labels, a surrogate for transfer attacks.

The learned manifold, the oracle and the surrogate are trained once per results folder and kept in it, file by file, so
that a run which was stopped goes on with the VAE it was at. They are trained on the first images of the whole
training set, whatever the number of images in a cell: as in the paper, they stand for what is known about
the data, not for what a classifier has seen of it. So do the images that stand for the manifold where it is neither
known nor learned: those among which nearest neighbours are sought.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hlf_np.architectures import Architecture
from hlf_np.arrays import Floats
from hlf_np.data.dataset import Dataset
from hlf_np.data.declared import open_source
from hlf_np.data.source import Source
from hlf_np.errors import UserError
from hlf_np.experiments.config import RunConfig, needs_met
from hlf_np.experiments.jobs import Progress
from hlf_np.experiments.store import Store
from hlf_np.manifolds import Vae, VaeConfig, VaeLog, class_vaes
from hlf_np.manifolds.oracle import OracleConfig, Recipe, train_once, train_oracle
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import Given, Need, Space
from hlf_np.training import EpochLog, TrainingConfig
from hlf_np.trainings import NORMAL, Training


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
    UserError : if they are missing, damaged, or no longer those of the configuration.
    """
    declared = config.catalogue.sources
    name, size = (config.dataset, config.image_size or None) if config.path else (None, None)
    generated = config.true_manifold and all(source.name != config.dataset for source in declared)
    difficulty = config.difficulty if generated else None
    source = open_source(config.path or config.dataset, name, difficulty, size, config.data_seed, declared)
    if any(getattr(config, entry) != value for entry, value in source.description.items()):
        raise UserError(
            f"{config.path or config.dataset!r} holds other images than this run began with: put those back, or start"
            " anew"
        )
    return source


def fit(
    config: RunConfig,
    source: Source,
    channels: tuple[int, ...] | None = None,
    vae_channels: tuple[int, ...] | None = None,
    **chosen: Any,
) -> RunConfig:
    """A configuration, such as a preset, made one of this source, with what the user chose.

    Unless they were chosen, it has no more images than there are, the trainings that plugins add, and none on a
    manifold that is not known or not to be learned. What is not used, be it the VAEs or the oracle, need not fit the
    images.

    Raises
    ------
    UserError : for choices that do not go together, and networks that are too large for the images.
    """
    described = {"prototypes": ""} | source.description
    judged = min(source.image_shape[:2]) >= OracleConfig().architecture.smallest_image
    most = {"n_vae": source.class_size, "n_oracle": judged * source.train_size, "n_neighbours": source.train_size}
    most |= dict.fromkeys(("n_test", "n_attacked", "n_attacked_on_manifold"), source.test_size)
    described |= {name: min(getattr(config, name), bound) for name, bound in most.items()}
    has = needs_met(source.manifold is not None, bool(chosen.get("n_vae", described["n_vae"])))
    if Need.LEARNED_MANIFOLD in has:
        described["vae"] = _vae_config(config.vae, vae_channels, source)
    shape: dict[str, Any] = {"classes": len(source.class_names), "image_shape": source.image_shape}
    wanted: Architecture = chosen.get("architecture", config.architecture)
    fitting = wanted.with_widths(channels, **shape) if channels else replace(wanted, **shape)
    added = replace(config, plugins=chosen.get("plugins", ())).catalogue.added
    described |= {
        "dataset": source.name,
        "data_seed": source.seed,
        "classes": source.class_names,
        "true_manifold": Need.TRUE_MANIFOLD in has,
        "sizes": tuple(size for size in config.sizes if size <= source.train_size) or (source.train_size,),
        "trainings": tuple(t for t in (*config.trainings, *added) if t.needs <= has),
    }
    return replace(config, **described | chosen | {"architecture": fitting})


def _vae_config(vae: VaeConfig, channels: tuple[int, ...] | None, source: Source) -> VaeConfig:
    try:
        return replace(vae, channels=channels or vae.channels, image_shape=source.image_shape)
    except UserError as error:
        raise UserError(f"{error}: give --vae-images 0 to leave the learned manifold out") from None


def spaces_of(config: RunConfig, source: Source, vaes: tuple[Vae, ...] = ()) -> tuple[Space, ...]:
    """The spaces that models are trained and attacked in: all that are declared and have what they need."""
    given = Given(source, vaes, config.epsilon, config.latent_epsilon, config.norm)
    has = needs_met(source.manifold is not None, bool(vaes))
    return tuple(space.of_run(given) for space in config.catalogue.spaces if space.needs is None or space.needs in has)


def lay_groundwork(config: RunConfig, store: Store, progress: Progress) -> Groundwork:
    """Load the images, and train the VAEs, oracle and surrogate or take those that the results folder has.

    Raises
    ------
    UserError : if the dataset is too small.
    """
    source = source_of(config)
    vaes: tuple[Vae, ...] = ()
    oracle = surrogate = None
    if config.n_vae:

        def vae_epoch_done(entry: VaeLog) -> None:
            progress(f"VAE of {entry.name}: epoch {entry.epoch}/{config.vae.epochs}", entry.name, 1 / config.vae.epochs)

        progress("VAEs: training", "", 0)
        split = source.of_each_class(config.n_vae)
        vaes = class_vaes(split, len(config.classes), config.vae, folder=store.manifolds, progress=vae_epoch_done)
    if config.n_vae and config.n_oracle:
        settings, split = oracle_config(config), source.dataset(config.n_oracle, 0).train
        epoch_done = _epochs_of("oracle", settings.training, progress)
        oracle = train_oracle(split, settings, folder=store.manifolds, progress=epoch_done)
    neighbours = None if source.manifold else source.dataset(config.n_neighbours, 0).train.images
    if config.n_transfer:  # a model like the normal ones of the grid, from a seed that none of them has
        recipe = Recipe(config.architecture, training_config(config, NORMAL, ()))
        seed, split = int(generator(0, "surrogate").integers(2**31, 2**32)), source.dataset(config.n_transfer, 0).train
        epoch_done = _epochs_of("surrogate", recipe.training, progress)
        surrogate = train_once("surrogate", recipe, split, seed, store.models, epoch_done)
    dataset = source.dataset(max(config.sizes), config.n_test)
    for images in (dataset.train.images, dataset.test.images):
        images.flags.writeable = False  # measurements and attacks of plugins see them, too
    return Groundwork(dataset, spaces_of(config, source, vaes), oracle, neighbours, surrogate)


def _epochs_of(what: str, training: TrainingConfig, progress: Progress) -> Callable[[EpochLog], None]:
    """What passes on how far a training is that begins."""
    progress(f"{what}: training", what, 0)
    return lambda entry: progress(f"{what}: epoch {entry.epoch}/{training.epochs}", what, 1 / training.epochs)


def oracle_config(config: RunConfig) -> OracleConfig:
    """How the oracle of a run is trained."""
    settings, shape = OracleConfig(), config.architecture.image_shape
    fitting = replace(settings.architecture, classes=len(config.classes), image_shape=shape)
    return replace(settings, architecture=fitting)


def training_config(config: RunConfig, training: Training, spaces: Sequence[Space]) -> TrainingConfig:
    """How the models of a training are trained."""
    shares = training.perturbations(spaces, config.training_attack, config.variant)
    # copies: what keeps a state begins anew with each model, in whatever process
    shares = tuple(replace(share, attack=copy.deepcopy(share.attack)) for share in shares)
    return TrainingConfig(shares, config.epochs, config.batch_size, config.adam, loss=copy.deepcopy(training.loss))
