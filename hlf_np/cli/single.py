"""Commands about a single model: train, measure and attack it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from hlf_np.cli.options import (
    difficulty_option,
    learned_vaes,
    manifolds_option,
    named,
    option,
    path_option,
    seed_option,
    threads_option,
)
from hlf_np.errors import UserError


@click.command()
@option("--training", default="normal", help="How, as in `run --trainings`.")
@option("--variant", default="half", help="half or full: how much of each batch is perturbed; weak: half, weakly.")
@option("--n-train", default=1000, help="Training images.")
@option("--architecture", default="cnn", help="cnn, mlp, resnet or vgg.")
@option("--epochs", default=20)
@manifolds_option
@difficulty_option
@seed_option
@path_option("--out", "model.npz", "File of the trained model.")
@threads_option
def train(
    training: str,
    variant: str,
    n_train: int,
    architecture: str,
    epochs: int,
    manifolds: Path | None,
    difficulty: str,
    seed: int,
    out: Path,
    threads: int | None,
) -> None:
    """Train one model on FONTS and save it."""
    from hlf_np.threads import use_threads

    use_threads(threads)
    from hlf_np import models
    from hlf_np import training as trainings
    from hlf_np.checks import check_choice
    from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
    from hlf_np.files import check_writable
    from hlf_np.spaces import LearnedManifold, Space, Transformations, TrueManifold

    check_writable(out)
    name = check_choice("training", training, trainings.Training)
    if LearnedManifold in trainings.SPACES[name] and not manifolds:
        raise UserError(f"training {name} needs the VAEs of a run: give their folder with --manifolds")
    model = models.Model(models.DEFAULTS[check_choice("architecture", architecture, models.Kind)], seed)
    fonts = Fonts(load_prototypes(), check_choice("difficulty", difficulty, Difficulty))
    split = fonts.dataset(n_train, 0).train
    spaces: list[Space] = [TrueManifold(fonts), Transformations(fonts.box)]
    if vaes := learned_vaes(manifolds):
        spaces.append(LearnedManifold(vaes))

    def show(entry: trainings.EpochLog) -> None:
        click.echo(f"epoch {entry.epoch:>3}  loss {entry.loss:.4f}  error {entry.error:.4f}  {entry.seconds:.1f} s")

    trainings.train(model, split, training, epochs, seed=seed, progress=show, space=spaces, variant=variant)
    model.save(out)
    click.echo(f"Saved {out}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@option("--n-test", default=10_000, help="Test images for the test error.")
@option("--n-attacked", default=1000, help="The first of them, attacked where classified correctly.")
@option("--n-attacked-on-manifold", default=2500, help="Likewise, along the manifolds.")
@option("--restarts", default=5, help="Of each attack.")
@option("--epsilon", default=0.3, help="Size of the regular perturbations.")
@manifolds_option
@difficulty_option
@threads_option
def evaluate(
    model: Path,
    n_test: int,
    n_attacked: int,
    n_attacked_on_manifold: int,
    restarts: int,
    epsilon: float,
    manifolds: Path | None,
    difficulty: str,
    threads: int | None,
) -> None:
    """Test error of a saved model, and success rates of regular and of on-manifold attacks."""
    from hlf_np.threads import use_threads

    use_threads(threads)
    from hlf_np import models
    from hlf_np.checks import check_choice
    from hlf_np.data.fonts import Difficulty
    from hlf_np.experiments.config import RunConfig
    from hlf_np.experiments.evaluation import evaluate as measure
    from hlf_np.experiments.groundwork import fonts_of, load_dataset, spaces_of
    from hlf_np.manifolds.oracle import stored_oracle

    classifier = models.load(model)
    config = RunConfig(
        difficulty=check_choice("difficulty", difficulty, Difficulty),
        n_test=n_test,
        n_attacked=min(n_attacked, n_test),
        n_attacked_on_manifold=min(n_attacked_on_manifold, n_test),
        epsilon=epsilon,
        n_projected=0,
    )
    config = replace(config, attack=replace(config.attack, restarts=restarts))
    fonts = fonts_of(config)
    vaes = learned_vaes(manifolds)
    oracle = stored_oracle(manifolds) if manifolds else None
    test = load_dataset(config, fonts).test
    found, *_ = measure(classifier, test, config, spaces_of(config, fonts, vaes), oracle)
    click.echo(f"test error                             {found.test_error:.4f}  ({n_test} images)")
    click.echo(f"regular success, mean restart          {found.regular_success:.4f}  (epsilon {epsilon})")
    click.echo(f"regular success, any restart           {found.regular_success_worst:.4f}")
    click.echo(f"on true manifold, mean restart         {found.on_true_manifold_success:.4f}")
    click.echo(f"on true manifold, any restart          {found.on_true_manifold_success_worst:.4f}")
    if vaes:
        click.echo(f"on learned manifold, mean restart      {found.on_learned_manifold_success:.4f}")
        click.echo(f"on learned manifold, any restart       {found.on_learned_manifold_success_worst:.4f}")
    if oracle:
        click.echo(f"labels kept on it, by the oracle       {found.learned_labels_kept:.4f}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@option("--attack", "method", default="pgd", help="pgd; fgsm: a single step; cw: the smallest, by Carlini and Wagner.")
@option("--space", default="image", help="Where: image, true-manifold, learned-manifold or transformations.")
@option("--images", default=100, help="How many test images to attack.")
@option("--epsilon", default=0.3, help="Size of the perturbations.")
@option("--norm", default="linf", help="linf or l2.")
@option("--objective", default="cross-entropy", help="Of pgd: cross-entropy or margin.")
@option("--steps", default=40, help="Of pgd.")
@option("--step-size", default=0.005, help="Of pgd.")
@option("--rule", default="adam", help="Of pgd: adam or sign.")
@option("--restarts", default=1, help="Of pgd.")
@manifolds_option
@difficulty_option
@seed_option
@path_option("--out", "adversarial.npz", "File of the examples.")
@threads_option
def attack(
    model: Path,
    method: str,
    space: str,
    images: int,
    epsilon: float,
    norm: str,
    manifolds: Path | None,
    difficulty: str,
    out: Path,
    threads: int | None,
    **settings: Any,
) -> None:
    """Attack a saved model and save the adversarial examples.

    The file holds `originals`, `images`, `labels`, `predictions` and `success`.
    """
    from hlf_np.threads import use_threads

    use_threads(threads)
    import numpy as np

    from hlf_np import attacks, models
    from hlf_np.checks import check_choice, check_count
    from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
    from hlf_np.files import check_writable, replace_file
    from hlf_np.spaces import ImageBall, LearnedManifold, Norm, Transformations, TrueManifold

    check_writable(out)
    classifier = models.load(model)
    fonts = Fonts(load_prototypes(), check_choice("difficulty", difficulty, Difficulty))
    test = fonts.dataset(0, check_count("images", images)).test
    size: dict[str, Any] = {"epsilon": epsilon, "norm": check_choice("norm", norm, Norm)}
    where: dict[str, Any] = {
        "image": ImageBall(**size),
        "true-manifold": TrueManifold(fonts, **size),
        "transformations": Transformations(fonts.box, **size),
    }
    if vaes := learned_vaes(manifolds):
        where["learned-manifold"] = LearnedManifold(vaes, **size)
    elif space == "learned-manifold":
        raise UserError("space learned-manifold needs the VAEs of a run: give their folder with --manifolds")
    how: dict[str, Callable[..., attacks.AttackResult]] = {
        "pgd": partial(attacks.pgd, **settings),
        "fgsm": attacks.fgsm,
        "cw": attacks.carlini_wagner,
    }
    find, chosen = named("attack", method, how), named("space", space, where)
    result = find(classifier, test.images, test.labels, chosen, test.codes)
    predictions = classifier.predict(result.images)
    correct = classifier.predict(test.images) == test.labels
    with replace_file(out) as stream:
        np.savez_compressed(
            stream,
            originals=test.images,
            images=result.images,
            labels=test.labels,
            predictions=predictions,
            success=result.success,
        )
    fooled = result.success[correct].sum()
    click.echo(f"{correct.sum()} of {images} images are classified correctly; {fooled} of them no longer are")
    click.echo(f"Saved {out}")
