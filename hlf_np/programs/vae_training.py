"""The compiled training of a variational autoencoder."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hlf_np.kernels.instructions.training import VaeLoss
from hlf_np.layers import Layer
from hlf_np.optim import AdamConfig
from hlf_np.programs.builder import Builder
from hlf_np.programs.graph import Graph
from hlf_np.programs.reparameterization import Reparameterization
from hlf_np.programs.training import TrainingProgram
from hlf_np.programs.values import Value
from hlf_np.support.arrays import Floats, flat_rows
from hlf_np.support.errors import UserError


class VaeSettings(Protocol):
    """The fields of `models.vae.VaeConfig` that its compiled training uses."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def latent_dimensions(self) -> int: ...

    @property
    def reconstruction_weight(self) -> float: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def adam(self) -> AdamConfig: ...


class VaeTraining(TrainingProgram):
    """The compiled training of a variational autoencoder; see `models.vae`.

    Parameters
    ----------
    vae : Layer
        A layer whose children are the encoder and the decoder.
    config : VaeSettings
        The settings.
    """

    def __init__(self, vae: Layer, config: VaeSettings) -> None:
        encoder, decoder = vae.children().values()
        self.weight, self.latents = config.reconstruction_weight, config.latent_dimensions
        noise = Value(1, 1, config.latent_dimensions)
        graph = Graph(encoder, config.image_shape, config.batch_size)
        self.posterior = graph.output
        codes = graph.add(Reparameterization(self.posterior, graph.value(*noise.shape), noise))
        graph.output, graph.output_shape = codes, (config.latent_dimensions,)
        graph.append(decoder)
        super().__init__(vae, graph, noise, config.adam, config.batch_size)

    def step(self, images: Floats, noise: Floats, learning_rate: float) -> tuple[Floats, Floats]:
        """Take one step of Adam on a batch.

        Parameters
        ----------
        images : ndarray of float32, shape (N, H, W, C)
            The batch.
        noise : ndarray of float32, shape (N, L)
            Drawn from N(0, I).
        learning_rate : float
            The step size.

        Returns
        -------
        errors, divergences : ndarray of float32, shape (N,)
            Summed absolute error and KL divergence of each image, before the step.
        """
        if (images.shape[1:], noise.shape) != (self.image_shape, (len(images), self.latents)):
            raise UserError(f"images {images.shape} and noise {noise.shape} do not fit the VAE, or each other")
        results = self.gradients(flat_rows(images), noise)
        self.update(learning_rate)
        return results[:, 0].copy(), results[:, 1].copy()

    def random_targets(self, random: np.random.Generator, count: int) -> Floats:
        return random.standard_normal((count, self.latents), np.float32)

    def _loss(self, graph: Graph, builder: Builder, targets: Value, results: Value) -> VaeLoss:
        x, y, g = graph.input.buffer, graph.output.buffer, graph.output.gradient
        posterior, to = self.posterior.buffer, results.buffer
        return VaeLoss(
            rows=x.height, row_size=x.width * x.channels, y=y.origin, y_row_stride=y.row, y_stride=y.image, x=x.origin,
            x_row_stride=x.row, x_stride=x.image, g=g.origin, g_row_stride=g.row, g_stride=g.image,
            weight=builder.constant(self.weight), latents=targets.channels, posterior=posterior.origin,
            posterior_stride=posterior.image, results=to.origin, results_stride=to.image,
        )  # fmt: skip
