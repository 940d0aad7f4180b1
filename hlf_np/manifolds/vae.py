"""A variational autoencoder: a manifold of images that is learned from examples.

What it is
    Images of a letter fill a tiny part of all 28x28 grey images: a *manifold*, a curved surface of few dimensions.
    A VAE learns a map onto it. The *decoder* dec turns a code z of L = 10 numbers into an image; the *encoder* turns
    an image into a Gaussian over codes, q(z | x) = N(m(x), s(x)^2), which says where on the manifold the image lies
    and how sure that is. The codes of all images together are to be N(0, I), so that a code drawn from N(0, I)
    decodes to a new image.

What is minimised
    The likelihood p(x) = integral p(x | z) p(z) dz cannot be computed, but bounded from below (the *evidence lower
    bound*, ELBO)::

        log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || N(0, I))

    The difference is KL(q(z | x) || p(z | x)), so the bound is tight where the encoder is right. With p(x | z) a
    Laplace distribution around dec(z) of width 1 / lambda, the negative bound is up to a constant the loss::

        lambda * sum_pixels |x - dec(z)| + KL(q(z | x) || N(0, I))

    Both terms are sums, over pixels and over latents, for each image; a batch's loss is the mean over its images.
    Lambda is their exchange rate: one nat of KL must save 1 / lambda of summed absolute error.

The reparameterisation trick
    z is random, and no gradient flows through drawing it. But z = m + s * noise with noise from N(0, I) has the same
    distribution, and is differentiable in m and s: the randomness has become an input.

Posterior collapse
    Where lambda is too small, the cheapest code says nothing: m = 0 and s = 1 for every image, KL 0, and one blurred
    average for all. (A single latent that does so is harmless: it was not needed.) Where lambda is too large, the
    codes of different images lie so far apart that draws from N(0, I) fall between them, and decode to no letter.

How to tell a good one
    `quality.measure` gives the reconstruction error and the KL: the error should be far below that of one average
    image for all, the KL above zero in most latents. They can be traded for each other, so also look:
    `quality.reconstruction_sheet` (is it the same letter, as sharp as before?) and `quality.sample_sheet` (are draws
    from N(0, I) letters at all, and various?).

Sources: Kingma and Welling, 2014; Higgins et al., 2017 (the weight).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hlf_np import layers as nn
from hlf_np import operations, weights
from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_count, check_images, check_positive
from hlf_np.errors import UserError
from hlf_np.optim import AdamConfig
from hlf_np.plain import from_plain
from hlf_np.programs.compiler import Compiler
from hlf_np.random import generator


@dataclass(frozen=True)
class VaeConfig:
    """What a VAE looks like and how it is trained.

    The defaults are chosen for FONTS (hard) with 10,000 images of each class; lambda and the epochs are the paper's.
    Test images come back with an error of 20 (I) to 45 (E) pixels, where one average image for all has 74 to 139, at
    22 to 27 nats. Attacks on this manifold succeed against a CNN trained on 1000 images for 63 % of what it classifies
    correctly. The oracle assigns 96 % of the attacked images to their class, and 68 % of draws from N(0, I).

    A lambda of 1 and 5 epochs blur the letters (errors of 28 to 56), and classifiers learn less from them; draws are
    then a little better (74 %). Twenty epochs at lambda 5, or twice as many channels, are hardly better. Per image,
    many small steps teach more than few large ones.

    channels : of the encoder's convolutions; the decoder has them in reverse.
    latent_dimensions : L, how many numbers a code has.
    reconstruction_weight : lambda, positive, nats per unit of summed absolute error.
    epochs, batch_size : passes over the data, images per update.
    adam : the optimiser.
    image_shape : (H, W, C) with H = W.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    latent_dimensions: int = 10
    reconstruction_weight: float = 3.0
    epochs: int = 10
    batch_size: int = 25
    adam: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.01, decay=0.75))
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def __post_init__(self) -> None:
        for size in (*self.channels, *self.image_shape):
            check_count("a VAE's channels and image sizes", size)
        for name, least in (("latent_dimensions", 1), ("epochs", 0), ("batch_size", 1)):
            check_count(name, getattr(self, name), least)
        check_positive("reconstruction_weight", self.reconstruction_weight)
        height, width, _ = self.image_shape
        if not self.channels or height != width or height < 2 ** len(self.channels):
            raise UserError(
                f"a VAE of {len(self.channels)} convolutions needs square images of at least"
                f" {2 ** len(self.channels)} pixels a side, not {height}x{width}"
            )

    @property
    def sides(self) -> list[int]:
        """The side of the image, and of what each convolution makes of it: 28, 14, 7, 3."""
        sides = [self.image_shape[0]]
        for _ in self.channels:
            sides.append(sides[-1] // 2)
        return sides


def _encoder(config: VaeConfig, random: nn.Draws) -> nn.Sequential:
    """Images (N, H, W, C) to (N, 2 L): the means, then the log variances, of their codes."""
    layers: list[nn.Layer] = []
    channels = config.image_shape[2]
    for out_channels in config.channels:  # 28 -> 14 -> 7 -> 3
        layers += [nn.Convolution(channels, out_channels, random), nn.BatchNorm(out_channels), nn.ReLU()]
        channels = out_channels
    features = channels * config.sides[-1] ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 2 * config.latent_dimensions, random))


