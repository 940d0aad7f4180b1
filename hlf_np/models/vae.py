"""Variational autoencoders (VAEs): a manifold of images, learned from examples.

What a VAE is
    Images of a letter fill a tiny part of the space of all grey 28x28 images: a *manifold*, a curved surface of low
    dimension. A VAE learns a parameterisation of it. The *decoder* dec maps a code z in R^L, L = 10, to an image; the
    *encoder* maps an image to a Gaussian over codes, q(z | x) = N(m(x), s(x)^2): the position of the image on the
    manifold, with its uncertainty. Over all images, the codes should follow N(0, I), so that a code drawn from N(0, I)
    decodes to a new image.

What is minimised
    The likelihood p(x) = integral p(x | z) p(z) dz cannot be computed, but it has a lower bound (the *evidence lower
    bound*, ELBO):

        log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || N(0, I))

    The difference is KL(q(z | x) || p(z | x)), so the bound is tight if the encoder gives the true posterior. If
    p(x | z) is a Laplace distribution around dec(z) with scale 1 / lambda, the negative bound is, up to a constant, the
    loss:

        lambda * sum_pixels |x - dec(z)| + KL(q(z | x) || N(0, I))

    Both terms are sums for each image, over pixels and over latents; the loss of a batch is the mean over its images.
    Lambda is the exchange rate: one nat of KL must save 1 / lambda of summed absolute error.

The reparameterisation trick
    z is random, and no gradient flows through sampling. But z = m + s * noise with noise from N(0, I) has the same
    distribution and is differentiable with respect to m and s: the randomness has become an input.

Posterior collapse
    If lambda is too small, the cheapest code carries no information: m = 0 and s = 1 for every image, KL 0, and the
    same blurred average for all. (A single collapsed latent is harmless: it was not needed.) If lambda is too large,
    the codes of different images lie so far apart that samples of N(0, I) fall between them and decode to no letter.

How to recognise a good VAE
    `manifolds.quality.measure` returns the reconstruction error and the KL: the error should be far below that of one
    average image, the KL above zero in most latents. As the two can be traded for each other, look at images, too; a
    run's report shows reconstructions (do they show the same letter, equally sharp?) and samples decoded from N(0, I)
    (are they letters, and diverse?).

References: Kingma and Welling, 2014; Higgins et al., 2017 (the weight).
"""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hlf_np import layers as nn
from hlf_np import operations
from hlf_np.autodiff import Tensor
from hlf_np.models import weights
from hlf_np.optim import AdamConfig
from hlf_np.programs.compiler import Compiler
from hlf_np.programs.structure import structure
from hlf_np.random import generator
from hlf_np.support.arrays import Floats
from hlf_np.support.checks import (
    check_fields,
    check_image_shape,
    check_images,
    check_positive,
    check_sizes,
    redefines,
    store_counts,
)
from hlf_np.support.errors import UserError
from hlf_np.support.serialization import from_builtins


