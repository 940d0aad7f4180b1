"""Do the attacks of the Adversarial Robustness Toolbox (ART) find more adversarial examples than ours?

    pip install -e .[art]
    python -m hlf_np train --training adversarial --n-train 1000 --out adversarial.npz
    python bench/art_agreement.py adversarial.npz

All attack the same test images of FONTS, those of the first that the model classifies correctly, in an L_inf ball. An
image counts if any restart fools the model. Prints a table, and exits with 1 if one of ART's attacks beats our
strongest by more than two points: then our gradients would be masked, or our attack too weak.
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
from hlf_np.arrays import Floats
from hlf_np.data import load_fonts
from hlf_np.data.dataset import Split
from hlf_np.spaces import ImageBall
from hlf_np.threads import use_threads

STEPS, RESTARTS = 100, 5
ALLOWED = 0.02  # how much better the best of ART's may be
BATCH = 250


def contenders(
    model: models.Model, split: Split, epsilon: float, queries: int
) -> dict[str, tuple[bool, Callable[[], Floats]]]:
    """The attacks by name: whether it is one of ours, and a function that gives the final images."""
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent, SquareAttack

    from hlf_np.adapters.art import Classifier

    space, step = ImageBall(epsilon), epsilon / 15

    def ours(**settings: Any) -> Callable[[], Floats]:
        return lambda: attacks.pgd(model, split.images, split.labels, space, restarts=RESTARTS, **settings).images

    def theirs(
        kind: Callable[..., object], objective: str = "cross-entropy", **settings: object
    ) -> Callable[[], Floats]:
        def generate() -> Floats:
            np.random.seed(0)  # noqa: NPY002, ART draws from NumPy's global generator
            attack = kind(
                Classifier(model, objective), norm=np.inf, eps=epsilon, batch_size=BATCH, verbose=False, **settings
            )
            return attack.generate(split.images.copy(), split.labels)  # type: ignore[no-any-return]

        return generate

    auto = {"eps_step": 2 * epsilon, "max_iter": STEPS, "nb_random_init": RESTARTS}
    return {
        "PGD, as `evaluate` measures": (True, ours()),
        f"PGD, {STEPS} sign steps": (True, ours(steps=STEPS, step_size=step, rule="sign")),
        f"PGD on the margin, {STEPS} sign steps": (
            True,
            ours(steps=STEPS, step_size=step, rule="sign", objective="margin"),
        ),
        f"random search, {queries} queries": (
            True,
            lambda: attacks.random_search(model, split.images, split.labels, space, queries=queries).images,
        ),
        f"PGD of ART, {STEPS} steps": (
            False,
            theirs(ProjectedGradientDescent, eps_step=step, max_iter=STEPS, num_random_init=RESTARTS),
        ),
        f"AutoPGD of ART on the cross-entropy, {STEPS} steps": (False, theirs(AutoProjectedGradientDescent, **auto)),
        f"AutoPGD of ART on the DLR, {STEPS} steps": (False, theirs(AutoProjectedGradientDescent, "dlr", **auto)),
        f"Square of ART, {queries} queries": (False, theirs(SquareAttack, max_iter=queries, nb_restarts=1)),
    }


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--images", default=1000, show_default=True, help="Test images, attacked where classified correctly.")
@click.option("--epsilon", default=0.3, show_default=True)
@click.option("--queries", default=2000, show_default=True, help="Of the searches without gradients.")
@click.option("--difficulty", default="hard", show_default=True)
@click.option("--threads", type=int)
def main(model: Path, images: int, epsilon: float, queries: int, difficulty: str, threads: int | None) -> None:
    """Compare attacks on a model file of `hlf_np train`."""
    use_threads(threads)
    classifier = models.load(model)
    test = load_fonts(0, images, difficulty).test
    split = test.take(np.flatnonzero(classifier.predict(test.images) == test.labels))
    fooled, own = {}, set()
    print(f"{len(split)} images, epsilon {epsilon}, {RESTARTS} restarts of the gradient attacks\n")
    print("| attack | success | that all of ours miss | seconds |\n|---|---|---|---|")
    for name, (is_ours, attack) in contenders(classifier, split, epsilon, queries).items():
        started = time.perf_counter()
        found = np.clip(attack(), 0, 1).astype(np.float32)
        seconds = time.perf_counter() - started
        assert np.abs(found - split.images).max() <= epsilon + 1e-5, f"{name} left the ball"
        fooled[name] = classifier.predict(found) != split.labels
        own |= {name} if is_ours else set()
        missed = "" if is_ours else f"{(fooled[name] & ~np.any([fooled[n] for n in own], axis=0)).mean():.3f}"
        print(f"| {name} | {fooled[name].mean():.3f} | {missed} | {seconds:.0f} |", flush=True)
    best_own = max(fooled[name].mean() for name in own)
    best_other = max(rate.mean() for name, rate in fooled.items() if name not in own)
    print(f"\nThe best of ART's is {100 * (best_other - best_own):+.1f} points from the best of ours.")
    sys.exit(int(best_other > best_own + ALLOWED))


if __name__ == "__main__":
    main()