def _decoder(config: VaeConfig, random: nn.Draws) -> nn.Sequential:
    """Codes (N, L) to images (N, H, W, C): the encoder backwards."""
    widths = [*reversed(config.channels), config.image_shape[2]]
    sides = config.sides[::-1]
    layers: list[nn.Layer] = [
        nn.Linear(config.latent_dimensions, widths[0] * sides[0] ** 2, random),
        nn.Unflatten(sides[0], sides[0]),
    ]
    for channels, out_channels, side, out_side in zip(widths, widths[1:], sides, sides[1:], strict=False):
        # 3 -> 7 -> 14 -> 28; 3 doubled is 6, and padded to 7
        doubling = nn.TransposedConvolution(channels, out_channels, random, output_padding=out_side - 2 * side)
        layers += [nn.BatchNorm(channels), nn.ReLU(), doubling]
    return nn.Sequential(*layers, nn.Sigmoid())


class Vae(weights.Weights, nn.Layer):
    """A variational autoencoder. Get a trained one from `train_vae`, or from a file with `load_vae`.

    As a layer it takes images to the reconstructions from their mean codes.
    """

    def __init__(self, config: VaeConfig, seed: int = 0, draws: nn.Draws | None = None) -> None:
        """`draws` : where the initial weights come from, if not from `seed`."""
        super().__init__()
        self.config = config
        random = draws or generator(seed, "vae initialisation")
        self.encoder, self.decoder = _encoder(config, random), _decoder(config, random)
        self._compiler = Compiler()

    def children(self) -> Mapping[str, nn.Layer]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        average, _ = self.posterior(x, training)
        return self.decoder(average, training)

    def posterior(self, images: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Means and log variances, (N, L) each, of the codes of images (N, H, W, C)."""
        both = self.encoder(images, training)
        latents = self.config.latent_dimensions
        return operations.columns(both, 0, latents), operations.columns(both, latents, 2 * latents)

    def encode(self, images: Floats) -> Floats:
        """The mean codes (N, L) of images (N, H, W, C) in [0, 1], in evaluation mode.

        Raises
        ------
        UserError : for images of another shape or type, outside [0, 1] or not finite.
        """
        images = check_images(images, self.config.image_shape)
        return self._compiler.evaluate(images, self.encoder)[:, : self.config.latent_dimensions]

    def decode(self, codes: Floats) -> Floats:
        """The images (N, H, W, C) in [0, 1] of codes (N, L), float32, in evaluation mode.

        Raises
        ------
        UserError : for codes of another shape.
        """
        codes = np.asarray(codes, np.float32)
        if codes.ndim != 2 or codes.shape[1] != self.config.latent_dimensions:
            raise UserError(f"codes must have shape (N, {self.config.latent_dimensions}), not {codes.shape}")
        return self._compiler.evaluate(codes, self.decoder)

    @property
    def _weighted(self) -> tuple[nn.Layer, str]:
        return self, "VAE"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write config and weights to an `.npz` file, whole or not at all."""
        weights.save(path, "vae", self.config, self)


def load_vae(path: str | os.PathLike[str]) -> Vae:
    """A VAE from a file that `Vae.save` wrote.

    Raises
    ------
    UserError : if the file is missing, truncated, or something else.
    """

    def blank(description: Any, draws: nn.Draws) -> Vae:
        return Vae(from_plain(VaeConfig, description), draws=draws)

    return weights.load(path, "vae", blank, "VAE", "delete it to train it anew")
