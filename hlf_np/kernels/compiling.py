"""How functions that only compiled code calls are compiled.

`error_model="numpy"`: a division by zero gives infinity, as the processor would have it. By default it raises an error,
and a loop that may end at any number becomes no vector instructions. `no_cfunc_wrapper`: nothing for callers in C.
"""

from typing import Any

from hlf_np.kernels.cache import kernel

inner: Any = kernel(error_model="numpy", no_cfunc_wrapper=True)

# The same, for a function that is called in one place: Numba puts its source there, and compiles it once, not twice.
pasted: Any = kernel(error_model="numpy", no_cfunc_wrapper=True, inline="always")

# The same as `inner`, and the terms of a sum may be added in any order, as vectors: in the same one every time.
summing: Any = kernel(error_model="numpy", no_cfunc_wrapper=True, fastmath={"reassoc", "contract"})
