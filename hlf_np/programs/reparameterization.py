"""The drawing of codes between a VAE's encoder and its decoder; see `manifolds.vae`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hlf_np.kernels.training_instructions import Reparameterize, ReparameterizeGradient
from hlf_np.programs.builder import Builder
from hlf_np.programs.values import Node, Value


@dataclass(eq=False)
class Reparameterization(Node):
    """Codes (L,) from means and log variances (2 L,) and noise."""

    source: Value
    target: Value
    noise: Value

    def forward(self, builder: Builder) -> Sequence[Any]:
        posterior, noise, codes = (value.buffer for value in (self.source, self.noise, self.target))
        self._places = Reparameterize(
            latents=self.target.channels, posterior=posterior.origin, posterior_step=posterior.image,
            noise=noise.origin, noise_step=noise.image, codes=codes.origin, codes_step=codes.image,
        )  # fmt: skip
        return [self._places]

    def backward(self, builder: Builder) -> Sequence[Any]:
        self.source.next_finish()
        d_posterior, d_codes = self.source.gradient, self.target.gradient
        return [
            ReparameterizeGradient(
                *self._places[:5], d_posterior=d_posterior.origin, d_posterior_step=d_posterior.image,
                d_codes=d_codes.origin, d_codes_step=d_codes.image,
            )
        ]  # fmt: skip
