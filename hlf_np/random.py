"""Where every random number comes from."""

import zlib

import numpy as np

from hlf_np.checks import check_count


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A random generator of its own for each (seed, purpose).

    Streams for different purposes are independent (`numpy.random.SeedSequence` with a spawn key), so
    adding a draw in one place changes no other place.

    Examples
    --------
    >>> first = generator(0, "attack", 3).random()
    >>> first == generator(0, "attack", 3).random(), first == generator(0, "attack", 4).random()
    (True, False)
    """
    check_count("seed", seed, least=0)
    key = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
