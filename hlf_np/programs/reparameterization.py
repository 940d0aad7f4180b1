"""The sampling of codes between the encoder and the decoder of a VAE; see `models.vae`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hlf_np.kernels.instructions.training import Reparameterize, ReparameterizeGradient
from hlf_np.programs.builder import Builder
from hlf_np.programs.values import Node, Value


@dataclass(eq=False)
class Reparameterization(Node):
    """Codes (L,) from means and log variances (2 L,) and noise (L,)."""

    source: Value
    target: Value
    noise: Value

    def forward(self, builder: Builder) -> Sequence[Any]:
        posterior, noise, codes = (value.buffer for value in (self.source, self.noise, self.target))
        self._forward = Reparameterize(
            latents=self.target.channels, posterior=posterior.origin, posterior_stride=posterior.image,
            noise=noise.origin, noise_stride=noise.image, codes=codes.origin, codes_stride=codes.image,
        )  # fmt: skip
        return [self._forward]

    def backward(self, builder: Builder) -> Sequence[Any]:
        self.source.next_epilogue()
        d_posterior, d_codes = self.source.gradient, self.target.gradient
        return [
            ReparameterizeGradient(
                *self._forward[:5], d_posterior=d_posterior.origin, d_posterior_stride=d_posterior.image,
                d_codes=d_codes.origin, d_codes_stride=d_codes.image,
            )
        ]  # fmt: skip
