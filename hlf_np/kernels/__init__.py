"""The Numba code: one micro-kernel, and the loops around it.

`tile` multiplies a few gathered rows by a matrix in registers; `convolution` expresses every linear layer as such
products; `warp` samples images under affine maps. Everything else in the package is plain NumPy.
"""

import os

# GNU OpenMP's threads spin while they wait for each other, by default for many milliseconds. On a machine with other
# work to do, a spinning thread keeps the one it waits for from running, and short parallel loops become ten times
# slower; sleeping at once, on the other hand, costs a wake-up per loop. Half a millisecond bridges the time between
# two operations. OpenMP reads this once, when Numba first starts its threads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
