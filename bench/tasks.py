"""Tasks of `compare.py`: their names, settings, networks and random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = 40  # of attacks
EPSILON = 0.3  # radius of attacks
STEP_SIZE = 0.0075  # of attacks
BETA = 6.0  # weight of the robust term of TRADES

ATTACKS = {  # name: (architecture, images, steps)
    "attack-cnn-100": ("cnn", 100, STEPS),
    "attack-cnn-1000": ("cnn", 1000, STEPS),
    "attack-mlp-100": ("mlp", 100, STEPS),
    "attack-mlp-1000": ("mlp", 1000, STEPS),
    "attack-resnet16-96": ("resnet16", 96, 10),
    "attack-resnet64-24": ("resnet64", 24, 10),
    "attack-vgg-24": ("vgg", 24, 10),
}
OTHERS = (
    "train-cnn-100",
    "adversarial-epoch-1000",
    "trades-epoch-1000",
    "warp-1000",
    "attack-warp-cnn-500",
    "attack-decoder-cnn-500",
    "train-vae-25",
    "train-vae-100",
)
LATENT_DIMENSIONS = 10  # of the VAE
TASKS = (*ATTACKS, *OTHERS)

Task = Callable[[], object]


def make_model(architecture: str) -> Any:
    """Create a model of this package."""
    from hlf_np import models

    makers = {
        "cnn": models.cnn,
        "mlp": models.mlp,
        "resnet16": lambda: models.resnet(widths=(16, 32, 64)),
        "resnet64": models.resnet,
        "vgg": models.vgg,
    }
    return makers[architecture]()


def make_vae(batch_size: int = 25) -> Any:
    """Create a VAE of this package."""
    from hlf_np.models.vae import Vae, VaeConfig

    return Vae(VaeConfig(latent_dimensions=LATENT_DIMENSIONS, batch_size=batch_size))


def random_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw random images, shape (count, 28, 28, 1), and labels, shape (count,)."""
    random = np.random.default_rng(0)
    return random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count)


def random_affine_parameters(count: int) -> np.ndarray:
    """Draw the parameters of random affine maps, shape (count, 6)."""
    from hlf_np.data.fonts import BOXES, Difficulty

    return BOXES[Difficulty.HARD].sample(np.random.default_rng(1), count)
