"""What the spaces of affine maps have in common: codes are six parameters, images are warps."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hlf_np.arrays import Floats, flat_rows
from hlf_np.autodiff import Tensor
from hlf_np.models import Model
from hlf_np.operations import warp
from hlf_np.spaces.space import Chart, Compiled


@dataclass(frozen=True)
class WarpChart(Chart):
    """Codes (N, 6) that decode to warps of given images.

    images : (N, H, W, C), what is warped for each row.
    """

    of_images: ClassVar[tuple[str, ...]] = ("start", "images")

    images: Floats

    def decode(self, codes: Tensor) -> Tensor:
        return warp(Tensor(self.images), codes)

    def compiled(self, model: Model) -> Compiled | None:
        if self.images.shape[3] > 1:
            return None
        program = model.warp_program
        groups = np.zeros(len(self.start), np.int64)
        return Compiled(program, groups, flat_rows(self.images)) if program else None
