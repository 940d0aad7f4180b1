"""Decorators for functions that are called from compiled code only.

`error_model="numpy"`: division by zero gives infinity, as in NumPy. Numba's default raises an exception, and a loop
that may end early cannot be vectorized. `no_cfunc_wrapper`: no entry point for callers in C is compiled.
"""

from typing import Any

from hlf_np.kernels.numba_internals.cache import kernel

# A function that compiled code calls.
callee: Any = kernel(error_model="numpy", no_cfunc_wrapper=True)

# Like `callee`, for a function with a single caller: Numba inlines its source there and compiles it once, not twice.
inlined: Any = kernel(error_model="numpy", no_cfunc_wrapper=True, inline="always")

# A callee whose sums may be reordered, so that they become vector instructions. The order is the same in every run.
reassociating: Any = kernel(error_model="numpy", no_cfunc_wrapper=True, fastmath={"reassoc", "contract"})
