"""The sizes of a convolution and the tables that follow from them: which rows the kernels gather and scatter."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.kernels.buffers import Scratch
from hlf_np.kernels.layout import Layout, convolved, frame_for_gradient, taps, windows
from hlf_np.kernels.tile import PANEL, padded

PIXELS_PER_CHUNK = 24  # at least this many rows per product, so that few tiles are incomplete
IMAGES_PER_CHUNK = 8


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution: everything but the numbers. The tables derived from it are built once and kept."""

    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    padding: int

    @cached_property
    def out_height(self) -> int:
        return convolved(self.height, self.kernel[0], self.stride, self.padding)

    @cached_property
    def out_width(self) -> int:
        return convolved(self.width, self.kernel[1], self.stride, self.padding)

    @cached_property
    def chunk(self) -> int:
        """Images handled together."""
        return max(IMAGES_PER_CHUNK, -(-PIXELS_PER_CHUNK // (self.out_height * self.out_width)))

    @cached_property
    def forward(self) -> "Phases":
        """The tables of the convolution itself: a single phase."""
        width = -(-self.out_channels // PANEL) * PANEL
        depth = self.kernel[0] * self.kernel[1] * self.channels
        source = Layout(self.chunk, self.height, self.width, self.channels, frame=self.padding)
        sources = windows(source, self.kernel, self.stride, self.padding)
        target = Layout(self.chunk, self.out_height, self.out_width, padded(self.out_channels))
        return Phases(
            self.padding,
            source.size,
            np.array([(0, 0)]),
            np.array([self.kernel]),
            np.array([0, sources.size]),
            sources,
            target.all_pixels(),
            np.arange(self.kernel[0]) * source.row,
            np.array([0, depth * width]),
        )

    @cached_property
    def backward(self) -> "Phases":
        """The tables of the gradient to the input."""
        axes = zip((self.height, self.width), self.kernel, strict=True)
        frame = max(frame_for_gradient(size, k, self.stride, self.padding) for size, k in axes)
        gradient = Layout(self.chunk, self.out_height, self.out_width, self.out_channels, frame)
        result = Layout(self.chunk, self.height, self.width, padded(self.channels))
        pairs = [
            (rows, columns)
            for rows in taps(self.height, self.kernel[0], self.stride, self.padding)
            for columns in taps(self.width, self.kernel[1], self.stride, self.padding)
        ]
        sources = [gradient.pixels(rows.first, columns.first) for rows, columns in pairs]
        width = -(-self.channels // PANEL) * PANEL
        products = [rows.count * columns.count * self.out_channels * width for rows, columns in pairs]
        return Phases(
            frame,
            gradient.size,
            np.array([(rows.phase, columns.phase) for rows, columns in pairs]),
            np.array([(rows.count, columns.count) for rows, columns in pairs]),
            np.cumsum([0, *(table.size for table in sources)]),
            np.concatenate(sources),
            np.concatenate([result.pixels(rows.pixels, columns.pixels) for rows, columns in pairs]),
            np.arange(self.kernel[0]) * gradient.row,
            np.cumsum([0, *products]),
        )


@dataclass(frozen=True)
class Phases:
    """Tables for products of windows, phase after phase: one for a convolution, up to stride^2 for its gradient.

    What is read, the *source*, is the input of a convolution, or the output gradient.
    """

    frame: int  # zeros around the source
    framed: int  # numbers in a chunk of the source with frames
    starts: Integers  # (P, 2) first weight row and column
    taps: Integers  # (P, 2) weight rows and columns
    begin: Integers  # (P + 1,) where each phase's pixels begin in `sources` and `targets`
    sources: Integers  # where each pixel's window starts in the source
    targets: Integers  # where each pixel goes
    segments: Integers  # where the rows of such a window start
    weights_begin: Integers  # (P + 1,) where each phase's weights begin
    scratch: Scratch = field(default_factory=Scratch)


@lru_cache(maxsize=256)
def geometry(
    image: tuple[int, int, int], out_channels: int, kernel: tuple[int, int], stride: int, padding: int
) -> Geometry:
    """The (cached) geometry of a convolution over (H, W, C) images."""
    return Geometry(*image, out_channels, kernel, stride, padding)
