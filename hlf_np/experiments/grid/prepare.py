"""What all cells of a run share: images, spaces, the oracle that judges labels, and the surrogate of transfer attacks.

The VAEs of the learned manifold, the oracle and the surrogate are trained once per results folder and stored in it one
by one, so that an interrupted run resumes at the VAE it had reached. They are trained on the first images of the whole
training set, whatever the number of images in a cell: as in the paper, they represent what is known about the data, not
what a classifier has seen of it. The same holds for the images among which nearest neighbours are searched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hlf_np.data.dataset import Dataset
from hlf_np.data.open_source import open_source
from hlf_np.data.source import Source
from hlf_np.experiments.configuration.config import RunConfig, needs_met
from hlf_np.experiments.storage.store import Store
from hlf_np.manifolds import Vae, VaeConfig, VaeLog, all_classes_vae, class_vaes
from hlf_np.manifolds.distance import NeighbourSearch
from hlf_np.manifolds.oracle import ORACLE, ClassifierConfig, train_once
from hlf_np.models import Model
from hlf_np.models.architectures import Architecture
from hlf_np.random import generator
from hlf_np.spaces import Need, RunContext, Space
from hlf_np.support.errors import UserError
from hlf_np.training import EpochLog, TrainingConfig
from hlf_np.trainings import NORMAL, Training

# Called with a description of the current step, the name of the task, and the share of it done since the last call.
Progress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class SharedModels:
    """The networks that every cell of a run needs.

    Attributes
    ----------
    vaes : tuple of Vae
        The VAEs of the learned manifold, one per class; empty without one.
    data_vae : Vae, optional
        The VAE of the class-agnostic manifold.
    oracle : Model, optional
        The judge of labels.
    surrogate : Model, optional
        The source model of transfer attacks.
    """

    vaes: tuple[Vae, ...] = ()
    data_vae: Vae | None = None
    oracle: Model | None = None
    surrogate: Model | None = None


@dataclass(frozen=True)
class Prepared:
    """What every cell of a run needs.

    Attributes
    ----------
    dataset : Dataset
        The training images of the largest cell, and the test images.
    training_spaces, test_spaces : tuple of Space
        The spaces in which models are trained and attacked, fitted to training and to test images.
    oracle : Model, optional
        The judge of labels.
    neighbours : NeighbourSearch, optional
        Images that approximate the manifold.
    surrogate : Model, optional
        The source model of transfer attacks.
    """

    dataset: Dataset
    training_spaces: tuple[Space, ...]
    test_spaces: tuple[Space, ...]
    oracle: Model | None = None
    neighbours: NeighbourSearch | None = None
    surrogate: Model | None = None


def source_of(config: RunConfig) -> Source:
    """Open the images of a run.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.

    Returns
    -------
    Source
        The source of its images.

    Raises
    ------
    UserError
        If the images are missing, damaged, or no longer those of the configuration.
    """
    declared = config.catalogue.sources
    name, size = (config.dataset, config.image_size or None) if config.path else (None, None)
    is_declared = any(source.name == config.dataset for source in declared)
    difficulty = config.difficulty if config.true_manifold and not is_declared else None
    source = open_source(config.path or config.dataset, name, difficulty, size, config.data_seed, declared)
    if any(getattr(config, entry) != value for entry, value in source.description.items()):
        hint = "restore them, or start a new run"
        if is_declared:
            hint += "; if they are drawn at random, draw them from a generator with a seed"
        raise UserError(f"{config.path or config.dataset!r} contains other images than when this run started: {hint}")
    return source


def fit(
    config: RunConfig,
    source: Source,
    channels: tuple[int, ...] | None = None,
    vae_channels: tuple[int, ...] | None = None,
    **chosen: Any,
) -> RunConfig:
    """Fit a configuration, such as a preset, to a source of images and to the user's choices.

    Values that were not chosen are adapted: there are no more images than the source has, the trainings of plugins are
    added, and those on manifolds that the run does not have are left out. Networks that the run does not use, such as
    the VAEs or the oracle, need not fit the images.

    Parameters
    ----------
    config : RunConfig
        The configuration to start from.
    source : Source
        The images.
    channels : tuple of int, optional
        Channels of the stages of the models, or units of an MLP.
    vae_channels : tuple of int, optional
        Channels of the VAEs.
    **chosen
        Fields of `RunConfig` that the user chose.

    Returns
    -------
    RunConfig
        The configuration of the run.

    Raises
    ------
    UserError
        If choices contradict each other, or a network is too large for the images.
    """
    described = {"prototypes": ""} | source.description
    oracle_fits = min(source.image_shape[:2]) >= ORACLE.architecture.min_image_side
    limits = {"n_vae": source.class_size, "n_oracle": source.train_size if oracle_fits else 0}
    limits |= {"n_neighbours": source.train_size}
    limits |= dict.fromkeys(
        ("n_test", "n_attacked", "n_attacked_on_manifold", "n_unseen", "n_tracked", "n_thorough"), source.test_size
    )
    described |= {name: min(getattr(config, name), limit) for name, limit in limits.items()}
    if described["n_tracked"] == 1:  # it takes two, see `RunConfig`
        described["n_tracked"] = 0
    vae_sizes = (chosen.get(name, described.get(name, 0)) for name in ("n_vae", "n_data_vae"))
    has = needs_met(source.manifold is not None, *map(bool, vae_sizes))
    if has - {Need.TRUE_MANIFOLD}:
        described["vae"] = _vae_config(config.vae, vae_channels, source)
    shape: dict[str, Any] = {"classes": len(source.class_names), "image_shape": source.image_shape}
    architecture: Architecture = chosen.get("architecture", config.architecture)
    architecture = architecture.with_widths(channels, **shape) if channels else replace(architecture, **shape)
    added = replace(config, plugins=chosen.get("plugins", ())).catalogue.added
    described |= {
        "dataset": source.name,
        "data_seed": source.seed,
        "classes": source.class_names,
        "true_manifold": Need.TRUE_MANIFOLD in has,
        "sizes": tuple(size for size in config.sizes if size <= source.train_size) or (source.train_size,),
        "trainings": tuple(t for t in (*config.trainings, *added) if t.needs <= has),
    }
    return replace(config, **described | chosen | {"architecture": architecture})


def _vae_config(vae: VaeConfig, channels: tuple[int, ...] | None, source: Source) -> VaeConfig:
    """Fit the configuration of the VAEs to the images."""
    try:
        return replace(vae, channels=channels or vae.channels, image_shape=source.image_shape)
    except UserError as error:
        raise UserError(f"{error}: use --vae-images 0 to leave the learned manifold out") from None


def spaces_of(
    config: RunConfig, source: Source, vaes: tuple[Vae, ...] = (), data_vae: Vae | None = None
) -> tuple[Space, ...]:
    """Return the spaces in which models are trained and attacked: all declared ones whose needs are met."""
    context = RunContext(source, vaes, config.epsilon, config.latent_epsilon, config.norm, data_vae)
    has = needs_met(source.manifold is not None, bool(vaes), data_vae is not None)
    return tuple(
        space.of_run(context) for space in config.catalogue.spaces if space.needs is None or space.needs in has
    )


def train_shared(config: RunConfig, source: Source, store: Store, progress: Progress) -> SharedModels:
    """Train the VAEs, the oracle and the surrogate of a run, or load them from its results folder.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    source : Source
        Its images.
    store : Store
        Its results folder.
    progress : callable
        Receives the progress of the trainings.

    Returns
    -------
    SharedModels
        The networks.
    """
    vaes: tuple[Vae, ...] = ()
    oracle = surrogate = data_vae = None

    # the folder's configuration has a digest of the images, except for those that a plugin generates
    reuse = all(declared.name != config.dataset for declared in config.catalogue.sources)

    def vae_epoch_done(entry: VaeLog) -> None:
        progress(f"VAE of {entry.name}: epoch {entry.epoch}/{config.vae.epochs}", entry.name, 1 / config.vae.epochs)

    if config.n_vae:
        progress("VAEs: training", "", 0)
        images_of_classes, folder = source.of_each_class(config.n_vae), store.manifolds
        vaes = class_vaes(images_of_classes, len(config.classes), config.vae, 0, folder, vae_epoch_done, reuse)
    if config.n_data_vae:
        images = source.dataset(config.n_data_vae, 0).train.images
        data_vae = all_classes_vae(images, config.vae, 0, store.manifolds, vae_epoch_done, reuse)
    if config.n_vae and config.n_oracle:
        settings, split = oracle_config(config), source.dataset(config.n_oracle, 0).train
        epoch_done = _epoch_progress("oracle", settings.training, progress)
        oracle = train_once("oracle", settings, split, 0, store.manifolds, epoch_done, reuse)
    if config.n_transfer:  # a normally trained model like those of the grid, with a seed that none of them has
        surrogate_config = ClassifierConfig(config.architecture, training_config(config, NORMAL, ()))
        seed, split = int(generator(0, "surrogate").integers(2**31, 2**32)), source.dataset(config.n_transfer, 0).train
        epoch_done = _epoch_progress("surrogate", surrogate_config.training, progress)
        surrogate = train_once("surrogate", surrogate_config, split, seed, store.models, epoch_done)
    return SharedModels(vaes, data_vae, oracle, surrogate)


def assemble(config: RunConfig, source: Source, shared: SharedModels) -> Prepared:
    """Put together what the cells of a run need, from its images and its networks.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    source : Source
        Its images.
    shared : SharedModels
        What `train_shared` returned, here or in another process.

    Returns
    -------
    Prepared
        What all cells share.

    Raises
    ------
    UserError
        If the dataset is too small.
    """
    neighbours = None
    if config.n_neighbours and config.n_projected:
        neighbours = NeighbourSearch(source.dataset(config.n_neighbours, 0).train.images)
    dataset = source.dataset(max(config.sizes), config.n_test)
    for split in (dataset.train, dataset.test):
        for array in split.arrays():
            array.flags.writeable = False  # plugins must not change them
    spaces, test = spaces_of(config, source, shared.vaes, shared.data_vae), dataset.test
    # the images whose codes define the boxes of training
    codes_of = source.of_each_class(config.n_vae) if config.n_vae else dataset.train
    return Prepared(
        dataset,
        tuple(space.fitted(codes_of.images, codes_of.labels) for space in spaces),
        tuple(space.fitted(test.images, test.labels) for space in spaces),
        shared.oracle,
        neighbours,
        shared.surrogate,
    )


def prepare(config: RunConfig, store: Store, progress: Progress) -> Prepared:
    """Do the work of `train_shared` and of `assemble`, with the same parameters."""
    source = source_of(config)
    return assemble(config, source, train_shared(config, source, store, progress))


def _epoch_progress(task: str, training: TrainingConfig, progress: Progress) -> Callable[[EpochLog], None]:
    """Report the start of a training, and return a function that reports each epoch."""
    progress(f"{task}: training", task, 0)
    return lambda entry: progress(f"{task}: epoch {entry.epoch}/{training.epochs}", task, 1 / training.epochs)


def oracle_config(config: RunConfig) -> ClassifierConfig:
    """Return the configuration of the oracle, fitted to the images of a run."""
    shape = config.architecture.image_shape
    return replace(ORACLE, architecture=replace(ORACLE.architecture, classes=len(config.classes), image_shape=shape))


def training_config(config: RunConfig, training: Training, spaces: Sequence[Space]) -> TrainingConfig:
    """Return the settings with which a run trains its models.

    Parameters
    ----------
    config : RunConfig
        The configuration of the run.
    training : Training
        The training.
    spaces : sequence of Space
        The spaces of the run.

    Returns
    -------
    TrainingConfig
        The settings; losses and attacks are copies.
    """
    shares = training.perturbations(spaces, config.training_attack, config.variant)
    # copies, so that losses and attacks with a state start afresh for each model, in any process
    shares = tuple(replace(share, attack=copy.deepcopy(share.attack)) for share in shares)
    samples = training.space(training.samples, spaces) if training.samples else None
    loss = copy.deepcopy(training.loss)
    return TrainingConfig(shares, config.epochs, config.batch_size, config.adam, loss=loss, samples=samples)
