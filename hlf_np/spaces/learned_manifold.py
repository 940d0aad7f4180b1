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

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_labels
from hlf_np.data.dataset import Codes
from hlf_np.errors import UserError
from hlf_np.manifolds.vae import Vae
from hlf_np.models import Model
from hlf_np.operations import concatenate, take
from hlf_np.spaces.space import Chart, Compiled, Norm, Space

BOUND = 2.0  # codes stay in [-BOUND, BOUND]


@dataclass(frozen=True)
class LearnedChart(Chart):
    """Codes (N, L) of images, each decoded by the VAE of its class.

    vaes : one per class; labels : (N,), the class of each code.
    """

    vaes: Sequence[Vae]
    labels: Integers

    def decode(self, codes: Tensor) -> Tensor:
        present = np.unique(self.labels)
        if not len(present):
            return Tensor(np.empty((0, *self.vaes[0].config.image_shape), np.float32))
        groups = [np.flatnonzero(self.labels == label) for label in present]
        decoded = [self.vaes[label].decoder(take(codes, rows)) for label, rows in zip(present, groups, strict=True)]
        back = np.argsort(np.concatenate(groups))  # where each row has gone
        return take(concatenate(decoded), back)

    def decoded(self, codes: Floats) -> Floats:
        images = np.empty((len(codes), *self.vaes[0].config.image_shape), np.float32)
        for label in np.unique(self.labels):
            images[self.labels == label] = self.vaes[label].decode(codes[self.labels == label])
        return images

    def compiled(self, model: Model) -> Compiled:
        shape = (1, 1, self.start.shape[1])
        programs = [model.program_behind(vae.decoder, shape) for vae in self.vaes]
        return Compiled(programs, self.labels, np.zeros((len(self.labels), 0), np.float32))

    def take(self, rows: Integers) -> LearnedChart:
        return LearnedChart(self.start[rows], self.lower, self.upper, self.vaes, self.labels[rows])


@dataclass(frozen=True)
class LearnedManifold(Space):
    """Perturbations of the latent codes of class-specific VAEs: ||zeta|| <= epsilon, z + zeta in [-2, 2]^L.

    vaes : one per class, in the order of the labels; all of the same `latent_dimensions`.
    epsilon, norm : of the perturbation of z. The paper uses 0.3 for L_inf and for L2.
    """

    vaes: Sequence[Vae]
    _: KW_ONLY
    epsilon: float = 0.3
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({vae.config.latent_dimensions for vae in self.vaes}) != 1:
            raise UserError("a learned manifold needs one VAE for each class, all of the same latent_dimensions")

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> LearnedChart:
        """The space around the reconstructions of images; `codes`, of the true manifold, are not used.

        Raises
        ------
        UserError : for bad images, or labels of classes that have no VAE.
        """
        check_labels(labels, len(self.vaes), len(images))
        start = np.empty((len(images), self.vaes[0].config.latent_dimensions), np.float32)
        for label in np.unique(labels):
            start[labels == label] = self.vaes[label].encode(images[labels == label])
        bound = np.array([BOUND], np.float32)
        return LearnedChart(np.clip(start, -bound, bound), -bound, bound, self.vaes, labels)
