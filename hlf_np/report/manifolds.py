"""The learned manifold to look at: do its images show their classes, and does it keep them apart?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.data.dataset import Split
from hlf_np.experiments.config import RunConfig
from hlf_np.experiments.groundwork import source_of
from hlf_np.experiments.store import Store
from hlf_np.manifolds import Vae, count_vaes, stored_vaes
from hlf_np.manifolds.oracle import labels_kept, stored_oracle
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.report.pictures import Picture, Section, png_of
from hlf_np.report.sheets import grid
from hlf_np.spaces import LearnedManifold

IMAGES, ROWS = 3, 6  # of each class: test images and their reconstructions; rows of each sheet
JUDGED = 1000  # test images that the oracle itself is judged by
SCALE = 2


def draw_manifolds(store: Store) -> list[Picture]:
    """Reconstructions and samples of a run's VAEs, once all of them are trained."""
    classes = store.config.classes
    if count_vaes(store.manifolds) < len(classes):
        return []
    vaes = stored_vaes(store.manifolds, len(classes))
    source = source_of(store.config)
    test = source.dataset(0, min(JUDGED, source.test_size)).test
    return [
        Picture(
            Section.MANIFOLD,
            "vae_reconstructions",
            f"{_learned(store.config, classes)} Rows of test images, which they were not trained on, and below each its"
            f" reconstruction.{_judge(stored_oracle(store.manifolds), vaes, test, store.config)}",
            "A sheet of images, in every second row blurred versions of the images above.",
            png_of(grid(_reconstructions(vaes, test), scale=SCALE)),
        ),
        Picture(
            Section.MANIFOLD,
            "vae_samples",
            "Images of the learned manifold: decoded from codes drawn from N(0, I), one column for each class.",
            "A sheet of images that the autoencoders made up, one column for each class.",
            png_of(grid(_samples(vaes), scale=SCALE)),
        ),
    ]


def _learned(config: RunConfig, classes: Sequence[str]) -> str:
    """How the manifold was learned."""
    up_to = "" if config.true_manifold else "up to "  # classes of FONTS are equally frequent
    return (
        f"The learned manifold is the images of {len(classes)} variational autoencoders, one for each class, with"
        f" {config.vae.latent_dimensions} latents; each was trained on {up_to}{config.n_vae} images for"
        f" {config.vae.epochs}"
        " epochs."
    )


def _judge(oracle: Model | None, vaes: Sequence[Vae], test: Split, config: RunConfig) -> str:
    """What the oracle is, and how far it can be trusted."""
    if oracle is None:
        return ""
    chart = LearnedManifold(vaes).chart(test.images, test.labels, None)
    reconstructions = chart.decoded(chart.start)
    right, reconstructed = (labels_kept(oracle, images, test.labels) for images in (test.images, reconstructions))
    return (
        f" Labels kept: the share of attacked images that an oracle assigns to their class after the attack. It is a"
        f" larger classifier, trained on {config.n_oracle} images; it assigns {right:.3f} of {len(test)} clean test"
        f" images to their class, and {reconstructed:.3f} of their reconstructions."
    )


def _reconstructions(vaes: Sequence[Vae], test: Split) -> Floats:
    """(ROWS, classes, H, W): test images and their reconstructions in turn."""
    columns = []
    for label, vae in enumerate(vaes):
        images = test.images[test.labels == label][:IMAGES]
        images = np.concatenate([images, np.zeros_like(test.images, shape=(IMAGES - len(images), *images.shape[1:]))])
        pairs = np.stack([images, vae.decode(vae.encode(images))], axis=1)  # (IMAGES, 2, H, W, C)
        columns.append(pairs.reshape(-1, *images.shape[1:]).mean(axis=-1))
    return np.stack(columns, axis=1)


def _samples(vaes: Sequence[Vae]) -> Floats:
    """(ROWS, classes, H, W)."""
    random = generator(0, "sheet of samples")
    codes = [random.standard_normal((ROWS, vae.config.latent_dimensions), np.float32) for vae in vaes]
    return np.stack([vae.decode(z).mean(axis=-1) for vae, z in zip(vaes, codes, strict=True)], axis=1)
