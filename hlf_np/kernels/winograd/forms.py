"""Winograd's convolutions: fewer multiplications, by the arithmetic of polynomials.

**F(2, 3): 3x3 kernels, stride 1.** Two neighbouring outputs of a filter (g0, g1, g2) over four inputs (d0, ..., d3)
share work:

    y0 = d0 g0 + d1 g1 + d2 g2 = m0 + m1 + m2        m0 = (d0 - d2) g0          m1 = (d1 + d2) (g0 + g1 + g2) / 2
    y1 = d1 g0 + d2 g1 + d3 g2 = m1 - m2 + m3        m3 = (d3 - d1) g2          m2 = (d2 - d1) (g0 - g1 + g2) / 2

which is 4 multiplications, not 6: the sums over the filter are computed beforehand, and those over the inputs are
shared by all filters. In general F(m, r), m outputs of a filter of r taps, takes m + r - 1 multiplications instead of
m r. With three constant matrices, and * element by element:

    y = A^T [(G g) * (B^T d)]                     in two dimensions:  Y = A^T [(G g G^T) * (B^T d B)] A

    B^T  input transform      (m + r - 1) x (m + r - 1)      inputs of a patch  ->  its transformed inputs
    G    filter transform     (m + r - 1) x r                taps of a filter   ->  its transformed taps
    A^T  output transform     m x (m + r - 1)                products           ->  outputs

The reason is polynomial interpolation. A polynomial of degree n - 1 is determined by its values at n points, values of
a product are products of values, and the points 0, 1, -1 and "infinity" (the leading coefficient) give matrices of
small integers (`_transforms`). A *patch* d of 4x4 pixels gives 2x2 outputs with 16 multiplications instead of 36.
F(4, 3), with six points, takes 36 multiplications instead of 144 for 4x4 outputs of 6x6 pixels.

**Many channels.** Each of the 16 transformed inputs of a patch, its *entries*, is a vector of C channels, and the sum
over channels can be taken before the output transform. So there are 16 matrix products, for the micro-kernel:

    patches                 entries                filters                sums                            outputs
    4x4 pixels   B^T d B    entry 0  (patches, C)  @  G g G^T  (C, O)  =  sum 0  (patches, O)   A^T m A   2x2 pixels
    of C         ------->   entry 1  (patches, C)  @  G g G^T  (C, O)  =  sum 1  (patches, O)   ------->  of O
    channels                   ...                                           ...                          channels
                            entry 15 (patches, C)  @  G g G^T  (C, O)  =  sum 15 (patches, O)

Arithmetic is saved, but patches must be read, transformed and written, so it pays where there are many channels.

**4x4 kernels, stride 2.** The paper's convolution is a sum of four of 2x2 and stride 1. Along an axis, output i is:

    y_i = x_{2i} w0 + x_{2i+1} w1 + x_{2i+2} w2 + x_{2i+3} w3      = (even x) with (w0, w2)  +  (odd x) with (w1, w3)

Each *phase* of the image (even or odd rows, even or odd columns) meets its own filter of 2x2, and the four sums are
added up, as longer rows in the same matrix products. F(4, 2) takes 5 multiplications instead of 8, in two dimensions 25
instead of 64. In the other direction, from the small image to the four phases of the big one (the gradient, or a
transposed convolution), pixel q of a phase is g_q w_p + g_{q-1} w_{p+2}: the same with the filter's taps reversed.

**Small images of up to 3x3** are one patch: F(3, 2) takes 4 multiplications (16 instead of 36). The way back is then
the multiplication of two polynomials, g_0 + g_1 t + g_2 t^2 by w_p + w_{p+2} t, with four coefficients and again 4
multiplications: by the transposed matrices, B [(G w) * (A g)].

References: S. Winograd, *Arithmetic Complexity of Computations* (1980); for networks A. Lavin and S. Gray, *Fast
Algorithms for Convolutional Neural Networks* (CVPR 2016). Still larger patches would lose accuracy: their matrices have
large entries, so large numbers cancel.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Matrix = tuple[tuple[float, ...], ...]


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients of the product of (t - root), from that of t^0 on."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _transforms(values: Sequence[Fraction | int], outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return B^T, A^T and G of F(outputs, taps), for points of these values, outputs + taps - 2, and infinity.

    Row i of G evaluates the filter at point i, divided by the product of the point's distances to the others; row i of
    B^T has the coefficients of the polynomial that is zero at all other points; and A^T has the powers of the points.
    """
    points = [Fraction(value) for value in values]
    others = [[b for b in points if b != a] for a in points]
    inputs = [[*_polynomial(rest), Fraction(0)] for rest in others] + [_polynomial(points)]
    filters = [
        [a**k / math.prod(a - b for b in rest) for k in range(taps)] for a, rest in zip(points, others, strict=True)
    ]
    filters.append([Fraction(k == taps - 1) for k in range(taps)])
    results = [[*(a**k for a in points), Fraction(k == outputs - 1)] for k in range(outputs)]
    to_floats = (tuple(tuple(map(float, row)) for row in matrix) for matrix in (inputs, results, filters))
    return next(to_floats), next(to_floats), next(to_floats)


