"""The number of threads that the kernels use."""

import os

from hlf_np.support.checks import check_count
from hlf_np.support.errors import UserError

MAX_THREADS = 1024


def use_threads(count: int | None) -> int:
    """Set the number of threads of the kernels; results do not depend on it.

    Numba fixes the largest possible number when it is first imported, so call this before that.

    Parameters
    ----------
    count : int or None
        Number of threads; None for one per available core.

    Returns
    -------
    int
        The number of threads that is used.

    Raises
    ------
    UserError
        If the count is not between 1 and 1024, or above what an already imported Numba allows.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = check_count("threads", cores if count is None else count, 1, MAX_THREADS)
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(threads, cores)))
    import numba

    limit = max_threads()
    if count is None:
        threads = min(threads, limit)
    if threads > limit:
        raise UserError(f"threads must be at most {limit}, not {threads}: unset NUMBA_NUM_THREADS to use more")
    numba.set_num_threads(threads)
    return threads


def max_threads() -> int:
    """Return the largest possible number of threads, which Numba has fixed when it was imported."""
    from numba import config

    return int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
