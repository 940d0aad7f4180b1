"""Kernels, attacks and training steps give the same bits at any number of threads, also with more than there are cores.

The tests run once for each shape of the tile: see `test-avx2` and `test-baseline` in the Makefile.
"""

import hashlib

import numba
import numpy as np
import test_kernels

from hlf_np import models
from hlf_np.attacks import PGD
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import EMNIST_BOX
from hlf_np.models.vae import Vae, VaeConfig
from hlf_np.optim import AdamConfig
from hlf_np.programs.vae_training import VaeTraining
from hlf_np.spaces import ImageBall, LearnedManifold, Transformations
from hlf_np.train_step import make_train_step

THREADS = (1, 2, 5, 16)


def results():
    """Yield arrays that parallel loops of every kind compute."""
    yield from test_kernels.results()
    random = np.random.default_rng(0)
    split = Split(random.random((61, 28, 28, 1), np.float32), random.integers(0, 10, 61))
    config = VaeConfig(channels=(5, 16, 20), latent_dimensions=7)
    decoders = LearnedManifold([Vae(config, seed) for seed in range(10)])
    networks = models.cnn(), models.resnet(widths=(8, 16, 32)), models.mlp()
    spaces = ImageBall(0.2), decoders, Transformations(EMNIST_BOX)
    for model, space in zip(networks, spaces, strict=True):
        found = PGD(steps=3, step_size=0.02).find(model, split, space)
        yield from (found.images, found.perturbations, found.loss)
    for model in networks:
        step = make_train_step(model, AdamConfig())
        for _ in range(2):
            yield np.array(step.step(split.images, split.images, split.labels, 0.01))
        yield from (array for _, array in model.network.named_arrays())
    training = VaeTraining(Vae(config, 0), config)
    noise = random.standard_normal((61, 7)).astype(np.float32)
    for _ in range(2):
        yield from training.step(split.images, noise, 0.01)


def digests():
    """Print a digest of the results for each number of threads."""
    for count in THREADS:
        numba.set_num_threads(count)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in results())).hexdigest()
        print(numba.get_num_threads(), digest)


def test_results_have_the_same_bits_at_any_number_of_threads(run_python):
    printed = run_python("import test_threads; test_threads.digests()", NUMBA_NUM_THREADS=str(max(THREADS)))
    counts, found = zip(*(line.split() for line in printed.splitlines()), strict=True)
    assert counts == tuple(map(str, THREADS))
    assert len(set(found)) == 1, printed
