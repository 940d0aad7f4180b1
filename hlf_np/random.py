"""The source of all random numbers."""

import zlib

import numpy as np

from hlf_np.support.checks import check_count


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Create the random generator for a seed and a purpose.

    Generators for different purposes are independent (`numpy.random.SeedSequence` with a spawn key), so an additional
    draw for one purpose does not change the numbers of another.

    Parameters
    ----------
    seed : int
        Seed of the experiment, at least 0.
    *purpose : str or int
        What the numbers are for, such as "attack" and the index of a batch.

    Returns
    -------
    numpy.random.Generator
        A new generator, which yields the same numbers for the same arguments.

    Raises
    ------
    UserError
        If the seed is not an integer of at least 0.

    Examples
    --------
    >>> first = generator(0, "attack", 3).random()
    >>> first == generator(0, "attack", 3).random(), first == generator(0, "attack", 4).random()
    (True, False)
    """
    check_count("seed", seed, minimum=0)
    key = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
