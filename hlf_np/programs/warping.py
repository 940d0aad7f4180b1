"""A warp in front of a network, with constants instead of weights; `kernels.warp` explains warps."""

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels.instructions import Warp, WarpGradient
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.warp import Grid
from hlf_np.programs.builder import Builder

PARAMETERS = 6


class WarpFront:
    """The instructions of a warp of images of one channel.

    forward, backward : the instructions.
    slots : where the six parameters of an image belong, and the image that is warped; see `builder.slot`.
    code_gradient : where the gradient with respect to the parameters is.
    constants, at : what belongs among the weights, and where.
    """

    def __init__(self, builder: Builder, image: Layout, image_gradient: Layout, order: Integers) -> None:
        """image : where the warped images go; image_gradient, order : where the gradient with respect to them is."""
        height, width = image.height, image.width
        grid = Grid(height, width)
        self.constants = np.concatenate([*grid.positions, grid.most, grid.half])
        self.at = builder.reserve("weights", self.constants.size)
        filled, border = grid.positions[0].size, width + 3
        code, self.code_gradient = (builder.room_for(Layout(builder.images, 1, 1, LANES)) for _ in range(2))
        plane = builder.room_for(Layout(builder.images, height + 3, border, 1))
        slopes = builder.room_for(Layout(builder.images, 1, 1, LANES + 3 * filled))
        self.slots = np.array(
            [
                (1, 1, PARAMETERS, code.base, 0, 0, code.image),
                (height, 1, width, plane.base + border + 1, border, 0, plane.image),
            ]
        )
        codes = {"codes": code.base, "code_step": code.image, "constants": self.at, "filled": filled}
        slope = {"slopes": slopes.base, "slope_step": slopes.image}
        self.forward = Warp(
            planes=plane.base, plane_step=plane.image, rows=height, width=width, origin=image.origin,
            pixel_step=image.channels, row_step=image.row, image_step=image.image, **codes, **slope,
        )  # fmt: skip
        self.backward = WarpGradient(
            image=image_gradient.origin, image_step=image_gradient.image, order=builder.table(order),
            pixels=height * width, to=self.code_gradient.base, to_step=self.code_gradient.image, **codes, **slope,
        )  # fmt: skip
