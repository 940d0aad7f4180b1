"""The vector registers of the processor that Numba compiles for, and the tile that fits into them.

A tile of `rows` x 2 vectors keeps rows * 2 sums in registers, besides 2 vectors of the matrix B and one value of A in
all lanes of a vector (see `products.tile`). Larger tiles need fewer loads for each multiply-add; a tile that does not
fit *spills*: sums are stored and loaded in every step, and the processor's peak is out of reach.

========  =====================  ======================  =====  ====  ==========================================
shape     registers              float32 per vector      lanes  rows  registers of a tile
========  =====================  ======================  =====  ====  ==========================================
AVX512    32 of 512 bits         16                      16     12    24 sums + 2 of B + 1 of A = 27
AVX2      16 of 256 bits         8                       8      6     12 sums + 2 of B + 1 of A = 15
NEON      32 of 128 bits         4, a vector takes 2     8      6     24 sums + 4 of B + 1 of A = 29
BASELINE  16 of 128 bits (SSE2)  4                       4      6     12 sums + 2 of B + 1 of A = 15
========  =====================  ======================  =====  ====  ==========================================

A tile needs at least 10 independent sums: a fused multiply-add takes 4 to 5 cycles, and two are started in each cycle.
The shape follows the target that Numba compiles for: the host, unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say
otherwise.
"""

from dataclasses import dataclass

from numba.core.registry import cpu_target


@dataclass(frozen=True)
class TileShape:
    """The shape of vectors and tiles.

    Parameters
    ----------
    name : str
        The instruction set that it is made for.
    lanes : int
        Number of float32 values in a vector of the kernels.
    rows : int
        Number of rows of a tile, which has two vectors in each.
    registers : int
        Number of vector registers.
    register_lanes : int
        Number of float32 values in a register.
    """

    name: str
    lanes: int
    rows: int
    registers: int
    register_lanes: int

    @property
    def registers_of_tile(self) -> int:
        """Number of registers that a tile of two vectors in each row needs."""
        per_vector = self.lanes // self.register_lanes
        return (2 * self.rows + 2) * per_vector + 1


AVX512 = TileShape("AVX-512", lanes=16, rows=12, registers=32, register_lanes=16)
AVX2 = TileShape("AVX2", lanes=8, rows=6, registers=16, register_lanes=8)
NEON = TileShape("NEON", lanes=8, rows=6, registers=32, register_lanes=4)
BASELINE = TileShape("baseline", lanes=4, rows=6, registers=16, register_lanes=4)


def shape_of(triple: str, features: str) -> TileShape:
    """Choose the shape for a target of LLVM.

    Parameters
    ----------
    triple : str
        The architecture and system, such as "x86_64-unknown-linux-gnu".
    features : str
        What the processor has ("+") and lacks ("-"), separated by commas.

    Examples
    --------
    >>> shape_of("x86_64-unknown-linux-gnu", "+avx2,+fma,-avx512f").name
    'AVX2'
    """
    available = set(features.split(","))
    if triple.startswith(("aarch64", "arm64")):
        return NEON
    if "+avx512f" in available:
        return AVX512
    return AVX2 if {"+avx2", "+fma"} <= available else BASELINE


_triple, _, _features = cpu_target.target_context.codegen().magic_tuple()
SHAPE = shape_of(_triple, _features)
LANES = SHAPE.lanes
