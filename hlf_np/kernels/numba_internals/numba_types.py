"""Numba's types of arguments: scalars, and contiguous arrays by element type and number of dimensions."""

from numba import types

int64, float32, boolean = types.int64, types.float32, types.boolean
int64_1d, int64_2d = types.int64[::1], types.int64[:, ::1]
float32_1d, float32_2d = types.float32[::1], types.float32[:, ::1]
float32_3d, float32_4d = types.float32[:, :, ::1], types.float32[:, :, :, ::1]
uint64_1d, boolean_1d = types.uint64[::1], types.boolean[::1]

Tuple = types.Tuple
