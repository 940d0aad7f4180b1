"""Is a VAE any good? Numbers to compare VAEs by, and sheets to look at."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_images
from hlf_np.manifolds.vae import Vae
from hlf_np.operations import gaussian_divergence, reshape
from hlf_np.random import generator
from hlf_np.report.sheets import grid

ACTIVE = 0.1  # nats of KL above which a latent says something


@dataclass(frozen=True)
class Quality:
    """How a VAE treats images; best measured on images that it was not trained on.

    reconstruction_error : mean of sum |x - dec(m(x))|, in pixels.
    average_error : the same if every image were answered by the best single image, the median of them all: what a
        collapsed VAE reaches.
    divergence : mean of KL(q(z | x) || N(0, I)), in nats.
    active_latents : how many of the latents have more than 0.1 nats of it.
    """

    reconstruction_error: float
    average_error: float
    divergence: float
    active_latents: int


def measure(vae: Vae, images: Floats) -> Quality:
    """The quality of a VAE on images (N, H, W, C) of its class; N at least 1."""
    images = check_images(images, vae.config.image_shape)
    average, log_variance = vae.posterior(Tensor(images))
    entries = [reshape(values, (-1, 1)) for values in (average, log_variance)]
    divergences = gaussian_divergence(*entries).data.reshape(average.shape).mean(axis=0)  # (L,)
    errors = np.abs(vae.decode(average.data) - images)
    return Quality(
        float(errors.sum(axis=(1, 2, 3)).mean()),
        float(np.abs(np.median(images, axis=0) - images).sum(axis=(1, 2, 3)).mean()),
        float(divergences.sum()),
        int((divergences > ACTIVE).sum()),
    )


def reconstruction_sheet(vae: Vae, images: Floats, scale: int = 2) -> Image.Image:
    """Images (N, H, W, C) in a row, and their reconstructions below."""
    rows = np.stack([images, vae.decode(vae.encode(images))])
    return grid(rows.mean(axis=-1), scale=scale)


def sample_sheet(vae: Vae, rows: int = 4, columns: int = 12, seed: int = 0, scale: int = 2) -> Image.Image:
    """New images: decoded from codes that are drawn from N(0, I)."""
    shape = (rows * columns, vae.config.latent_dimensions)
    images = vae.decode(generator(seed, "vae samples").standard_normal(shape, np.float32))
    return grid(images.mean(axis=-1).reshape(rows, columns, *images.shape[1:3]), scale=scale)
