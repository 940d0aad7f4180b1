"""Commands about a single model: train, measure and attack it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlf_np.cli.options import (
    COUNT,
    PATH,
    SIZE,
    Data,
    NamesOption,
    by,
    data_options,
    manifolds_option,
    named,
    needed_vaes,
    option,
    path_option,
    refuse_unused,
    seed_option,
    threads_option,
    vaes_of,
)
from hlf_np.errors import UserError

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.models import Model


@click.command()
@option("--training", cls=NamesOption, names=lambda declared: declared.trainings, default="normal", help="How: NAMES.")
@option("--variant", default="half", help="half or full: how much of each batch is perturbed; weak: half, weakly.")
@option("--n-train", default=1000, help="Training images.")
@option("--architecture", default="cnn", help="cnn, mlp, resnet or vgg.")
@option("--epochs", type=COUNT, default=20)
@manifolds_option
@data_options
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
    data: Data,
    seed: int,
    out: Path,
) -> None:
    """Train one model and save it."""
    from hlf_np import models
    from hlf_np import training as trainings
    from hlf_np.architectures import DEFAULTS, Kind
    from hlf_np.checks import check_choice
    from hlf_np.experiments.config import RunConfig
    from hlf_np.experiments.groundwork import spaces_of
    from hlf_np.files import check_writable
    from hlf_np.trainings import training_of

    check_writable(out)
    chosen = training_of(training, data.catalogue.trainings)
    if not chosen.spaces:
        refuse_unused(["variant"], f"training {training}")
    kind, source = DEFAULTS[check_choice("architecture", architecture, Kind)], data.source
    vaes = needed_vaes(f"training {training}", chosen.needs, source, manifolds)
    split = source.dataset(n_train, 0).train
    spaces = spaces_of(RunConfig(plugins=data.plugins), source, vaes)
    model = models.Model(replace(kind, classes=len(source.class_names), image_shape=source.image_shape), seed)

    def show(entry: trainings.EpochLog) -> None:
        click.echo(f"epoch {entry.epoch:>3}  loss {entry.loss:.4f}  error {entry.error:.4f}  {entry.seconds:.1f} s")

    trainings.train(model, split, chosen, epochs, seed=seed, progress=show, space=spaces, variant=variant)
    model.save(out)
    click.echo(f"Saved {out}")


@click.command()
@click.argument("model", type=PATH)
@click.option("--n-test", type=int, help="Test images for the test error. [default: 10000, or all there are]")
@option("--n-attacked", default=1000, help="The first of them, attacked where classified correctly.")
@option("--n-attacked-on-manifold", default=2500, help="Likewise, along the manifolds.")
@option("--restarts", type=COUNT, default=5, help="Of each attack.")
@option("--epsilon", type=SIZE, default=0.3, help="Size of the regular perturbations.")
@option("--n-checked", default=200, help="Images to look for masked gradients on; 0: none.")
@click.option(
    "--transfer-from",
    type=PATH,
    help="Another model, whose adversarial examples are tried in that check. [default: none]",
)
@manifolds_option
@data_options
@threads_option
def evaluate(
    model: Path,
    n_test: int | None,
    n_attacked: int,
    n_attacked_on_manifold: int,
    restarts: int,
    epsilon: float,
    n_checked: int,
    transfer_from: Path | None,
    manifolds: Path | None,
    data: Data,
) -> None:
    """Test error of a saved model, and success rates of regular and of on-manifold attacks.

    Warns where these rates may be too low because the model hides its gradients.
    """
    import numpy as np

    from hlf_np.attacks import PGD, masking
    from hlf_np.checks import check_count
    from hlf_np.experiments.config import RunConfig
    from hlf_np.experiments.groundwork import spaces_of
    from hlf_np.experiments.measurements import Shown, Subject, measure
    from hlf_np.manifolds.oracle import stored_oracle

    if not check_count("n_checked", n_checked, least=0):
        refuse_unused(["transfer_from"], "--n-checked 0")
    source = data.source
    classifier = _model(model, source)
    other = _model(transfer_from, source) if transfer_from else None
    vaes = vaes_of(manifolds, source) if manifolds else ()
    oracle = stored_oracle(manifolds) if manifolds else None
    if not vaes and source.manifold is None:
        refuse_unused(["n_attacked_on_manifold"], "a dataset of unknown manifold, without --manifolds,")
    n_test = min(10_000, source.test_size) if n_test is None else n_test
    config = RunConfig(
        n_test=n_test,
        n_attacked=min(n_attacked, n_test),
        n_attacked_on_manifold=min(n_attacked_on_manifold, n_test),
        epsilon=epsilon,
        n_projected=0,
        attack=PGD(restarts=restarts),
        plugins=data.plugins,
    )
    test = source.dataset(0, n_test).test
    subject = Subject(classifier, test, config, spaces_of(config, source, vaes), oracle)
    shown = [measurement for measurement in config.measurements if measurement.shown is not Shown.NOWHERE]
    found = measure(subject, shown)
    click.echo(f"Of {n_test} test images of {source.name}; regular attacks within {epsilon}:")
    for measurement in shown:
        if np.isfinite(found[measurement.column]):
            click.echo(f"{found[measurement.column]:.4f}  {measurement.title}")
    attacked = test.take(slice(0, config.n_attacked))
    checked = attacked.take(np.flatnonzero(classifier.predict(attacked.images) == attacked.labels)[:n_checked])
    if len(checked):
        signs = masking.look_for(classifier, checked, epsilon, other)
        click.echo(f"{signs.white_box:.4f}  Success rate of a thorough regular attack, {signs.count} of these images")
        click.echo(f"{signs.searched:.4f}  Success rate of random search, on the same")
        for warning in signs.warnings():
            click.echo(f"hlf_np: gradients may be masked: {warning}", err=True)


@click.command()
@click.argument("model", type=PATH)
@option(
    "--attack",
    "method",
    cls=NamesOption,
    names=lambda declared: [each.name for each in declared.attacks],
    default="pgd",
    help="Which: NAMES.",
)
@option(
    "--space",
    cls=NamesOption,
    names=lambda declared: [each.choice() for each in declared.spaces],
    default="image",
    help="Where: NAMES.",
)
@option("--images", default=100, help="How many test images to attack.")
@option("--epsilon", type=SIZE, default=0.3, help="Size of the perturbations.")
@option("--norm", default="linf", help="linf or l2.")
@option("--objective", default="cross-entropy", help="Of pgd: cross-entropy, margin, dlr or kl.")
@option("--steps", type=COUNT, default=40, help="Of pgd.")
@option("--step-size", type=SIZE, default=0.005, help="Of pgd.")
@option("--rule", default="adam", help="Of pgd: adam or sign.")
@option("--restarts", type=COUNT, default=1, help="Of pgd.")
@manifolds_option
@data_options
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
    data: Data,
    seed: int,
    out: Path,
    **settings: Any,
) -> None:
    """Attack a saved model and save the adversarial examples.

    The file holds `originals`, `images`, `labels`, `predictions` and `success`.
    """
    import numpy as np

    from hlf_np.attacks import PGD
    from hlf_np.checks import check_count
    from hlf_np.files import check_writable, replace_file
    from hlf_np.spaces import Given

    check_writable(out)
    found = named("attack", method, {each.name: each for each in data.catalogue.attacks})
    if type(found) is PGD:
        found = replace(found, **settings)
    else:
        refuse_unused(settings.keys(), f"attack {method}")
        if not getattr(found, "random", True):
            refuse_unused(["seed"], f"attack {method}")
    kind = named("space", space, {each.choice(): each for each in data.catalogue.spaces})
    source = data.source
    classifier = _model(model, source)
    vaes = needed_vaes(f"space {space}", [kind.needs], source, manifolds)
    chosen = replace(kind.of_run(Given(source, vaes)), epsilon=epsilon, norm=norm)
    test = source.dataset(0, check_count("images", images, 1, source.test_size)).test
    result = found.find(classifier, test, chosen, seed)
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


def _model(path: Path, source: Source) -> Model:
    """A saved model, which must take the images and tell the classes of this source."""
    from hlf_np import models

    model = models.load(path)
    if (model.classes, model.image_shape) != (len(source.class_names), source.image_shape):
        raise UserError(
            f"{str(path)!r} tells {model.classes} classes of images {by(model.image_shape)} apart, {source.name} has"
            f" {len(source.class_names)} of {by(source.image_shape)}: give the dataset that it was trained on"
        )
    return model
