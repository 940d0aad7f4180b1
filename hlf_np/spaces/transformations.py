"""Affine transformations of any image.

A dataset without a known manifold still has *some* known directions along it: a letter that is shifted,
sheared, scaled or turned a little is the same letter. The space of transformations is that piece of
knowledge and nothing more. Its codes are the six parameters of `operations.affine_matrix`; an image is
decoded by warping the *original image*, not a prototype; and the code of the original is the identity,
(0, 0, 0, 0, 1, 0): no translation, no shear, scale 1, no rotation.

The adversary (section 3.4 of the paper: adversarial transformations) may change each parameter by at most epsilon from
the identity, and within a box of what a dataset regards as the same class: a digit 6 that is turned by half is a 9. It
may not change pixels one by one. With epsilon 0.3, as in the paper, the box is what binds most of the time:
translations end at 0.15 or 0.2, scales at 0.85 or 0.75; rotations may go up to 0.3, or 17 degrees.

How it differs from `TrueManifold`: on FONTS both warp, but there the perturbation is added to the
parameters that the image was made with, and stays in the data's box; here it comes on top of them, so a
letter that was turned by 90 degrees can be turned further, off the data's manifold. Training on
adversarial transformations is thus an approximation of on-manifold training, and it works on every
dataset. *Random* transformations, data augmentation as usual, are the baseline that shows what the adversary
adds: they are drawn as an attack draws its start, uniform over direction and distance, and stay there.

A trap in the paper's released code: it draws them so, but around 0 instead of around the identity, and the
scale always ends up at the lower end of its range.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.checks import check_images
from hlf_np.data.dataset import Codes
from hlf_np.data.fonts import Box
from hlf_np.errors import UserError
from hlf_np.operations import IDENTITY
from hlf_np.spaces.space import Given, Norm, Space
from hlf_np.spaces.warp_chart import WarpChart


@dataclass(frozen=True)
class Transformations(Space):
    """Affine maps of the image: parameters within epsilon of the identity, and in a box.

    box : of the parameters; `Fonts.box`, or `data.fonts.EMNIST_BOX`.
    epsilon, norm : of the parameters' distance to the identity.

    Examples
    --------
    >>> from hlf_np.data.fonts import EMNIST_BOX
    >>> chart = Transformations(EMNIST_BOX).chart(np.zeros((2, 28, 28, 1), np.float32), np.zeros(2, np.int64), None)
    >>> chart.start.shape, chart.start[0].tolist()
    ((2, 6), [0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    """

    name: ClassVar[str] = "transformations"
    attacks: ClassVar[str] = "attacks by affine transformations"
    measured: ClassVar[bool] = False

    box: Box
    _: KW_ONLY
    epsilon: float = 0.3
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = len(self.box.lower), len(self.box.upper)
        if sizes != (6, 6) or not all(
            low <= value <= high for low, value, high in zip(self.box.lower, IDENTITY, self.box.upper, strict=True)
        ):
            raise UserError("the box of transformations must hold the identity: use Box.around_identity(...)")

    @classmethod
    def of_run(cls, given: Given) -> Self:
        return cls(given.source.box, epsilon=given.latent_epsilon)

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> WarpChart:
        """The space around any images; labels and codes are not needed."""
        images = check_images(images)
        start = np.tile(np.asarray(IDENTITY, np.float32), (len(images), 1))
        lower, upper = (np.asarray(bound, np.float32) for bound in (self.box.lower, self.box.upper))
        return WarpChart(start, lower, upper, images)