_INPUT_4, _OUTPUT_F2_3, _FILTER_F2_3 = _transforms((0, 1, -1), outputs=2, taps=3)
_, _OUTPUT_F3_2, _FILTER_F3_2 = _transforms((0, 1, -1), outputs=3, taps=2)
_INPUT_5, _OUTPUT_F4_2, _FILTER_F4_2 = _transforms((0, 1, -1, 2), outputs=4, taps=2)
# these points lose less accuracy than 0, 1, -1, 2, -2: the error is half as large on average, a third at most
_INPUT_6, _OUTPUT_F4_3, _FILTER_F4_3 = _transforms(
    (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)), outputs=4, taps=3
)


class Form(NamedTuple):
    """A convolution F(m, r) in one direction."""

    input_transform: Matrix  # B^T
    output_transform: Matrix  # A^T
    filter_transform: Matrix  # G
    from_phases: bool  # whether it reads the four phases of an image, not the image as it is
    to_phases: bool  # whether it writes the four phases of an image
    offset: int  # where the first patch begins along an axis, in pixels of the image or of a phase

    @property
    def input_size(self) -> int:
        """Pixels that a patch reads along an axis; of each phase, if there are phases."""
        return len(self.input_transform[0])

    @property
    def output_size(self) -> int:
        """Outputs of a patch along an axis; of each phase, if there are phases."""
        return len(self.output_transform)

    @property
    def multiplications(self) -> int:
        """Multiplications of a patch along an axis."""
        return len(self.input_transform)

    def patch_starts(self, target_size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the pixels of the source, along an axis, at which the patches for a target of this size begin."""
        # phase 0 of an image begins one pixel before it: pixel q of phase p is pixel 2 q - 1 + p of the image
        count = target_size // 2 + 1 if self.to_phases else target_size
        starts = np.arange(0, count, self.output_size) + self.offset
        return 2 * starts - 1 if self.from_phases else starts

    def patches(self, height: int, width: int) -> int:
        """Return the number of patches for a target of this size."""
        return self.patch_starts(height).size * self.patch_starts(width).size

    def halo(self, source_size: int, target_size: int) -> int:
        """Return how many pixels the patches reach beyond the source."""
        starts = self.patch_starts(target_size)
        end = int(starts[-1]) + (2 * self.input_size if self.from_phases else self.input_size)
        return max(0, -int(starts[0]), end - source_size)


# The forms that the kernel knows, by index. DOWN maps a big image to a small one, by a 4x4 kernel with stride 2: a side
# of 2 n or 2 n + 1 pixels to one of n. UP maps back: it is the gradient of DOWN, and the transposed convolution.
F2_3, F4_3 = 0, 1  # 3x3 kernel, stride 1, in both directions; the image keeps its size
DOWN_F3_2, UP_F3_2 = 2, 3  # the small image has at most 3x3 pixels
DOWN_F4_2, UP_F4_2 = 4, 5  # images of any size
FORMS = (
    Form(_INPUT_4, _OUTPUT_F2_3, _FILTER_F2_3, from_phases=False, to_phases=False, offset=-1),
    Form(_INPUT_6, _OUTPUT_F4_3, _FILTER_F4_3, from_phases=False, to_phases=False, offset=-1),
    Form(_INPUT_4, _OUTPUT_F3_2, _FILTER_F3_2, from_phases=True, to_phases=False, offset=0),
    Form(_transposed(_OUTPUT_F3_2), _transposed(_INPUT_4), _FILTER_F3_2, from_phases=False, to_phases=True, offset=0),
    Form(_INPUT_5, _OUTPUT_F4_2, _FILTER_F4_2, from_phases=True, to_phases=False, offset=0),
    Form(_INPUT_5, _OUTPUT_F4_2, _FILTER_F4_2, from_phases=False, to_phases=True, offset=-1),
)
