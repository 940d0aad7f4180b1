"""Compare the attacks of this package with those of the Adversarial Robustness Toolbox (ART).

    pip install -e .[art]
    python -m hlf_np train --training adversarial --n-train 1000 --out adversarial.npz
    python bench/art_agreement.py adversarial.npz

All attacks run on the same correctly classified test images of FONTS, within an L_inf ball. An attack succeeds on an
image if any restart does. Prints a table of success rates. The exit code is 1 if an attack of ART exceeds the strongest
attack of this package by more than two percentage points, which would indicate masked gradients or an attack that is
too weak.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from hlf_np import attacks, models
from hlf_np.data import load_fonts
from hlf_np.data.dataset import Split
from hlf_np.spaces import ImageBall
from hlf_np.support.arrays import Floats
from hlf_np.support.threads import use_threads

STEPS, RESTARTS = 100, 5  # of gradient attacks
TOLERANCE = 0.02  # by which the success rate of ART may exceed that of this package
BATCH_SIZE = 250


def contenders(
    model: models.Model, split: Split, epsilon: float, queries: int
) -> dict[str, tuple[bool, Callable[[], Floats]]]:
    """Return, by name, whether an attack is one of this package, and a function that returns its images."""
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent, SquareAttack

    from hlf_np.adapters.art import Classifier

    space, step = ImageBall(epsilon), epsilon / 15

    def ours(**settings: Any) -> Callable[[], Floats]:
        return lambda: attacks.pgd(model, split.images, split.labels, space, restarts=RESTARTS, **settings).images

    def theirs(
        kind: Callable[..., object], objective: str = "cross-entropy", **settings: object
    ) -> Callable[[], Floats]:
        def generate() -> Floats:
            np.random.seed(0)  # noqa: NPY002, ART uses the global generator of NumPy
            attack = kind(
                Classifier(model, objective), norm=np.inf, eps=epsilon, batch_size=BATCH_SIZE, verbose=False, **settings
            )
            return attack.generate(split.images.copy(), split.labels)  # type: ignore[no-any-return]

        return generate

    auto = {"eps_step": 2 * epsilon, "max_iter": STEPS, "nb_random_init": RESTARTS}
    return {
        "PGD as in `evaluate`": (True, ours()),
        f"PGD, {STEPS} sign steps": (True, ours(steps=STEPS, step_size=step, rule="sign")),
        f"PGD on the margin, {STEPS} sign steps": (
            True,
            ours(steps=STEPS, step_size=step, rule="sign", objective="margin"),
        ),
        f"AutoPGD on the cross-entropy, {STEPS} steps": (
            True,
            lambda: attacks.AutoPGD(STEPS, restarts=RESTARTS).find(model, split, space).images,
        ),
        f"AutoPGD on the targeted ratio, {STEPS} steps, 9 targets": (
            True,
            lambda: attacks.AutoPGD(STEPS, targets=9).find(model, split, space).images,
        ),
        f"random search, {queries} queries": (
            True,
            lambda: attacks.RandomSearch(queries).find(model, split, space).images,
        ),
        f"ART: PGD, {STEPS} steps": (
            False,
            theirs(ProjectedGradientDescent, eps_step=step, max_iter=STEPS, num_random_init=RESTARTS),
        ),
        f"ART: AutoPGD on the cross-entropy, {STEPS} steps": (False, theirs(AutoProjectedGradientDescent, **auto)),
        f"ART: AutoPGD on the difference of logits ratio, {STEPS} steps": (
            False,
            theirs(AutoProjectedGradientDescent, "dlr", **auto),
        ),
        f"ART: Square attack, {queries} queries": (False, theirs(SquareAttack, max_iter=queries, nb_restarts=1)),
    }


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--images", default=1000, show_default=True, help="Number of test images; misclassified ones are left out."
)
@click.option("--epsilon", default=0.3, show_default=True, help="Radius of the L_inf ball.")
@click.option("--queries", default=2000, show_default=True, help="Number of queries of attacks without gradients.")
@click.option("--difficulty", default="hard", show_default=True, help="Difficulty of FONTS.")
@click.option("--threads", type=int, help="Number of threads. [default: one per core]")
def main(model: Path, images: int, epsilon: float, queries: int, difficulty: str, threads: int | None) -> None:
    """Compare attacks on a model saved by `hlf_np train`."""
    use_threads(threads)
    classifier = models.load(model)
    test = load_fonts(0, images, difficulty).test
    split = test.take(np.flatnonzero(classifier.predict(test.images) == test.labels))
    fooled, own = {}, set()
    print(f"{len(split)} images, epsilon {epsilon}, {RESTARTS} restarts of the gradient attacks\n")
    print("| attack | success rate | missed by all of hlf_np | seconds |\n|---|---|---|---|")
    for name, (is_ours, attack) in contenders(classifier, split, epsilon, queries).items():
        started = time.perf_counter()
        adversarial = np.clip(attack(), 0, 1).astype(np.float32)
        seconds = time.perf_counter() - started
        assert np.abs(adversarial - split.images).max() <= epsilon + 1e-5, f"{name} left the ball"
        fooled[name] = classifier.predict(adversarial) != split.labels
        own |= {name} if is_ours else set()
        missed = "" if is_ours else f"{(fooled[name] & ~np.any([fooled[n] for n in own], axis=0)).mean():.3f}"
        print(f"| {name} | {fooled[name].mean():.3f} | {missed} | {seconds:.0f} |", flush=True)
    best_own = max(fooled[name].mean() for name in own)
    best_other = max(rate.mean() for name, rate in fooled.items() if name not in own)
    difference = 100 * (best_other - best_own)
    print(f"\nStrongest attack of ART minus strongest attack of hlf_np: {difference:+.1f} percentage points.")
    sys.exit(int(best_other > best_own + TOLERANCE))


if __name__ == "__main__":
    main()
