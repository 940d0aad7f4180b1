"""The quality of a VAE: reconstruction error, KL divergence and active latents."""

from dataclasses import dataclass

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.models.vae import Vae
from hlf_np.operations import gaussian_divergence, reshape
from hlf_np.support.arrays import Floats
from hlf_np.support.checks import check_images

ACTIVE_LATENT_NATS = 0.1  # a latent whose mean KL is larger carries information about the image


@dataclass(frozen=True)
class Quality:
    """The quality of a VAE on some images, preferably images that it was not trained on.

    Attributes
    ----------
    reconstruction_error : float
        Mean over images of sum_pixels |x - dec(m(x))|, in pixels.
    average_error : float
        The same if every reconstruction were the best constant image, the median of all images: the error of a
        collapsed VAE.
    divergence : float
        Mean over images of KL(q(z | x) || N(0, I)), in nats.
    active_latents : int
        Number of latents that contribute more than 0.1 nats to the divergence.
    """

    reconstruction_error: float
    average_error: float
    divergence: float
    active_latents: int


def measure(vae: Vae, images: Floats) -> Quality:
    """Measure the quality of a VAE.

    Parameters
    ----------
    vae : Vae
        The autoencoder, in evaluation mode.
    images : ndarray of floats, shape (N, H, W, C)
        At least one image of its class, in [0, 1].

    Returns
    -------
    Quality
        The measurements.

    Raises
    ------
    UserError
        If the images are invalid.
    """
    images = check_images(images, vae.config.image_shape)
    average, log_variance = vae.posterior(Tensor(images))
    entries = [reshape(values, (-1, 1)) for values in (average, log_variance)]
    divergences = gaussian_divergence(*entries).data.reshape(average.shape).mean(axis=0)  # (L,)
    errors = np.abs(vae.decode(average.data) - images)
    return Quality(
        float(errors.sum(axis=(1, 2, 3)).mean()),
        float(np.abs(np.median(images, axis=0) - images).sum(axis=(1, 2, 3)).mean()),
        float(divergences.sum()),
        int((divergences > ACTIVE_LATENT_NATS).sum()),
    )
