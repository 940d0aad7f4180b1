"""How many threads the kernels use."""

import os

from hlf_np.checks import check_count


def use_threads(count: int | None) -> int:
    """Let the kernels use `count` threads, by default one per core, and return how many that is.

    Results do not depend on it. Numba fixes the largest possible number when it is first imported; call
    this before.

    Raises
    ------
    UserError : for a count outside 1 to 1024, or above what an already imported Numba allows.
    """
    cores = os.cpu_count() or 1
    wanted = cores if count is None else check_count("threads", count, 1, 1024)
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(wanted, cores)))
    import numba
    from numba.core import config

    most = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(check_count("threads", wanted, 1, most))
    return wanted
