"""Perturbations along the true manifold of FONTS.

The manifold hypothesis says that natural images of a class are few among all images: they lie on (or near)
a surface of low dimension, the class's *manifold*, inside a space of as many dimensions as there are
pixels. Usually nobody knows that surface. FONTS is made so that we do: an image of the letter A is

    image = warp(prototype of A in some font, t),   t in a box of six numbers,

and `warp` is the *decoder*, from the latent code t (translation, shear, scale, rotation) to 784 pixels. All
values of t in the box, for all fonts, make up the manifold of A.

An *on-manifold adversarial example* (section 3.3 of the paper) is another point of the same manifold, near the
original, that the classifier gets wrong. The adversary may change t by at most epsilon in each of its six entries, and
t must stay inside the box from which the data was drawn. It may not change the font, the class, or any pixel by itself.
So whatever it finds is an image that the dataset could have contained, of the same letter as before: an ordinary
mistake of the classifier, sought out on purpose. That is why the paper can say that on-manifold robustness *is*
generalization: an attack only looks for test errors in the neighbourhood of a test image, and training on what it finds
is data augmentation with the augmentations that hurt most.

Epsilon is 0.3 in L_inf, and also in the L2 variant, as in the paper. For a translation that is 0.3 half
widths, about 4 of 28 pixels; for a rotation 0.3 radians, 17 degrees. On hard FONTS the box spans 0.4 for
each translation and for the scale, 1 for each shear, and 180 degrees. So every attack stays in a
neighbourhood of its image, and cannot turn the test into one about any image of the same letter. There is no
need for epsilon to be imperceptible, as it has to be in image space: the true decoder never leaves the class.

The attack starts from the image's own code, which the dataset stores with every image, so that no
projection onto the manifold is needed. Gradients flow through the bilinear interpolation of the warp.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.checks import check_labels
from hlf_np.data.dataset import Codes
from hlf_np.data.fonts import Fonts
from hlf_np.errors import UserError
from hlf_np.spaces.space import Given, Need, Norm, Space
from hlf_np.spaces.warp_chart import WarpChart


@dataclass(frozen=True)
class TrueManifold(Space):
    """Perturbations of the affine parameters t of FONTS: ||zeta|| <= epsilon and t + zeta in the data's box.

    fonts : the generator that the images come from; it knows the letters and the box.
    epsilon, norm : of the perturbation of t.

    Examples
    --------
    >>> from hlf_np.data.fonts import load_prototypes
    >>> fonts = Fonts(load_prototypes())
    >>> test = fonts.dataset(0, 5).test
    >>> chart = TrueManifold(fonts).chart(test.images, test.labels, test.codes)
    >>> bool(np.allclose(chart.decoded(chart.start), test.images, atol=1e-5))  # it starts at the images themselves
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
    def of_run(cls, given: Given) -> Self:
        manifold = given.source.manifold
        assert manifold is not None
        return cls(manifold, epsilon=given.latent_epsilon, norm=given.norm)

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> WarpChart:
        """The space around images of FONTS; the images themselves are not looked at, `codes` say all.

        Raises
        ------
        UserError : without codes, or with codes that are not of these images and fonts.
        """
        if codes is None:
            raise UserError("the true manifold needs the codes of the images: only FONTS has them, as `Split.codes`")
        faces = len(self.fonts.prototypes)
        if codes.parameters.shape != (len(labels), 6) or codes.font.shape != (len(labels),):
            raise UserError(f"{len(labels)} images need as many codes, of six parameters: take both from one split")
        if len(labels) and not (codes.font.min() >= 0 and codes.font.max() < faces):
            raise UserError(f"the codes are of other fonts than the {faces} of this manifold: use the same prototypes")
        labels = check_labels(labels, self.fonts.classes, len(labels))
        letters = self.fonts.letters[codes.font.astype(np.int64) * self.fonts.classes + labels]
        lower, upper = (np.asarray(bound, np.float32) for bound in (self.fonts.box.lower, self.fonts.box.upper))
        start = np.ascontiguousarray(codes.parameters, np.float32)
        if not ((start >= lower) & (start <= upper)).all():
            raise UserError("the codes lie outside of this manifold's box: use the difficulty that the images have")
        return WarpChart(start, lower, upper, letters)
