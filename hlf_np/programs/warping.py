"""A warp that precedes a network, with constants instead of weights; `kernels.operations.warp` explains warps."""

import numpy as np

from hlf_np.kernels.instructions.propagation import Warp, WarpGradient
from hlf_np.kernels.layout import Layout
from hlf_np.kernels.operations.warp import MAP_SIZE, Grid
from hlf_np.programs.builder import Builder
from hlf_np.programs.values import Region
from hlf_np.support.arrays import Integers

PARAMETERS = 6


class WarpPreprocessor:
    """The instructions of a warp of images of one channel.

    Parameters
    ----------
    builder : Builder
        Where buffers and tables are allocated.
    image : Layout
        Where the warped images go.
    image_gradient : Layout
        Where the gradient with respect to them is.
    offsets : ndarray of int64
        Where each pixel of that gradient is, relative to the first of its image.

    Attributes
    ----------
    forward, backward : Warp, WarpGradient
        The instructions.
    code_region, source_region : Region
        Where the six parameters of an image belong, and the image to warp.
    code_gradient : Layout
        Where the gradient with respect to the parameters is.
    constants : ndarray of float32
        Constants that belong among the weights.
    position : int
        Where they belong.
    """

    def __init__(self, builder: Builder, image: Layout, image_gradient: Layout, offsets: Integers) -> None:
        height, width = image.height, image.width
        grid = Grid(height, width)
        self.constants = np.concatenate([*grid.positions, grid.limits, grid.pixels_per_unit])
        self.position = builder.reserve("weights", self.constants.size)
        padded_pixels, border = grid.positions[0].size, width + 3
        code, self.code_gradient = (builder.allocate(Layout(builder.images, 1, 1, MAP_SIZE)) for _ in range(2))
        plane = builder.allocate(Layout(builder.images, height + 3, border, 1))
        slopes = builder.allocate(Layout(builder.images, 1, 1, MAP_SIZE + 3 * padded_pixels))
        self.code_region = Region(1, 1, PARAMETERS, code.base, 0, 0, code.image)
        self.source_region = Region(height, 1, width, plane.base + border + 1, border, 0, plane.image)
        common = {
            "codes": code.base, "code_stride": code.image, "constants": self.position, "padded_pixels": padded_pixels,
            "slopes": slopes.base, "slope_stride": slopes.image,
        }  # fmt: skip
        self.forward = Warp(
            planes=plane.base, plane_stride=plane.image, rows=height, width=width, origin=image.origin,
            pixel_stride=image.channels, row_stride=image.row, image_stride=image.image, **common,
        )  # fmt: skip
        self.backward = WarpGradient(
            image=image_gradient.origin, image_stride=image_gradient.image, offsets=builder.table(offsets),
            pixels=height * width, targets=self.code_gradient.base, target_stride=self.code_gradient.image, **common,
        )  # fmt: skip
