"""The filters of Winograd's convolutions, G g G', from the weights; see `winograd_forms`.

They lie in the same array as the weights, so the layer's weights may change, in training with every step, and their
transforms follow. Like a vector of channels of a patch, a vector of filters of 16 output channels is one sequence of
instructions.
"""

from hlf_np.arrays import Floats, Integers
from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner
from hlf_np.kernels.linking import floats, rows
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.winograd import make_transform
from hlf_np.kernels.winograd_forms import FORMS, SAME, TO_SMALL, TO_THREE

VECTORS_PER_BLOCK = 64

# of nine taps; of four at four points and at five
_same, _to_three, _to_small = (make_transform(FORMS[form].filter) for form in (SAME, TO_THREE, TO_SMALL))


@inner
def filters_block(block, weights, vectors):  # type: ignore[no-untyped-def]
    """A block of vectors of filters.

    vectors : (V, 6), of each: its form; where its first tap is, the distances of rows of taps and of taps in a row;
    where the first number of G g G' goes, and the distance of these.
    """
    for index in range(block * VECTORS_PER_BLOCK, min((block + 1) * VECTORS_PER_BLOCK, vectors.shape[0])):
        form, at, row, tap, to, entry = vectors[index]
        if form == SAME:
            _same(weights, at, row, tap, weights, to, entry)
        elif form < TO_SMALL:
            _to_three(weights, at, row, tap, weights, to, entry)
        else:
            _to_small(weights, at, row, tap, weights, to, entry)


FILTERS = Parallel(filters_block, floats, rows)
_blocks = FILTERS.spread


@inner
def all_filters(addresses, weights, vectors):  # type: ignore[no-untyped-def]
    """addresses : of `FILTERS`."""
    _blocks(addresses, (vectors.shape[0] + VECTORS_PER_BLOCK - 1) // VECTORS_PER_BLOCK, weights, vectors)


@kernel
def _transform(addresses, weights, vectors):  # type: ignore[no-untyped-def]
    all_filters(addresses, weights, vectors)


def transform(weights: Floats, vectors: Integers) -> None:
    """Write G g G' of all filters; see `filters_block`."""
    if len(vectors):
        _transform(FILTERS.addresses, weights, vectors)
