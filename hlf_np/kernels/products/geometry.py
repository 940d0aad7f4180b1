"""The sizes of a convolution, and the tables that say which rows its products gather and scatter.

**The convolution** has a single product, a row for each output pixel: the window under it.

**The gradient with respect to the input** has one for each *phase*. With stride 2, the pixels of the padded input fall
into 2 x 2 phases: even or odd row, even or odd column. All pixels of a phase meet the same weights, and pixels of
different phases share none. With a 4 x 4 kernel whose rows and columns are a, b, c, d:

    phases of the pixels         rows 2 q      meet weight rows a, c at output rows q, q - 1
       0 1 0 1 0 1               rows 2 q + 1  meet weight rows b, d at output rows q, q - 1;   columns likewise
       2 3 2 3 2 3
       0 1 0 1 0 1               weights of    0: aa ac    1: ab ad    2: ba bc    3: bb bd
       2 3 2 3 2 3               phase            ca cc       cb cd       da dc       db dd

So each phase is the product of windows of 2 x 2 output gradients, in an image with a halo, with a quarter of the
weights in reversed order. `layout.Taps` has the arithmetic for any kernel, stride and padding, along one axis.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from hlf_np.kernels.buffers import Scratch
from hlf_np.kernels.layout import Layout, halo_for_gradient, output_size, taps, window_starts
from hlf_np.kernels.products.tile import PANEL, padded
from hlf_np.support.arrays import Integers

MIN_PIXELS_PER_CHUNK = 24  # two full tiles of rows, so that few tiles are incomplete
MIN_IMAGES_PER_CHUNK = 8


class PhaseTables(NamedTuple):
    """Tables for products of windows, one for each of P phases; a convolution itself has a single phase.

    What the windows lie in, the *source*, is the input of a convolution, or the gradient of its output.
    """

    halo: int  # width of the halo of zeros around the source, in pixels
    windows: Integers  # (P, 2), rows and columns of a window
    pixels_begin: Integers  # (P + 1,), where each phase's pixels begin in `sources` and `targets`
    sources: Integers  # where each pixel's window starts in a chunk of the source
    targets: Integers  # where each pixel goes in a chunk of the result
    segments: Integers  # where the rows of a window start, relative to it
    weights_begin: Integers  # (P + 1,), where each phase's panels begin among the weights


@dataclass(frozen=True)
class Phases:
    """The tables of a convolution or of its gradient, and what belongs to them.

    Attributes
    ----------
    tables : PhaseTables
        What the kernel reads.
    first_weights : ndarray of int64, shape (P, 2)
        Row and column of the first weight of each phase.
    source_size : int
        Number of elements in a chunk of the source with halos.
    scratch : Scratch
        Arrays in which each thread lays out a chunk.
    """

    tables: PhaseTables
    first_weights: Integers
    source_size: int
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution. The tables derived from them are built once and kept."""

    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    padding: int

    @cached_property
    def out_height(self) -> int:
        return output_size(self.height, self.kernel[0], self.stride, self.padding)

    @cached_property
    def out_width(self) -> int:
        return output_size(self.width, self.kernel[1], self.stride, self.padding)

    @cached_property
    def chunk(self) -> int:
        """Number of images that are processed together."""
        return max(MIN_IMAGES_PER_CHUNK, -(-MIN_PIXELS_PER_CHUNK // (self.out_height * self.out_width)))

    @cached_property
    def forward(self) -> Phases:
        """The tables of the convolution itself: a single phase."""
        width = -(-self.out_channels // PANEL) * PANEL
        depth = self.kernel[0] * self.kernel[1] * self.channels
        source = Layout(self.chunk, self.height, self.width, self.channels, halo=self.padding)
        sources = window_starts(source, self.kernel, self.stride, self.padding)
        target = Layout(self.chunk, self.out_height, self.out_width, padded(self.out_channels))
        tables = PhaseTables(
            halo=self.padding,
            windows=np.array([self.kernel]),
            pixels_begin=np.array([0, sources.size]),
            sources=sources,
            targets=target.all_pixels(),
            segments=np.arange(self.kernel[0]) * source.row,
            weights_begin=np.array([0, depth * width]),
        )
        return Phases(tables, np.array([(0, 0)]), source.size)

    @cached_property
    def backward(self) -> Phases:
        """The tables of the gradient with respect to the input."""
        axes = zip((self.height, self.width), self.kernel, strict=True)
        halo = max(halo_for_gradient(size, k, self.stride, self.padding) for size, k in axes)
        source = Layout(self.chunk, self.out_height, self.out_width, self.out_channels, halo)
        target = Layout(self.chunk, self.height, self.width, padded(self.channels))
        phases = [
            (rows, columns)
            for rows in taps(self.height, self.kernel[0], self.stride, self.padding)
            for columns in taps(self.width, self.kernel[1], self.stride, self.padding)
        ]
        sources = [source.pixels(rows.first, columns.first) for rows, columns in phases]
        width = -(-self.channels // PANEL) * PANEL
        weights = [rows.count * columns.count * self.out_channels * width for rows, columns in phases]
        tables = PhaseTables(
            halo=halo,
            windows=np.array([(rows.count, columns.count) for rows, columns in phases]),
            pixels_begin=np.cumsum([0, *(pixels.size for pixels in sources)]),
            sources=np.concatenate(sources),
            targets=np.concatenate([target.pixels(rows.pixels, columns.pixels) for rows, columns in phases]),
            segments=np.arange(self.kernel[0]) * source.row,
            weights_begin=np.cumsum([0, *weights]),
        )
        return Phases(tables, np.array([(rows.phase, columns.phase) for rows, columns in phases]), source.size)


@lru_cache(maxsize=256)
def geometry(
    image: tuple[int, int, int], out_channels: int, kernel: tuple[int, int], stride: int, padding: int
) -> Geometry:
    """Return the (cached) geometry of a convolution of images (H, W, C)."""
    return Geometry(*image, out_channels, kernel, stride, padding)
