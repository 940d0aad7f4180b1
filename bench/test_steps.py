"""Benchmarks of attacks, prediction, training and the generation of FONTS."""

import numpy as np
import pytest

from hlf_np import attacks, models, training
from hlf_np.attacks import PGD
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import Fonts, load_prototypes
from hlf_np.models.architectures import DEFAULTS, Kind
from hlf_np.spaces import ImageBall


def random_split(count):
    random = np.random.default_rng(0)
    return Split(random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count))


@pytest.mark.parametrize("kind", [Kind.CNN, Kind.MLP])
@pytest.mark.parametrize("rule", attacks.Rule)
def test_attack(benchmark, kind, rule):
    model, split = models.Model.from_architecture(DEFAULTS[kind]), random_split(100)
    attack = PGD(rule=rule, stop_early=False)
    benchmark(attack.find, model, split, ImageBall())


def test_predict(benchmark):
    benchmark(models.cnn().predict, random_split(1000).images)


def test_training_epoch(benchmark):
    model, split, config = models.cnn(), random_split(500), training.TrainingConfig(epochs=1)
    benchmark(training.train, model, split, config=config)


def test_fonts(benchmark):
    fonts = Fonts(load_prototypes())
    benchmark(fonts.split, np.arange(10_000))
