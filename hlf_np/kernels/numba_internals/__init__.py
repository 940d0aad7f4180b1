"""Everything that depends on internals of Numba and llvmlite.

No other module imports `llvmlite`, `numba.core` or `numba.extending`; tests/test_architecture.py checks this.

numba_types
    Short names of Numba's types (public).
processor
    The vector registers that Numba compiles for, and the shape of tiles. Uses `magic_tuple` of the code generator.
cache
    Machine code, kept for later processes. Uses `numba.core.caching` (`_CacheLocator`, `CompileResultCacheImpl`,
    `FunctionCache`), the attribute `_cache` of a dispatcher, and `numba.misc.appdirs`.
compiling
    The decorators of compiled functions: options of `numba.njit`, among them `no_cfunc_wrapper`.
function_pointers
    Compiling a function once and calling it by its address. Uses `overloads` of a dispatcher, `library` and `fndesc` of
    what it holds, and the calling convention `context.call_conv`.
parallel
    The only parallel loop. Uses the same, `return_user_exc`, and `numba.np.ufunc.parallel._is_initialized`.
work_stealing
    Distributing tasks among threads. Uses an atomic instruction of llvmlite's `IRBuilder`.
named_tuples
    Reading a named tuple from a row of integers. Uses `context.make_array` and `context.make_tuple`.
llvm_emitter
    Functions whose LLVM instructions are written by hand. Uses `numba.core.cgutils`, and for gathers
    `llvmlite.ir.instructions.GEPInstr` and `IRBuilder._insert`.

The modules from `function_pointers` on use `numba.extending.intrinsic`, and most read `numba.core.config.DISABLE_JIT`:
with NUMBA_DISABLE_JIT=1 every compiled function is plain Python, and functions written in LLVM are replaced by a NumPy
reference. That is how the tests find indices out of bounds, which compiled code does not check.

All this works with Numba 0.60 to 0.68. With a new version, run tests/test_cache.py (the cache is found, renewed and, on
a full disk, not needed), test_parallel.py (arguments, errors, forked processes), test_sharing.py (atomic counters),
test_kernels.py and test_winograd.py (tiles, sampling, results without compilation). If a name has moved, an import or
one of these tests fails; results do not change silently.
"""
