"""Compare what clean, regular and on-manifold examples weigh in a combined training with the paper's curve.

    python bench/combined_weights.py [--sizes 1000,5000,10000] [--seeds 1]

The three losses of the released code weigh a third each, though half of the images of a batch are clean. This package
perturbs a third of each batch in each way, so that the weights are the same. The third variant perturbs a quarter in
each way, and all images weigh the same. Prints test error and success of regular attacks on FONTS (hard), and the
success of the paper's curve at the same test error.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import numpy as np

from hlf_np import models, training
from hlf_np.attacks import PGD, SuccessRate
from hlf_np.autodiff import Tensor
from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.losses import CROSS_ENTROPY
from hlf_np.report.published import published
from hlf_np.spaces import ImageBall, TrueManifold
from hlf_np.support.arrays import Integers
from hlf_np.trainings import Training, training_of

COMBINED = training_of("regular_and_on_true_manifold_adversarial")
SPACES = (ImageBall, TrueManifold)


def released(model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers) -> Tensor:
    """Return the cross-entropy, weighted such that the clean half of the batch has a third of the mean."""
    weights = np.full(len(labels), 4 / 3, np.float32)
    weights[: len(labels) // 2] = 2 / 3
    return CROSS_ENTROPY(model, clean, perturbed, labels) * weights


VARIANTS = {
    "a third of the batch each": COMBINED,
    "half clean, losses a third each": Training("released", SPACES, released, fraction=0.5),
    "half clean, all images alike": Training("half_clean", SPACES, fraction=0.5),
}


@click.command()
@click.option("--sizes", default="1000,5000,10000", show_default=True, help="Numbers of training images.")
@click.option("--n-test", default=20_000, show_default=True, help="Number of test images for the test error.")
@click.option("--seeds", default=1, show_default=True, help="Number of models to average over.")
def main(sizes: str, n_test: int, seeds: int) -> None:
    """Print the means of test errors and success rates."""
    fonts = Fonts(load_prototypes(), Difficulty.HARD)
    paper = [r for r in published(RunConfig(trainings=(COMBINED,))) if r.value("regular_success") >= 0]
    curve = np.array(sorted((r.value("test_error"), r.value("regular_success")) for r in paper))
    click.echo(f"{'':>8}{'':<34}{'error':>8}{'success':>9}{'paper':>8}")
    for size in map(int, sizes.split(",")):
        data = fonts.dataset(size, n_test)
        for name, declared in VARIANTS.items():
            values = []
            for seed in range(seeds):
                model = models.cnn(seed=seed)
                training.train(model, data.train, declared, seed=seed, space=TrueManifold(fonts))
                correct = model.predict(data.test.images) == data.test.labels
                attacked = data.test.take(np.flatnonzero(correct[:1000]))
                success = SuccessRate.of(PGD(restarts=5).find(model, attacked, ImageBall(0.3)))
                values.append((1 - correct.mean(), success.average))
            error, rate = np.mean(values, axis=0)
            click.echo(f"{size:>8}  {name:<32}{error:>8.3f}{rate:>9.2f}{np.interp(error, *curve.T):>8.2f}")


if __name__ == "__main__":
    main()
