"""How much there is to do, for the time that is left.

Work is counted in forward passes of one image through the classifier; the costs were measured, and only
the estimate of the time left depends on them.
"""

from __future__ import annotations

from hlf_np.experiments.config import Cell, RunConfig
from hlf_np.experiments.store import Store
from hlf_np.manifolds import count_vaes
from hlf_np.manifolds.oracle import OracleConfig, has_oracle
from hlf_np.spaces import ImageBall, LearnedManifold, Space, Transformations, TrueManifold
from hlf_np.training import SPACES, Training

# Of one image in one step of an attack.
STEP: dict[type[Space], float] = {ImageBall: 2, TrueManifold: 2.2, Transformations: 2.2, LearnedManifold: 5}
TRAINING, PROJECTION = 3.0, 0.5  # of one image in an update, in one step of a projection
VAE, ORACLE = 3.0, 9.0  # of training them on one image
PROJECTIONS, PROJECTION_STEPS = 3, 100  # regular, on-manifold and clean images
CORRECT = 0.6  # of the images, the rest is not attacked
TAKEN_TRUE, TAKEN_LEARNED = 0.3, 0.5  # of the steps of an attack on a manifold, until the label changes


def epoch_work(config: RunConfig, cell: Cell) -> float:
    """The cost of an epoch."""
    drawn = cell.training is Training.RANDOM_TRANSFORMATIONS
    steps = 0 if drawn else config.training_attack.steps
    spaces = SPACES[cell.training]
    perturbed = sum(0.5 / len(spaces) * steps * STEP[space] for space in spaces)  # half of the images
    return cell.n_train * (TRAINING + perturbed)


def evaluation_work(config: RunConfig, cell: Cell) -> float:
    """The cost of testing and attacking; normally trained models give in to regular attacks after a few steps."""
    regular = STEP[ImageBall] * (0.1 if cell.training is Training.NORMAL else 0.6)
    on_manifold = STEP[TrueManifold] * TAKEN_TRUE if config.has_true_manifold else 0
    on_manifold += STEP[LearnedManifold] * TAKEN_LEARNED if config.n_vae else 0
    steps = config.n_attacked * regular + config.n_attacked_on_manifold * on_manifold
    projected = PROJECTIONS * config.n_projected * (PROJECTION_STEPS * PROJECTION if config.has_true_manifold else 1)
    return config.n_test + CORRECT * config.attack.restarts * config.attack.steps * steps + projected


def vae_epoch_work(config: RunConfig) -> float:
    """The cost of an epoch of one VAE."""
    return config.n_vae * VAE


def oracle_epoch_work(config: RunConfig) -> float:
    """The cost of an epoch of the oracle."""
    return config.n_oracle * ORACLE


def total_work(config: RunConfig, store: Store) -> float:
    """The cost of all cells that are not finished, and of what they need."""
    missing = [cell for cell in config.cells() if not store.has(cell)]
    work = sum(config.epochs * epoch_work(config, cell) + evaluation_work(config, cell) for cell in missing)
    if missing and config.n_vae:
        work += (len(config.classes) - count_vaes(store.manifolds)) * config.vae.epochs * vae_epoch_work(config)
        if not has_oracle(store.manifolds):
            work += OracleConfig().training.epochs * oracle_epoch_work(config)
    return work
