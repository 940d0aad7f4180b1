"""Perturbations of the image itself: the code of an image is the image."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes
from hlf_np.models import Model
from hlf_np.spaces.chart import Chart, Compiled
from hlf_np.spaces.norm import Norm
from hlf_np.spaces.space import RunContext, Space
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import check_images


@dataclass(frozen=True)
class _ImageChart(Chart):
    codes_are_images: ClassVar[bool] = True

    def decode(self, codes: Tensor) -> Tensor:
        return codes

    def compiled(self, model: Model) -> Compiled | None:
        if np.min(self.lower) < 0 or np.max(self.upper) > 1:
            return None  # images may need to be clipped, which the program does not do
        count, program = len(self.start), model.program
        groups, sources = np.zeros(count, np.int64), np.zeros((count, 0), np.float32)
        return Compiled(program, groups, sources) if program else None


@dataclass(frozen=True)
class ImageBall(Space):
    """Perturbations of the image itself: ||delta|| <= epsilon and x + delta in [0, 1].

    These are the paper's *regular* adversarial examples. Most directions in image space leave the manifold, and so do
    most of these examples.

    Parameters
    ----------
    epsilon : float
        Largest norm of delta. The paper uses 0.3 for L_inf and 1.5 for L2.
    norm : {"linf", "l2"}
        The norm of delta.

    Examples
    --------
    >>> space = ImageBall(0.3)
    >>> grey = np.full((1, 2, 2, 1), 0.9, np.float32)
    >>> chart = space.chart(grey, np.zeros(1, np.int64), None)
    >>> space.project(chart, grey - 0.5).min().round(6), space.project(chart, grey + 0.5).max()  # no pixel above 1
    (np.float32(0.6), np.float32(1.0))
    """

    name: ClassVar[str] = "regular"
    attacks: ClassVar[str] = "regular attacks"
    option: ClassVar[str] = "image"

    epsilon: float = 0.3
    norm: Norm = Norm.LINF

    @classmethod
    def of_run(cls, run: RunContext) -> Self:
        """Return the ball of the run's epsilon."""
        return cls(cls.epsilon_in_run(run.epsilon, ImageBall), cls.norm_in_run(run.norm))

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> Chart:
        """Return the ball around the images; labels and codes are ignored."""
        return _ImageChart(check_images(images), np.zeros(1, np.float32), np.ones(1, np.float32))
