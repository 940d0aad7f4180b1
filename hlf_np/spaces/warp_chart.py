"""The chart that `TrueManifold` and `Transformations` share: codes are six affine parameters, images are warps."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.models import Model
from hlf_np.operations import warp
from hlf_np.spaces.chart import Chart, Compiled
from hlf_np.support.arrays import Floats, flat_rows


@dataclass(frozen=True)
class WarpChart(Chart):
    """Codes (N, 6) that decode to affine warps of given images.

    Parameters
    ----------
    start, lower, upper : ndarray of float32
        See `Chart`.
    images : ndarray of float32, shape (N, H, W, C)
        The image to warp for each code.
    """

    of_images: ClassVar[tuple[str, ...]] = ("start", "images")

    images: Floats

    def decode(self, codes: Tensor) -> Tensor:
        """Warp the images by the parameters (N, 6)."""
        return warp(Tensor(self.images), codes)

    def compiled(self, model: Model) -> Compiled | None:
        """Return a compiled warp followed by the model, or None for images of several channels."""
        if self.images.shape[3] > 1:
            return None
        program = model.warp_program
        groups = np.zeros(len(self.start), np.int64)
        return Compiled(program, groups, flat_rows(self.images)) if program else None
