"""How many threads the kernels use."""

import os

from hlf_np.checks import check_count
from hlf_np.errors import UserError


def use_threads(count: int | None) -> int:
    """Let the kernels use `count` threads, by default one per core it may use, and return how many that is.

    Results do not depend on it. Numba fixes the largest possible number when it is first imported; call
    this before.

    Raises
    ------
    UserError : for a count outside 1 to 1024, or above what an already imported Numba allows.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = check_count("threads", cores if count is None else count, 1, 1024)
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(wanted, cores)))
    import numba
    from numba.core import config

    most = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if count is None:
        wanted = min(wanted, most)
    if wanted > most:
        raise UserError(f"threads must be at most {most}, not {wanted}: unset NUMBA_NUM_THREADS to use more")
    numba.set_num_threads(wanted)
    return wanted
