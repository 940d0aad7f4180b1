"""Affine transformations of any image.

Even if a dataset has no known manifold, *some* directions along it are known: a letter that is shifted, sheared, scaled
or rotated a little is the same letter. The space of transformations is exactly this knowledge. Its codes are the six
parameters of `operations.affine_matrix`; decoding warps the *original image* (not a prototype); and the code of the
original is the identity (0, 0, 0, 0, 1, 0): no translation, no shear, scale 1, no rotation.

The adversary (section 3.4 of the paper: adversarial transformations) may change each parameter by at most epsilon from
the identity, within a box of what counts as the same class in a dataset: a 6 rotated by 180 degrees is a 9. It cannot
change single pixels. With epsilon = 0.3, as in the paper, the box is usually the tighter limit: translations are
limited to 0.15 or 0.2, scales to at least 0.85 or 0.75; rotations may reach 0.3, or 17 degrees.

On FONTS, both `TrueManifold` and this space warp. There the perturbation is added to the parameters that the image was
generated with, and the sum stays in the box of the data; here it is applied on top of them, so a letter already rotated
by 90 degrees can be rotated further, off the manifold of the data. Training on adversarial transformations therefore
approximates on-manifold training, and works on every dataset. *Random* transformations, the usual data augmentation,
are the baseline that shows what the adversary adds: they are drawn like an attack's random start (uniform in direction
and distance) and left there.

A trap in the paper's released code: it draws them in the same way, but around 0 instead of around the identity, so the
scale always ends up at the lower end of its range.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import numpy as np

from hlf_np.data.dataset import Codes
from hlf_np.data.fonts import Box
from hlf_np.operations import IDENTITY
from hlf_np.spaces.norm import Norm
from hlf_np.spaces.space import RunContext, Space
from hlf_np.spaces.warp_chart import WarpChart
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import check_images
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class Transformations(Space):
    """Affine maps of the image, with parameters within epsilon of the identity and in a box.

    Parameters
    ----------
    box : Box
        The box of the parameters, such as `Fonts.box` or `data.fonts.EMNIST_BOX`.
    epsilon : float
        Largest distance of the parameters from the identity.
    norm : {"linf", "l2"}
        The norm of that distance.

    Raises
    ------
    UserError
        If the box does not contain the identity.

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
            lower <= value <= upper
            for lower, value, upper in zip(self.box.lower, IDENTITY, self.box.upper, strict=True)
        ):
            raise UserError("the box of transformations must contain the identity: use Box.around_identity(...)")

    @classmethod
    def of_run(cls, run: RunContext) -> Self:
        """Return the transformations in the box of the run's data."""
        epsilon = cls.epsilon_in_run(run.latent_epsilon, Transformations)
        return cls(run.source.box, epsilon=epsilon, norm=cls.norm_in_run(run.norm))

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> WarpChart:
        """Return the space around any images (N, H, W, C); labels and codes are ignored."""
        images = check_images(images)
        start = np.tile(np.asarray(IDENTITY, np.float32), (len(images), 1))
        lower, upper = (np.asarray(bound, np.float32) for bound in (self.box.lower, self.box.upper))
        return WarpChart(start, lower, upper, images)