@dataclass(frozen=True)
class VaeConfig:
    """The architecture of a VAE and the settings of its training.

    The defaults are chosen for FONTS (hard) with 10,000 images per class; lambda and the epochs are those of the paper,
    which has lambda 2.75 on Fashion-MNIST and 2.25 or 2.5 on EMNIST. The reconstruction error of test images is then 20
    (I) to 45 (E) pixels, against 74 to 139 for one average image, at 22 to 27 nats. Attacks on this manifold succeed
    for 63 % of the images that a CNN trained on 1000 images classifies correctly. The oracle assigns 96 % of the
    attacked images, and 68 % of samples decoded from N(0, I), to their class.

    With lambda 1 and 5 epochs, letters are blurred (errors of 28 to 56) and classifiers learn less from them; samples
    are then slightly better (74 %). Twenty epochs at lambda 5, or twice as many channels, bring hardly any improvement.
    For the same number of images, many small steps teach more than a few large ones.

    Parameters
    ----------
    channels : tuple of int
        Output channels of the encoder's convolutions; the decoder has them in reverse.
    latent_dimensions : int
        L, the dimension of a code.
    reconstruction_weight : float
        lambda, positive, in nats per unit of summed absolute error.
    epochs : int
        Number of passes over the data.
    batch_size : int
        Images per update.
    adam : AdamConfig
        The settings of the optimiser.
    image_shape : tuple of int
        (H, W, C) with H = W.

    Raises
    ------
    UserError
        If a setting is out of range, or images are not square or too small for the convolutions.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    latent_dimensions: int = 10
    reconstruction_weight: float = 3.0
    epochs: int = 10
    batch_size: int = 25
    adam: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.01, decay=0.75))
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "channels", check_sizes("channels", self.channels))
        object.__setattr__(self, "image_shape", check_image_shape(self.image_shape))
        store_counts(self, latent_dimensions=1, epochs=0, batch_size=1)
        check_positive("reconstruction_weight", self.reconstruction_weight)
        height, width, _ = self.image_shape
        if not self.channels or height != width or height < 2 ** len(self.channels):
            raise UserError(
                f"a VAE with {len(self.channels)} convolutions needs square images of at least"
                f" {2 ** len(self.channels)} pixels a side, not {height}x{width}"
            )

    @property
    def sides(self) -> list[int]:
        """The side length of the image and of the output of each convolution: 28, 14, 7, 3."""
        sides = [self.image_shape[0]]
        for _ in self.channels:
            sides.append(sides[-1] // 2)
        return sides


def _encoder(config: VaeConfig, random: nn.RandomSource) -> nn.Sequential:
    """Return a network from images (N, H, W, C) to (N, 2 L): the means, then the log variances, of their codes."""
    layers: list[nn.Layer] = []
    channels = config.image_shape[2]
    for out_channels in config.channels:  # 28 -> 14 -> 7 -> 3
        layers += [nn.Convolution(channels, out_channels, random), nn.BatchNorm(out_channels), nn.ReLU()]
        channels = out_channels
    features = channels * config.sides[-1] ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 2 * config.latent_dimensions, random))


def _decoder(config: VaeConfig, random: nn.RandomSource) -> nn.Sequential:
    """Return a network from codes (N, L) to images (N, H, W, C): the encoder in reverse."""
    widths = [*reversed(config.channels), config.image_shape[2]]
    sides = config.sides[::-1]
    layers: list[nn.Layer] = [
        nn.Linear(config.latent_dimensions, widths[0] * sides[0] ** 2, random),
        nn.Unflatten(sides[0], sides[0]),
    ]
    for channels, out_channels, side, out_side in zip(widths, widths[1:], sides, sides[1:], strict=False):
        # 3 -> 7 -> 14 -> 28; 3 doubled is 6, padded to 7
        doubling = nn.TransposedConvolution(channels, out_channels, random, output_padding=out_side - 2 * side)
        layers += [nn.BatchNorm(channels), nn.ReLU(), doubling]
    return nn.Sequential(*layers, nn.Sigmoid())


class Vae(weights.Weights, nn.Layer):
    """A variational autoencoder. `train_vae` returns a trained one, `load_vae` reads one from a file.

    As a layer, it maps images to their reconstructions from the mean codes.

    Parameters
    ----------
    config : VaeConfig
        Its architecture.
    seed : int
        Seed of the initial weights.
    random : RandomSource, optional
        Source of the initial weights, instead of `seed`.
    """

    def __init__(self, config: VaeConfig, seed: int = 0, random: nn.RandomSource | None = None) -> None:
        super().__init__()
        self.config = config
        random = random or generator(seed, "vae initialisation")
        self.encoder, self.decoder = _encoder(config, random), _decoder(config, random)
        self._compiler = Compiler()

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        """Reconstruct images (N, H, W, C) from their mean codes."""
        mean, _ = self.posterior(x, training)
        return self.decoder(mean, training)

    def posterior(self, images: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Compute the Gaussians q(z | x) of the codes of images.

        Parameters
        ----------
        images : Tensor, shape (N, H, W, C)
            Images in [0, 1].
        training : bool
            Training mode instead of evaluation mode, see `layers`.

        Returns
        -------
        mean : Tensor, shape (N, L)
            The means.
        log_variance : Tensor, shape (N, L)
            The logarithms of the variances.
        """
        outputs = self.encoder(images, training)  # (N, 2 L)
        latents = self.config.latent_dimensions
        return operations.columns(outputs, 0, latents), operations.columns(outputs, latents, 2 * latents)

    def encode(self, images: Floats) -> Floats:
        """Compute the mean codes of images, in evaluation mode.

        Parameters
        ----------
        images : ndarray of floats, shape (N, H, W, C)
            Images in [0, 1].

        Returns
        -------
        ndarray of float32, shape (N, L)
            Their mean codes m(x).

        Raises
        ------
        UserError
            If images have another shape or type, or values outside [0, 1] or not finite.
        """
        images = check_images(images, self.config.image_shape)
        if redefines(self, Vae, "posterior"):
            return self.posterior(Tensor(images))[0].data
        return self._compiler.evaluate(images, self.encoder)[:, : self.config.latent_dimensions]

    def decode(self, codes: Floats) -> Floats:
        """Compute the images of codes, in evaluation mode.

        Parameters
        ----------
        codes : array_like, shape (N, L)
            Codes; converted to float32.

        Returns
        -------
        ndarray of float32, shape (N, H, W, C)
            Images in [0, 1].

        Raises
        ------
        UserError
            If codes have another shape.
        """
        codes = np.asarray(codes, np.float32)
        if codes.ndim != 2 or codes.shape[1] != self.config.latent_dimensions:
            raise UserError(f"codes must have shape (N, {self.config.latent_dimensions}), not {codes.shape}")
        return self._compiler.evaluate(codes, self.decoder)

    @property
    def _network_and_kind(self) -> tuple[nn.Layer, str]:
        return self, "VAE"

    def as_bytes(self) -> bytes:
        if structure(self) != structure(Vae(self.config)):
            raise UserError("a changed VAE cannot be saved: save its state_dict() with numpy.savez")
        return weights.as_bytes(self, vae=asdict(self.config))


def load_vae(path: str | os.PathLike[str]) -> Vae:
    """Load a VAE from a file written by `Vae.save`.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Vae
        The VAE.

    Raises
    ------
    UserError
        If the file is missing, damaged or not a VAE file.
    """

    def build(descriptions: dict[str, Any], random: nn.RandomSource) -> Vae:
        return Vae(from_builtins(VaeConfig, descriptions["vae"]), random=random)

    return weights.load(path, build, "VAE", "delete it to train it anew")
