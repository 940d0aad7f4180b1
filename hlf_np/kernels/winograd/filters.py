"""The filter transform of Winograd's convolutions, G g G^T for all filters; `forms` explains it.

The transformed filters are stored in the same array as the weights. So when the weights of a layer change, in training
at every step, they are transformed again. A vector of output channels is transformed by one sequence of
instructions, like a vector of channels of a patch.
"""

from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.kernels.numba_internals.numba_types import float32_1d, int64_2d
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.winograd.forms import DOWN_F3_2, DOWN_F4_2, F2_3, F4_3, FORMS
from hlf_np.kernels.winograd.winograd import make_transform
from hlf_np.support.arrays import Floats, Integers

VECTORS_PER_BLOCK = 64

_transform_f2_3, _transform_f4_3, _transform_f3_2, _transform_f4_2 = (
    make_transform(FORMS[form].filter_transform) for form in (F2_3, F4_3, DOWN_F3_2, DOWN_F4_2)
)


@callee
def filter_transform_block(block, weights, vectors):  # type: ignore[no-untyped-def]
    """Transform a block of filters.

    vectors : (V, 6), for each vector of output channels

        form : an index of `FORMS`;
        offset, row_stride, tap_stride : where tap (0, 0) is among the weights, and the distances of rows and taps;
        target, entry_stride : where the first value of G g G^T goes, and the distance of these values.
    """
    for index in range(block * VECTORS_PER_BLOCK, min((block + 1) * VECTORS_PER_BLOCK, vectors.shape[0])):
        form, offset, row_stride, tap_stride, target, entry_stride = vectors[index]
        if form == F2_3:
            _transform_f2_3(weights, offset, row_stride, tap_stride, weights, target, entry_stride)
        elif form == F4_3:
            _transform_f4_3(weights, offset, row_stride, tap_stride, weights, target, entry_stride)
        elif form < DOWN_F4_2:
            _transform_f3_2(weights, offset, row_stride, tap_stride, weights, target, entry_stride)
        else:
            _transform_f4_2(weights, offset, row_stride, tap_stride, weights, target, entry_stride)


FILTER_TRANSFORM = ParallelLoop(filter_transform_block, float32_1d, int64_2d)
_blocks = FILTER_TRANSFORM.parallel_for


@callee
def transform_all_filters(addresses, weights, vectors):  # type: ignore[no-untyped-def]
    """Transform all filters, in compiled code; addresses : those of `FILTER_TRANSFORM`."""
    _blocks(addresses, (vectors.shape[0] + VECTORS_PER_BLOCK - 1) // VECTORS_PER_BLOCK, weights, vectors)


@kernel
def _transform_all_filters(addresses, weights, vectors):  # type: ignore[no-untyped-def]
    transform_all_filters(addresses, weights, vectors)


def transform_filters(weights: Floats, vectors: Integers) -> None:
    """Transform all filters in place.

    Parameters
    ----------
    weights : ndarray of float32, shape (W,)
        The weights, followed by the transformed filters.
    vectors : ndarray of int64, shape (V, 6)
        Where the filters are and where they go; see `filter_transform_block`.
    """
    if len(vectors):
        _transform_all_filters(FILTER_TRANSFORM.addresses, weights, vectors)
