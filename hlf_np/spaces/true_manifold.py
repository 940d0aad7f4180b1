"""Perturbations along the true manifold of FONTS.

According to the manifold hypothesis, natural images of a class are few among all images: they lie on (or near) a
surface of low dimension, the *manifold* of the class, in a space with as many dimensions as there are pixels. Usually
that surface is unknown. FONTS is made so that it is known: an image of the letter A is

    image = warp(prototype of A in some font, t),   t in a box in R^6,

where `warp` is the *decoder*, from the latent code t (translation, shear, scale, rotation) to 784 pixels. The images
for all t in the box and all fonts form the manifold of A.

An *on-manifold adversarial example* (section 3.3 of the paper) is another point of the same manifold, near the
original, that is misclassified. The adversary may change each of the six entries of t by at most epsilon, and t must
stay in the box from which the data was drawn. It cannot change the font, the class or single pixels. What it finds is
therefore an image that the dataset could have contained, of the same letter: an ordinary test error, searched for on
purpose. This is why the paper can say that on-manifold robustness *is* generalization: an attack only searches the
neighbourhood of a test image for test errors, and training on its results is data augmentation with the augmentations
that hurt most.

As in the paper, epsilon is 0.3 in L_inf and in L2. For a translation this is 0.3 half widths, about 4 of 28 pixels; for
a rotation 0.3 radians, 17 degrees. On FONTS (hard) the box spans 0.4 for each translation and for the scale, 1 for each
shear, and 180 degrees. So attacks stay near their image; they do not test every image of the letter at once. Unlike in
image space, epsilon need not be imperceptible, because the true decoder never leaves the class.

The attack starts at the image's own code, which the dataset stores, so no projection onto the manifold is needed.
Gradients flow through the bilinear interpolation of the warp.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import numpy as np

from hlf_np.data.dataset import Codes, Split
from hlf_np.data.fonts import Fonts
from hlf_np.spaces.norm import Norm
from hlf_np.spaces.space import Need, RunContext, Space, check_decodes
from hlf_np.spaces.warp_chart import WarpChart
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import check_labels
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class TrueManifold(Space):
    """Perturbations of the affine parameters t of FONTS: ||zeta|| <= epsilon and t + zeta in the data's box.

    Parameters
    ----------
    fonts : Fonts
        The generator of the images, with its prototypes and its box.
    epsilon : float
        Largest norm of zeta.
    norm : {"linf", "l2"}
        The norm of zeta.

    Examples
    --------
    >>> from hlf_np.data.fonts import load_prototypes
    >>> fonts = Fonts(load_prototypes())
    >>> test = fonts.dataset(0, 5).test
    >>> chart = TrueManifold(fonts).chart(test.images, test.labels, test.codes)
    >>> bool(np.allclose(chart.decoded(chart.start), test.images, atol=1e-5))  # the start decodes to the images
    True
    """

    name: ClassVar[str] = "on_true_manifold"
    attacks: ClassVar[str] = "attacks on the true manifold"
    option: ClassVar[str] = "true-manifold"
    needs: ClassVar[Need | None] = Need.TRUE_MANIFOLD

    fonts: Fonts
    _: KW_ONLY
    epsilon: float = 0.3
    norm: Norm = Norm.LINF

    @classmethod
    def of_run(cls, run: RunContext) -> Self:
        """Return the manifold of the run's generator, with its latent epsilon."""
        manifold = run.source.manifold
        assert manifold is not None
        epsilon = cls.epsilon_in_run(run.latent_epsilon, TrueManifold)
        return cls(manifold, epsilon=epsilon, norm=cls.norm_in_run(run.norm))

    def sampled(self, split: Split, random: np.random.Generator) -> Split:
        """Draw each letter of a split again, in its own font, with new affine parameters, uniform over the box.

        Raises
        ------
        UserError
            If codes are missing, or do not belong to the fonts and the images.
        """
        chart = self.chart(split.images, split.labels, split.codes)
        check_decodes(self, chart, split.images)
        assert split.codes is not None
        parameters = self.fonts.box.sample(random, len(split))
        codes = Codes(split.codes.font, parameters)
        return Split(chart.decoded(parameters), split.labels, codes)

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> WarpChart:
        """Return the space around the codes of images of FONTS.

        Parameters
        ----------
        images : ndarray
            Ignored: labels and codes determine the images.
        labels : ndarray of integers, shape (N,)
            The classes of the images.
        codes : Codes
            Fonts and affine parameters of the images.

        Raises
        ------
        UserError
            If codes are missing or do not belong to these images and fonts.
        """
        if codes is None:
            raise UserError(
                "the true manifold needs the codes of the images: use data from FONTS, which has them in `Split.codes`"
            )
        font_count = len(self.fonts.prototypes)
        if codes.parameters.shape != (len(labels), 6) or codes.font.shape != (len(labels),):
            raise UserError(f"{len(labels)} images need as many codes of six parameters: take both from one split")
        if len(labels) and not (codes.font.min() >= 0 and codes.font.max() < font_count):
            raise UserError(
                f"the codes refer to other fonts than the {font_count} of this manifold: use the same prototypes"
            )
        labels = check_labels(labels, self.fonts.classes, len(labels))
        letters = self.fonts.letters[codes.font.astype(np.int64) * self.fonts.classes + labels]
        lower, upper = (np.asarray(bound, np.float32) for bound in (self.fonts.box.lower, self.fonts.box.upper))
        start = np.ascontiguousarray(codes.parameters, np.float32)
        if not ((start >= lower) & (start <= upper)).all():
            raise UserError("the codes lie outside this manifold's box: use the difficulty of the images")
        return WarpChart(start, lower, upper, letters)
