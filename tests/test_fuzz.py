"""Random networks, computed in every way and compared; `make fuzz` does it with thousands, each crash on its own."""

import numba
import pytest
from comparisons import Difference
from differential import check
from misfits import check_misfit, check_oddity, misfit, oddity
from networks import random_network

CHUNK = 25


def failures(examine, seeds) -> str:
    """What is wrong with each of some networks."""
    found = []
    for seed in seeds:
        try:
            examine(seed)
        except Difference as difference:
            found.append(str(difference))
    return "\n".join([f"{len(found)} of {len(seeds)}", *found]) if found else ""


@pytest.mark.parametrize(
    "first", [*range(0, 50, CHUNK), *(pytest.param(k, marks=pytest.mark.stress) for k in range(50, 300, CHUNK))]
)
def test_networks_are_the_same_in_every_way_of_computing_them(first, threads):
    # for images this small, waiting for each other takes longer than computing; some with all threads will do
    threads(1 if first else numba.config.NUMBA_NUM_THREADS)
    assert not (wrong := failures(lambda seed: check(random_network(seed), seed), range(first, first + CHUNK))), wrong


@pytest.mark.parametrize("first", range(0, 100, CHUNK))
def test_networks_that_do_not_fit_are_refused(first):
    assert not (wrong := failures(lambda seed: check_misfit(misfit(seed)), range(first, first + CHUNK))), wrong


def test_odd_networks_are_refused_or_the_same_in_every_way():
    assert not (wrong := failures(lambda seed: check_oddity(oddity(seed), seed), range(CHUNK))), wrong


def test_a_seed_always_draws_the_same_network():
    assert random_network(5).description == random_network(5).description != random_network(6).description
    assert misfit(5).description == misfit(5).description
