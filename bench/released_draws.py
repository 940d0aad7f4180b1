"""Compare random transformations drawn as in the paper's released code with those of this package.

    python bench/released_draws.py [--n-train 1000] [--seeds 3]

The released code draws the six parameters of the transformations around 0, so that the scale is always the smallest
allowed value; the paper's curve of random transformations was obtained in this way. Transformations around the identity
are a stronger baseline. Prints the test errors of both on FONTS (hard).
"""

from __future__ import annotations

from dataclasses import replace

import click
import numpy as np

from hlf_np import models, training
from hlf_np.data import load_fonts
from hlf_np.data.dataset import Codes
from hlf_np.data.fonts import BOXES, Difficulty
from hlf_np.spaces import Transformations
from hlf_np.spaces.warp_chart import WarpChart
from hlf_np.support.arrays import Floats, Integers
from hlf_np.training import TrainingConfig
from hlf_np.trainings import training_of


class AroundZero(Transformations):
    """Transformations drawn around 0 and then clipped to the box."""

    def chart(self, images: Floats, labels: Integers, codes: Codes | None) -> WarpChart:
        """Return the same chart with random starts around 0."""
        chart = super().chart(images, labels, codes)
        return replace(chart, start=np.zeros_like(chart.start))


@click.command()
@click.option("--n-train", default=1000, show_default=True, help="Number of training images.")
@click.option("--n-test", default=10_000, show_default=True, help="Number of test images.")
@click.option("--seeds", default=3, show_default=True, help="Number of models to average over.")
def main(n_train: int, n_test: int, seeds: int) -> None:
    """Print the means and the standard errors of the test error."""
    data = load_fonts(n_train=n_train, n_test=n_test, difficulty="hard", seed=0)
    for name, space_type in (("around 0, as released", AroundZero), ("around the identity", Transformations)):
        shares = training_of("random_transformations").perturbations([space_type(BOXES[Difficulty.HARD])])
        errors = []
        for seed in range(seeds):
            model = models.cnn(seed=seed)
            training.train(model, data.train, config=TrainingConfig(shares), seed=seed)
            errors.append((model.predict(data.test.images) != data.test.labels).mean())
        standard_error = np.std(errors, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
        click.echo(f"{name:<24}{np.mean(errors):.3f}  (standard error {standard_error:.3f})")


if __name__ == "__main__":
    main()
