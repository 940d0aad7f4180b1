"""A dataset: noise with one brighter row, a different one for each class."""

import numpy as np

from hlf_np.data import Dataset, DataSource, Split


def make():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 1000)
    images = random.random((1000, 16, 16, 1), np.float32) / 2
    images[np.arange(1000), 4 * labels + 4] += 0.2
    train, test = (Split(images[part], labels[part]) for part in (slice(600), slice(600, None)))
    return Dataset("stripes", ("upper", "middle", "lower"), train, test)


stripes = DataSource("stripes", make)
