"""Perturbations along a manifold that was learned from examples.

The true manifold of a class is known only for data that somebody generated. For all other data it must be
learned: a variational autoencoder of a class (`hlf_np.manifolds.vae`) has an encoder that finds an image's
code z and a decoder dec that turns codes into images of that class. The images of all codes in a box are the
*learned manifold*, a stand-in for the true one.

An on-learned-manifold adversarial example (section 3.2 of the paper) is

    dec(z + zeta),   ||zeta|| <= epsilon,   z + zeta in [-2, 2]^L,

that the classifier gets wrong, where z is the mean of the encoder's Gaussian, clipped into the box. The
codes of training images are about N(0, I), of which 95 % of each entry lie within [-2, 2]: in the box the decoder has
seen codes, beyond it may decode to anything. Epsilon is 0.3 in L_inf as in the paper: a fraction of a standard
deviation in each of the 10 entries.

Two things differ from the true manifold, and both matter when results are read:

- The attack does not start at the image but at its reconstruction dec(z). Where that is bad, so is the example, and
  some succeed before the first step: the classifier gets the reconstruction wrong. `manifolds.quality` measures this.
- Nothing guarantees that dec(z + zeta) still shows the class. A VAE of one class has seen no other letter, so it
  mostly does; `manifolds.oracle` measures how often. An adversarial example whose label changed is not a mistake of the
  classifier.

With one VAE of all classes, `LearnedManifold((vae,) * 10)`, the paper's *class-agnostic* manifold, nothing but
epsilon keeps a code from walking over to the next letter. On FONTS (hard) a VAE of the default size does not even
keep the class while it reconstructs: the oracle recognises only half of its reconstructions, against 95 % with
class-specific VAEs. Attacks there say little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_images, check_labels
from hlf_np.data.dataset import Codes
from hlf_np.errors import UserError
from hlf_np.layers import Layer, Sequential
from hlf_np.manifolds.vae import Vae
from hlf_np.models import Model
from hlf_np.operations import concatenate, take
from hlf_np.programs.compiler import Compiler
from hlf_np.spaces.space import Chart, Compiled, Given, Need, Norm, Space

BOUND = 2.0  # codes stay in [-BOUND, BOUND]
NO_NETWORK = Sequential()


@dataclass(frozen=True)
class LearnedChart(Chart):
    """Codes (N, L) of images, each decoded by the VAE of its class.

    space : whose VAEs they are, one per class; labels : (N,), the class of each code.
    """

    of_images: ClassVar[tuple[str, ...]] = ("start", "labels")

    space: LearnedManifold
    labels: Integers

    def decode(self, codes: Tensor) -> Tensor:
        vaes, present = self.space.vaes, np.unique(self.labels)
        if not len(present):
            return Tensor(np.empty((0, *self.space.image_shape), np.float32))
        groups = [np.flatnonzero(self.labels == label) for label in present]
        decoded = [vaes[label].decoder(take(codes, rows)) for label, rows in zip(present, groups, strict=True)]
        back = np.argsort(np.concatenate(groups))  # where each row has gone
        return take(concatenate(decoded), back)

    def decoded(self, codes: Floats) -> Floats:
        codes = np.asarray(codes, np.float32)
        return self.space.evaluate(codes, [vae.decoder for vae in self.space.vaes], self.labels)

    def compiled(self, model: Model) -> Compiled | None:
        decoders = [vae.decoder for vae in self.space.vaes]
        program = model.program_behind(decoders, self.space.code_shape)
        sources = np.zeros((len(self.labels), 0), np.float32)
        return Compiled(program, self.labels, sources) if program else None


@dataclass(frozen=True)
class LearnedManifold(Space):
    """Perturbations of the latent codes of class-specific VAEs: ||zeta|| <= epsilon, z + zeta in [-2, 2]^L.

    vaes : one per class, in the order of the labels; all of the same sizes.
    epsilon, norm : of the perturbation of z. The paper uses 0.3 for L_inf and for L2.

    Examples
    --------
    >>> from hlf_np.manifolds import VaeConfig
    >>> space = LearnedManifold([Vae(VaeConfig(channels=(4, 4), latent_dimensions=3), seed) for seed in range(10)])
    >>> space.chart(np.zeros((2, 28, 28, 1), np.float32), np.array([3, 7]), None).start.shape
    (2, 3)
    """

    name: ClassVar[str] = "on_learned_manifold"
    attacks: ClassVar[str] = "attacks on the learned manifold"
    option: ClassVar[str] = "learned-manifold"
    needs: ClassVar[Need | None] = Need.LEARNED_MANIFOLD

    vaes: Sequence[Vae]
    _: KW_ONLY
    epsilon: float = 0.3
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {(vae.config.latent_dimensions, vae.config.channels, vae.config.image_shape) for vae in self.vaes}
        if len(sizes) != 1:
            raise UserError(
                "a learned manifold needs one VAE for each class, all of the same latent_dimensions, channels and"
                " image_shape"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.vaes[0].config.image_shape

    @property
    def code_shape(self) -> tuple[int]:
        """(L,)."""
        return (self.vaes[0].config.latent_dimensions,)

    @cached_property
    def _compiler(self) -> Compiler:
        return Compiler()

    def evaluate(self, inputs: Floats, networks: Sequence[Layer], groups: Integers) -> Floats:
        """What the encoders or decoders of the VAEs make of inputs (N, ...), each of a group (N,)."""
        return self._compiler.evaluate(inputs, NO_NETWORK, networks, groups)

    @classmethod
    def of_run(cls, given: Given) -> LearnedManifold:
        return cls(given.vaes, epsilon=given.latent_epsilon, norm=given.norm)

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> LearnedChart:
        """The space around the reconstructions of images; `codes`, of the true manifold, are not used.

        Raises
        ------
        UserError : for bad images, or labels of classes that have no VAE.
        """
        images = check_images(images, self.image_shape)
        labels = check_labels(labels, len(self.vaes), len(images))
        means = self.evaluate(images, [vae.encoder for vae in self.vaes], labels)[:, : self.code_shape[0]]
        bound = np.array([BOUND], np.float32)
        return LearnedChart(np.clip(means, -bound, bound), -bound, bound, self, labels)
