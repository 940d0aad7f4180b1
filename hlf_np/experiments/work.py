"""How much there is to do.

Work is counted in forward passes of one image through the paper's CNN; the costs were measured. Only the estimates of
the time that a run takes depend on them.
"""

from __future__ import annotations

import math
from functools import cache

from hlf_np.architectures import DEFAULTS, Architecture, Kind
from hlf_np.experiments.config import Cell, RunConfig
from hlf_np.experiments.store import Store
from hlf_np.manifolds import count_vaes
from hlf_np.manifolds.oracle import OracleConfig, has_oracle
from hlf_np.manifolds.vae import Vae, VaeConfig
from hlf_np.models import Model
from hlf_np.programs.evaluation import Program
from hlf_np.spaces import ImageBall, LearnedManifold, Space, Transformations, TrueManifold
from hlf_np.training import SPACES, Training, Variant

# Of one image in a step of an attack: passes through the classifier, and what the space costs besides, with VAEs of the
# usual size.
PASSES = 2
SPACE: dict[type[Space], float] = {ImageBall: 0, TrueManifold: 0.7, Transformations: 0.7, LearnedManifold: 2.8}
# The share of its steps that an attack takes until the label changes; and where training was against such attacks.
TAKEN: dict[type[Space], float] = {ImageBall: 0.1, TrueManifold: 0.3, LearnedManifold: 0.75}
TAKEN_HARDENED: dict[type[Space], float] = {ImageBall: 0.6, TrueManifold: 0.55, LearnedManifold: 0.75}
AGAINST: dict[type[Space], set[type[Space]]] = {TrueManifold: {TrueManifold, Transformations}}
SLOWNESS = {Kind.CNN: 1.0, Kind.MLP: 1.3, Kind.RESNET: 0.6, Kind.VGG: 1.0}  # of a multiply-add in a pass
TRAINING = {Kind.CNN: 7, Kind.MLP: 9, Kind.RESNET: 11, Kind.VGG: 11}  # passes of one image in an update
AUTODIFF = 4.0  # times as slow is a step that no program knows
PROJECTION, VAE, ORACLE = 0.85, 11.0, 19.0  # of one image in a step of a projection; of training them on one image
WIDENING = 0.8  # a VAE of n times as many multiply-adds costs n to this power: wide layers fill the vectors
PROJECTIONS, PROJECTION_STEPS = 3, 200  # regular, on-manifold and clean images; of both descents


@cache
def pass_work(architecture: Architecture) -> float:
    """The cost of a forward pass."""
    operations, papers = (
        Program(Model(a).network, a.image_shape).operations_per_step for a in (architecture, DEFAULTS[Kind.CNN])
    )
    return SLOWNESS[architecture.kind] * operations / papers


@cache
def vae_size(vae: VaeConfig) -> float:
    """How many times as much as the usual VAE one costs."""
    decoders = (Program(Vae(config).decoder, (config.latent_dimensions,)) for config in (vae, VaeConfig()))
    operations, usual = (decoder.operations_per_step for decoder in decoders)
    return float((operations / usual) ** WIDENING)


def step_work(config: RunConfig, space: type[Space]) -> float:
    """The cost of one step of an attack on one image."""
    size = vae_size(config.vae) if space is LearnedManifold else 1
    return PASSES * pass_work(config.architecture) + SPACE[space] * size


def epoch_work(config: RunConfig, cell: Cell) -> float:
    """The cost of an epoch."""
    spaces = SPACES[cell.training]
    work = TRAINING[config.architecture.kind] * pass_work(config.architecture)
    for space in spaces if cell.training is not Training.RANDOM_TRANSFORMATIONS else ():
        fraction = (1 if config.variant is Variant.FULL else 0.5) / len(spaces)
        taken = TAKEN_HARDENED.get(space, 0.6) if config.variant is Variant.WEAK else 1
        work += fraction * taken * config.training_attack.steps * step_work(config, space)
    return cell.n_train * work


def evaluation_work(config: RunConfig, cell: Cell) -> float:
    """The cost of testing and attacking."""

    def attack(space: type[Space], images: int, training: Training = cell.training) -> float:
        hardened = AGAINST.get(space, {space}) & set(SPACES[training])
        steps = correct * images * config.attack.restarts * config.attack.steps
        return steps * (TAKEN_HARDENED if hardened else TAKEN)[space] * step_work(config, space)

    correct = max(0.1, 1 - 9 / math.sqrt(cell.n_train))  # of the images, the rest is not attacked
    images, on_manifold = config.n_attacked, config.n_attacked_on_manifold
    work = config.n_test * pass_work(config.architecture) + attack(ImageBall, images)
    if config.has_true_manifold:
        work += attack(TrueManifold, on_manifold)
        work += PROJECTIONS * config.n_projected * PROJECTION_STEPS * PROJECTION
    if config.n_vae:
        work += attack(LearnedManifold, on_manifold)
    if config.carlini_wagner:
        work += AUTODIFF * correct * images * config.carlini_wagner.iterations * step_work(config, ImageBall)
    if config.n_transfer:  # the surrogate is a normally trained model
        work += attack(ImageBall, images, Training.NORMAL)
        work += attack(TrueManifold, on_manifold, Training.NORMAL) if config.has_true_manifold else 0
    return work


def cell_work(config: RunConfig, cell: Cell) -> float:
    """The cost of a cell."""
    return config.epochs * epoch_work(config, cell) + evaluation_work(config, cell)


def vae_epoch_work(config: RunConfig) -> float:
    """The cost of an epoch of one VAE."""
    return config.n_vae * VAE * vae_size(config.vae)


def oracle_epoch_work(config: RunConfig) -> float:
    """The cost of an epoch of the oracle."""
    return config.n_oracle * ORACLE


def surrogate_epoch_work(config: RunConfig) -> float:
    """The cost of an epoch of the surrogate."""
    return epoch_work(config, Cell(Training.NORMAL, config.n_transfer, 0))


def total_work(config: RunConfig, store: Store) -> float:
    """The cost of all cells that are not finished, and of what they need."""
    missing = [cell for cell in config.cells() if not store.has(cell)]
    work = sum(cell_work(config, cell) for cell in missing)
    if missing and config.n_vae:
        work += (len(config.classes) - count_vaes(store.manifolds)) * config.vae.epochs * vae_epoch_work(config)
        if not has_oracle(store.manifolds):
            work += OracleConfig().training.epochs * oracle_epoch_work(config)
    if missing and config.n_transfer and not any(store.models.glob("surrogate-*.npz")):
        work += config.epochs * surrogate_epoch_work(config)
    return work
