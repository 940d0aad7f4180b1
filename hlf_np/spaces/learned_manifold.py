"""Perturbations along a manifold learned from examples.

The true manifold of a class is known only for generated data. For all other data it must be learned: a variational
autoencoder (`hlf_np.models.vae`) trained on one class has an encoder, which maps an image to its code z, and a decoder
dec, which maps codes to images of that class. The images of all codes in a box are the *learned manifold*, an
approximation of the true one.

An on-learned-manifold adversarial example (section 3.2 of the paper) is a misclassified image

    dec(z + zeta),   ||zeta|| <= epsilon,   lower <= z + zeta <= upper,

where z is the mean of the encoder's Gaussian and the box holds the codes of all images, see `VaeManifold.fitted`.
As in the paper, epsilon is 0.3 in L_inf: a fraction of a standard deviation in each of the 10 entries.

Three differences from the true manifold matter when results are interpreted:

- The attack starts not at the image but at its reconstruction dec(z). Success rates are therefore fractions of the
  images whose *reconstruction* is classified correctly; otherwise bad reconstructions would count as successes.
- The codes of training images follow N(0, I) approximately, so 95 % of their entries lie within [-2, 2]: outside, the
  decoder has seen little. As in the paper, images whose code leaves [-2, 2]^L are not `perturbable`: they are not
  perturbed in training and count as withstanding an attack in evaluation.
- Nothing guarantees that dec(z + zeta) still shows the class. A VAE of one class has never seen another letter, so it
  mostly does; `manifolds.oracle` measures how often. If the true label of an adversarial example has changed, the
  classifier has made no mistake.

`DataManifold` has one VAE for all classes, the paper's *class-agnostic* manifold. Only epsilon keeps a code from moving
to another letter, so epsilon is smaller, 0.1. On FONTS (hard), a VAE of the default size hardly preserves the class in
its reconstructions: the oracle recognises only half of them, against 95 % with class-specific VAEs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from scipy.special import ndtr, ndtri

from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Split
from hlf_np.layers import Layer, Sequential, Sigmoid
from hlf_np.models import Model
from hlf_np.models.vae import Vae
from hlf_np.operations import concatenate, take
from hlf_np.programs.compiler import Compiler
from hlf_np.spaces.chart import Chart, Compiled
from hlf_np.spaces.norm import Norm
from hlf_np.spaces.space import Need, RunContext, Space
from hlf_np.support.arrays import Booleans, Floats, Integers
from hlf_np.support.checks import check_images, check_labels, redefines
from hlf_np.support.errors import UserError

MAX_PERTURBABLE_ENTRY = 2.0  # only images with codes in [-2, 2]^L are perturbed
MAX_CODE_ENTRY = 10.0  # of any code; for N(0, I), ten standard deviations
DATA_MANIFOLD_EPSILON = 0.1
IDENTITY_NETWORK = Sequential()


@dataclass(frozen=True)
class LearnedChart(Chart):
    """Codes (N, L), each decoded by the VAE of its class.

    Parameters
    ----------
    start, lower, upper : ndarray of float32
        See `Chart`.
    space : VaeManifold
        The space with the VAEs, one per class.
    labels : ndarray of int64, shape (N,)
        The class of each code.
    """

    of_images: ClassVar[tuple[str, ...]] = ("start", "labels")

    space: VaeManifold
    labels: Integers

    def decode(self, codes: Tensor) -> Tensor:
        """Map codes (N, L) to images (N, H, W, C): class by class, then back in their order."""
        vaes, present = self.space.vaes, np.unique(self.labels)
        if not len(present):
            return Tensor(np.empty((0, *self.space.image_shape), np.float32))
        rows_of_classes = [np.flatnonzero(self.labels == label) for label in present]
        decoded = [vaes[label].decoder(take(codes, rows)) for label, rows in zip(present, rows_of_classes, strict=True)]
        order = np.argsort(np.concatenate(rows_of_classes))  # inverts the grouping by class
        return take(concatenate(decoded), order)

    def decoded(self, codes: Floats) -> Floats:
        """Map codes (N, L) to images (N, H, W, C) without recording gradients, by compiled decoders if possible."""
        if not self.is_current("decoded", "decode", "image_of"):
            return super().decoded(codes)
        codes = np.asarray(codes, np.float32)
        return self.space.decode(codes, self.labels)

    def compiled(self, model: Model) -> Compiled | None:
        """Return the compiled decoders followed by the model, or None if only autodiff can compute them."""
        decoders = [vae.decoder for vae in self.space.vaes]
        if not all(isinstance(list(decoder.every_layer())[-1], Sigmoid) for decoder in decoders):
            return None  # images may need to be clipped, which the program does not do
        program = model.program_behind(decoders, self.space.code_shape)
        sources = np.zeros((len(self.labels), 0), np.float32)
        return Compiled(program, self.labels, sources) if program else None


@dataclass(frozen=True)
class VaeManifold(Space):
    """Perturbations of the latent codes of VAEs, one for each class: ||zeta|| <= epsilon, z + zeta in a box.

    Parameters
    ----------
    vaes : sequence of Vae
        One per class, in the order of the labels; all with the same sizes.
    lower, upper : tuple of float, optional
        The box of codes, one bound for each of the L entries; [-10, 10]^L if not given. Codes outside are clipped to
        it.
    epsilon : float
        Largest norm of zeta. The paper uses 0.3 for L_inf and for L2.
    norm : {"linf", "l2"}
        The norm of zeta.

    Raises
    ------
    UserError
        If there are no VAEs, their sizes differ, or the bounds are not L numbers each.
    """

    starts_at_image: ClassVar[bool] = False

    vaes: Sequence[Vae]
    _: KW_ONLY
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    epsilon: float = 0.3
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.vaes, Vae):
            raise UserError("a learned manifold needs one VAE for each class: give the same for all as [vae] * classes")
        sizes = {(vae.config.latent_dimensions, vae.config.channels, vae.config.image_shape) for vae in self.vaes}
        if len(sizes) != 1:
            raise UserError(
                "a learned manifold needs one VAE for each class, all with the same latent_dimensions, channels and"
                " image_shape"
            )
        for vae in self.vaes:
            for method in ("posterior", "encode", "decode"):
                if redefines(vae, Vae, method):
                    raise UserError(
                        f"a learned manifold would not use `{method}` of {type(vae).__name__}: set its `encoder` or"
                        " `decoder` to a network of your own instead"
                    )
        for name, sign in (("lower", -1), ("upper", 1)):
            bounds = tuple(getattr(self, name)) or (sign * MAX_CODE_ENTRY,) * self.code_shape[0]
            if len(bounds) != self.code_shape[0] or not np.isfinite(bounds).all():
                raise UserError(f"{name} must have one finite bound for each of the {self.code_shape[0]} latents")
            object.__setattr__(self, name, bounds)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.vaes[0].config.image_shape

    @property
    def code_shape(self) -> tuple[int]:
        """(L,)."""
        return (self.vaes[0].config.latent_dimensions,)

    @cached_property
    def _compiler(self) -> Compiler:
        return Compiler()

    def evaluate(self, inputs: Floats, networks: Sequence[Layer], labels: Integers) -> Floats:
        """Map inputs (N, ...), each by the network of its class, in evaluation mode.

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, ...)
            Images for encoders, codes for decoders.
        networks : sequence of Layer
            The encoders or the decoders of the VAEs.
        labels : ndarray of int64, shape (N,)
            The class of each input.

        Returns
        -------
        ndarray of float32, shape (N, ...)
            The outputs.
        """
        return self._compiler.evaluate(inputs, IDENTITY_NETWORK, networks, labels)

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> LearnedChart:
        """Encode images and return the space around their codes.

        Parameters
        ----------
        images : ndarray of floats, shape (N, H, W, C)
            Images in [0, 1].
        labels : ndarray of integers, shape (N,)
            Their classes, which choose the VAEs.
        codes : Codes or None
            Ignored: codes of the true manifold.

        Raises
        ------
        UserError
            If images or labels are invalid, or there is no VAE for a label.
        """
        lower, upper = np.array(self.lower, np.float32), np.array(self.upper, np.float32)
        start = np.clip(self.encode(images, labels), lower, upper)
        return LearnedChart(start, lower, upper, self, check_labels(labels, len(self.vaes), len(images)))

    def encode(self, images: Floats, labels: Integers) -> Floats:
        """Encode images.

        Parameters
        ----------
        images : ndarray of floats, shape (N, H, W, C)
            Images in [0, 1].
        labels : ndarray of integers, shape (N,)
            Their classes, which choose the VAEs.

        Returns
        -------
        ndarray of float32, shape (N, L)
            The means of q(z | x).

        Raises
        ------
        UserError
            If images or labels are invalid, or there is no VAE for a label.
        """
        images = check_images(images, self.image_shape)
        labels = check_labels(labels, len(self.vaes), len(images))
        # an encoder's output is (N, 2 L): means, then log variances
        outputs = self.evaluate(images, [vae.encoder for vae in self.vaes], labels)
        return outputs[:, : self.code_shape[0]]

    def decode(self, codes: Floats, labels: Integers) -> Floats:
        """Map codes (N, L), each by the decoder of its class, to images (N, H, W, C) in [0, 1]."""
        return np.clip(self.evaluate(codes, [vae.decoder for vae in self.vaes], labels), 0, 1)

    def fitted(self, images: Floats, labels: Integers) -> Self:
        """Return the space with the smallest box that holds the codes of all these images, whatever their class.

        As in the paper, a run uses the box of training images to train and that of test images to evaluate.
        """
        codes = np.clip(self.encode(images, labels), -MAX_CODE_ENTRY, MAX_CODE_ENTRY)
        if not len(codes):
            return self
        return replace(self, lower=tuple(codes.min(axis=0).tolist()), upper=tuple(codes.max(axis=0).tolist()))

    def sampled(self, split: Split, random: np.random.Generator) -> Split:
        """Decode, for each label of a split, a code drawn from N(0, I), restricted to [-2, 2]^L."""
        bound = float(ndtr(MAX_PERTURBABLE_ENTRY))  # the probability below it under N(0, 1)
        probabilities = random.uniform(1 - bound, bound, (len(split), *self.code_shape))
        codes = np.asarray(ndtri(probabilities), np.float32)
        labels = check_labels(split.labels, len(self.vaes), len(split))
        return Split(self.decode(codes, labels), labels)

    def perturbable(self, split: Split) -> Booleans:
        """Return which images have codes in [-2, 2]^L."""
        codes = self.encode(split.images, split.labels)
        return np.asarray((np.abs(codes) <= MAX_PERTURBABLE_ENTRY).all(axis=1))


@dataclass(frozen=True)
class LearnedManifold(VaeManifold):
    """Perturbations of the latent codes of class-specific VAEs; parameters are those of `VaeManifold`.

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

    @classmethod
    def of_run(cls, run: RunContext) -> Self:
        """Return the space of a run's VAEs, with its latent epsilon."""
        epsilon = cls.epsilon_in_run(run.latent_epsilon, LearnedManifold)
        return cls(run.vaes, epsilon=epsilon, norm=cls.norm_in_run(run.norm))


@dataclass(frozen=True)
class DataManifold(VaeManifold):
    """Perturbations of the latent codes of one VAE for all classes, the paper's class-agnostic manifold.

    Parameters are those of `VaeManifold`; `vaes` has the same VAE for every class.

    Examples
    --------
    >>> from hlf_np.manifolds import VaeConfig
    >>> DataManifold([Vae(VaeConfig(channels=(4, 4)))] * 10).epsilon
    0.1
    """

    name: ClassVar[str] = "on_data_manifold"
    attacks: ClassVar[str] = "attacks on the class-agnostic manifold"
    option: ClassVar[str] = "data-manifold"
    needs: ClassVar[Need | None] = Need.DATA_MANIFOLD

    _: KW_ONLY
    epsilon: float = DATA_MANIFOLD_EPSILON

    @classmethod
    def of_run(cls, run: RunContext) -> Self:
        """Return the space of a run's class-agnostic VAE; its epsilon is a third of the run's latent one."""
        assert run.data_vae is not None
        vaes = (run.data_vae,) * len(run.source.class_names)
        epsilon = cls.epsilon_in_run(run.latent_epsilon / 3, DataManifold)
        return cls(vaes, epsilon=epsilon, norm=cls.norm_in_run(run.norm))
