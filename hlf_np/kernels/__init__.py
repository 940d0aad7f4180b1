"""The Numba code: one micro-kernel, and the loops around it.

`tile` multiplies a few gathered rows by a matrix in registers; `convolution` expresses every linear layer as such
products; `warp` samples images under affine maps. Everything else in the package is plain NumPy.

Numba's on-disk cache notices a change in a function's own file only: after editing `tile.py`, run `make clean`.
"""
