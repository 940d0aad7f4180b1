"""Random transformations as the paper's released code draws them, and as this package does.

    python bench/released_draws.py [--n-train 1000] [--seeds 3]

The released code draws the six parameters around 0, where the scale is always the smallest allowed one; the paper's
curve of random transformations is made so. Drawn around the identity, they are a better baseline. Prints the test
errors of both on FONTS (hard).
"""

from __future__ import annotations

from dataclasses import replace

import click
import numpy as np

from hlf_np import models, training
from hlf_np.arrays import Floats, Integers
from hlf_np.data import load_fonts
from hlf_np.data.dataset import Codes
from hlf_np.data.fonts import BOXES, Difficulty
from hlf_np.spaces import Transformations
from hlf_np.spaces.warp_chart import WarpChart
from hlf_np.training import TrainingConfig
from hlf_np.trainings import training_of


class AroundZero(Transformations):
    """Drawn around 0, then brought into the box."""

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> WarpChart:
        """The same space, but for where a random start is drawn."""
        chart = super().chart(images, labels, codes)
        return replace(chart, start=np.zeros_like(chart.start))


@click.command()
@click.option("--n-train", default=1000, show_default=True)
@click.option("--n-test", default=10_000, show_default=True)
@click.option("--seeds", default=3, show_default=True)
def main(n_train: int, n_test: int, seeds: int) -> None:
    """Print means and standard errors."""
    data = load_fonts(n_train=n_train, n_test=n_test, difficulty="hard", seed=0)
    for name, kind in (("around 0, as released", AroundZero), ("around the identity", Transformations)):
        shares = training_of("random_transformations").perturbations([kind(BOXES[Difficulty.HARD])])
        errors = []
        for seed in range(seeds):
            model = models.cnn(seed=seed)
            training.train(model, data.train, config=TrainingConfig(shares), seed=seed)
            errors.append((model.predict(data.test.images) != data.test.labels).mean())
        spread = np.std(errors, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
        click.echo(f"{name:<24}{np.mean(errors):.3f}  (standard error {spread:.3f})")


if __name__ == "__main__":
    main()
