"""Winograd's convolutions: fewer multiplications, by the arithmetic of polynomials.

**3x3, stride 1.** Two neighbouring outputs of a filter (g0, g1, g2) over four numbers (d0, ..., d3) share work::

    y0 = d0 g0 + d1 g1 + d2 g2 = m0 + m1 + m2        m0 = (d0 - d2) g0          m1 = (d1 + d2) (g0 + g1 + g2) / 2
    y1 = d1 g0 + d2 g1 + d3 g2 = m1 - m2 - m3        m3 = (d1 - d3) g2          m2 = (d2 - d1) (g0 - g1 + g2) / 2

which is 4 multiplications, not 6: the sums over the filter are known beforehand, and those over the numbers are shared
by all filters. In general, with matrices A (`sums`), B (`entries`) and G (`filter`), and * entry by entry::

    y = A [(G g) * (B d)]                in two dimensions, rows and then columns:    Y = A [(G g G') * (B d B')] A'

Behind it are polynomials: one of degree n - 1 is known from its values at n points, values of a product are products
of values, and the points 0, 1, -1 (and 2, and "infinity", the leading coefficient) make small entries. A *patch* d of
4x4 pixels gives 2x2 outputs for 16 multiplications instead of 36. With many channels the 16 entries are 16 matrix
products, patches times channels by channels times filters, for which there is the micro-kernel. What is saved is
arithmetic; what it costs is moving the patches to and fro, so it pays where there are many channels.

**4x4, stride 2.** The paper's convolution falls into four of 2x2 and stride 1. Along an axis, output i is::

    y_i = x_{2i} w0 + x_{2i+1} w1 + x_{2i+2} w2 + x_{2i+3} w3      = (even x) with (w0, w2)  +  (odd x) with (w1, w3)

Each *phase* of the image (even or odd rows, even or odd columns) meets its own filter of 2x2, and the four sums are
added up: as longer rows in the same matrix products. Four outputs of a filter of two take 5 multiplications instead
of 8, in two dimensions 25 instead of 64. The other way, from the small image to the four phases of the big one (the
gradient, or a transposed convolution), pixel q of a phase is g_q w_p + g_{q-1} w_{p+2}: the same with turned filters.

**A small image of 3x3** is one patch. Three outputs take 4 multiplications (16 instead of 36), and the whole way back
is the multiplication of two polynomials, also 4: by the transposed matrices, B' [(G g) * (A' d)].

(S. Winograd, *Arithmetic Complexity of Computations*, 1980; for networks A. Lavin and S. Gray, *Fast Algorithms for
Convolutional Neural Networks*, CVPR 2016. Larger patches save more and lose digits.)
"""

from typing import NamedTuple

import numpy as np

Matrix = tuple[tuple[float, ...], ...]


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


# of the points 0, 1, -1 and infinity; of 0, 1, -1, 2 and infinity
_FOUR: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_FIVE: Matrix = ((2, -1, -2, 1, 0), (0, -2, -1, 1, 0), (0, 2, -3, 1, 0), (0, -1, 0, 1, 0), (0, 2, -1, -2, 1))
_TWO_OF_FOUR: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
_THREE_OF_FOUR: Matrix = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1))
_FOUR_OF_FIVE: Matrix = ((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 0), (0, 1, -1, 8, 1))
# of three numbers at four points, of two at four, of two at five
_THREE_AT_FOUR: Matrix = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
_TWO_AT_FOUR: Matrix = ((1, 0), (1 / 2, 1 / 2), (1 / 2, -1 / 2), (0, 1))
_TWO_AT_FIVE: Matrix = ((1 / 2, 0), (-1 / 2, -1 / 2), (-1 / 6, 1 / 6), (1 / 6, 1 / 3), (0, 1))


class Form(NamedTuple):
    """One direction of a convolution.

    entries, sums, filter : B, A and G.
    from_phases, to_phases : whether it reads or writes the four phases of an image, or an image as it is.
    first : where the first patch begins along an axis, in pixels of the image or of a phase.
    """

    entries: Matrix
    sums: Matrix
    filter: Matrix
    from_phases: bool
    to_phases: bool
    first: int

    @property
    def reads(self) -> int:
        """Pixels along a patch."""
        return len(self.entries[0])

    @property
    def outputs(self) -> int:
        """Outputs along a patch; of each phase, if there are phases."""
        return len(self.sums)

    @property
    def multiplications(self) -> int:
        """Along a patch."""
        return len(self.entries)

    def begins(self, target_size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Along an axis, the pixels of the source at which the patches begin that yield a target of this size."""
        # phase 0 of an image begins one pixel before it: pixel q of phase p is pixel 2 q - 1 + p of the image
        count = target_size // 2 + 1 if self.to_phases else target_size
        begins = np.arange(0, count, self.outputs) + self.first
        return 2 * begins - 1 if self.from_phases else begins

    def frame(self, source_size: int, target_size: int) -> int:
        """How far patches reach beyond the source."""
        begins = self.begins(target_size)
        last = int(begins[-1]) + (2 * self.reads if self.from_phases else self.reads)
        return max(0, -int(begins[0]), last - source_size)


# What the kernel knows, by these numbers:
SAME = 0  # 3x3, stride 1, in both directions
TO_THREE, FROM_THREE = 1, 2  # 4x4, stride 2, to a small image of 3x3 at most, and back
TO_SMALL, TO_BIG = 3, 4  # 4x4, stride 2, of any size
FORMS = (
    Form(_FOUR, _TWO_OF_FOUR, _THREE_AT_FOUR, False, False, -1),
    Form(_FOUR, _THREE_OF_FOUR, _TWO_AT_FOUR, True, False, 0),
    Form(_transposed(_THREE_OF_FOUR), _transposed(_FOUR), _TWO_AT_FOUR, False, True, 0),
    Form(_FIVE, _FOUR_OF_FIVE, _TWO_AT_FIVE, True, False, 0),
    Form(_FIVE, _FOUR_OF_FIVE, _TWO_AT_FIVE, False, True, -1),
)
