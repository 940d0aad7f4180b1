"""The sizes of a convolution and the tables that follow from them: which rows the kernels gather and scatter."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike

from hlf_np.arrays import Floats, Integers
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
    def source(self) -> Layout:
        """A chunk of padded input images."""
        return Layout(self.chunk, self.height, self.width, self.channels, frame=self.padding)

    @cached_property
    def target(self) -> Layout:
        """A chunk of output images whose channels fill whole vectors."""
        return Layout(self.chunk, self.out_height, self.out_width, padded(self.out_channels))

    @cached_property
    def windows(self) -> Integers:
        """Where each output pixel's window starts, (chunk * out_height * out_width,)."""
        return windows(self.source, self.kernel, self.stride, self.padding)

    @cached_property
    def window_segments(self) -> Integers:
        """Where the rows of a window start, relative to the window, (kh,)."""
        return np.arange(self.kernel[0]) * self.source.row

    @cached_property
    def target_pixels(self) -> Integers:
        """Where each output pixel goes."""
        return self.target.all_pixels()

    @cached_property
    def gradient_pixels(self) -> Integers:
        """Where each pixel of a chunk of output gradients starts, without padding."""
        return np.arange(self.windows.size) * self.out_channels

    @cached_property
    def window_columns(self) -> Integers:
        """Where each output pixel's contributions to its window go (gradient for few channels)."""
        return np.arange(self.windows.size) * padded(self.kernel[0] * self.kernel[1] * self.channels)

    def scratch(self, dtype: DTypeLike, *sizes: int) -> list[Floats]:
        """For each size an array (threads, size) to work in; framed ones are only ever written inside their frames."""
        threads = numba.get_num_threads()
        found = []
        for position, size in enumerate(sizes):
            key = (position, size, threads, np.dtype(dtype))
            if key not in self._scratch:
                self._scratch[key] = np.zeros((threads, size), dtype)
            found.append(self._scratch[key])
        return found

    @cached_property
    def _scratch(self) -> dict[Any, Floats]:
        return {}

    @cached_property
    def phases(self) -> "Phases":
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
    """Tables for the gradient to the input, phase after phase; up to stride^2 of them."""

    frame: int  # zeros around the output gradient
    framed: int  # numbers in a chunk of output gradients with frames
    starts: Integers  # (P, 2) first weight row and column
    taps: Integers  # (P, 2) weight rows and columns
    begin: Integers  # (P + 1,) where each phase's pixels begin in `sources` and `targets`
    sources: Integers  # where each pixel's window starts in the output gradient
    targets: Integers  # where each pixel goes in the input gradient
    segments: Integers  # where the rows of such a window start
    weights_begin: Integers  # (P + 1,) where each phase's weights begin


@lru_cache(maxsize=256)
def geometry(
    image: tuple[int, int, int], out_channels: int, kernel: tuple[int, int], stride: int, padding: int
) -> Geometry:
    """The (cached) geometry of a convolution over (H, W, C) images."""
    return Geometry(*image, out_channels, kernel, stride, padding)
