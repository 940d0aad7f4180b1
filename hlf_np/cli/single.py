"""Commands for a single model: train, evaluate and attack it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlf_np.cli.manifolds import fitted, images_of_run, load_vaes, required_vaes
from hlf_np.cli.options import (
    BOUNDED_FLOAT,
    BOUNDED_INT,
    PATH,
    Data,
    ImageCountOption,
    NamesOption,
    data_options,
    format_shape,
    manifolds_option,
    option,
    path_option,
    reject_unused,
    seed_option,
    threads_option,
)
from hlf_np.support.errors import UserError

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.models import Model

N_TRAIN = ImageCountOption("--n-train", 1000, "Number of training images.")
N_TEST = ImageCountOption("--n-test", 10_000, "Number of test images for the test error.")
N_ATTACKED = ImageCountOption(
    "--n-attacked",
    1000,
    "Number of test images for regular attacks; those that the model misclassifies are left out.",
)
N_ATTACKED_ON_MANIFOLD = ImageCountOption(
    "--n-attacked-on-manifold", 2500, "Number of test images for attacks on manifolds."
)
IMAGES = ImageCountOption("--images", 100, "Number of test images to attack.")


@click.command()
@option(
    "--training",
    cls=NamesOption,
    names=lambda catalogue: catalogue.trainings,
    default="normal",
    help="How to train: NAMES.",
)
@option(
    "--variant",
    default="half",
    help="Share of each batch to perturb: half (two thirds by two kinds of examples) or full; weak: as half, by"
    " attacks that stop at the first success.",
)
@N_TRAIN
@option("--architecture", default="cnn", help="Architecture of the model: cnn, mlp, resnet or vgg.")
@option("--epochs", type=BOUNDED_INT, default=20, help="Number of epochs.")
@manifolds_option
@data_options
@seed_option
@path_option("--out", "model.npz", "File for the trained model.")
@threads_option
def train(
    training: str,
    variant: str,
    n_train: int | None,
    architecture: str,
    epochs: int,
    manifolds: Path | None,
    data: Data,
    seed: int,
    out: Path,
) -> None:
    """Train a model and save it."""
    from hlf_np import models
    from hlf_np import training as training_loop
    from hlf_np.experiments.configuration.config import RunConfig
    from hlf_np.experiments.grid.prepare import spaces_of
    from hlf_np.models.architectures import DEFAULTS, Kind
    from hlf_np.support.checks import check_choice
    from hlf_np.support.files import check_writable
    from hlf_np.trainings import Variant, training_of

    check_writable(out)
    method = training_of(training, data.catalogue.trainings)
    if not method.depends_on(check_choice("variant", variant, Variant)):
        reject_unused(["variant"], f"with training {training}, which it does not change")
    default, source = DEFAULTS[check_choice("architecture", architecture, Kind)], data.source
    vaes, data_vae = required_vaes(f"training {training}", method.needs, source, manifolds)
    split = source.dataset(N_TRAIN.value(n_train, source.train_size), 0).train
    config = RunConfig(plugins=data.plugins)
    codes_of = source.of_each_class(images_of_run("n_vae", manifolds, source.class_size)) if vaes else split
    spaces = [s.fitted(codes_of.images, codes_of.labels) for s in spaces_of(config, source, vaes, data_vae)]
    model = models.Model.from_architecture(
        replace(default, classes=len(source.class_names), image_shape=source.image_shape), seed
    )
    model.class_names = source.class_names

    def print_epoch(entry: training_loop.EpochLog) -> None:
        click.echo(f"epoch {entry.epoch:>3}  loss {entry.loss:.4f}  error {entry.error:.4f}  {entry.seconds:.1f} s")

    training_loop.train(model, split, method, epochs, seed=seed, progress=print_epoch, space=spaces, variant=variant)
    model.save(out)
    click.echo(f"Saved {out}")


@click.command()
@click.argument("model", type=PATH)
@N_TEST
@N_ATTACKED
@N_ATTACKED_ON_MANIFOLD
@option("--restarts", type=BOUNDED_INT, default=5, help="Number of restarts of each attack.")
@option("--epsilon", type=BOUNDED_FLOAT, default=0.3, help="Radius of regular perturbations.")
@option("--n-checked", default=200, help="Number of images to check for masked gradients; 0: no check.")
@click.option(
    "--transfer-from",
    type=PATH,
    help="File of another model; the check also tries its adversarial examples. [default: none]",
)
@manifolds_option
@data_options
@threads_option
def evaluate(
    model: Path,
    n_test: int | None,
    n_attacked: int | None,
    n_attacked_on_manifold: int | None,
    restarts: int,
    epsilon: float,
    n_checked: int,
    transfer_from: Path | None,
    manifolds: Path | None,
    data: Data,
) -> None:
    """Evaluate the accuracy and the robustness of a saved model.

    Prints the test error and the success rates of attacks, and warns if these rates may be too low because the model
    masks its gradients.
    """
    import numpy as np

    from hlf_np.attacks import PGD, masking
    from hlf_np.experiments.configuration.config import RunConfig
    from hlf_np.experiments.grid.prepare import spaces_of
    from hlf_np.experiments.measurements import Display, Subject, measure
    from hlf_np.experiments.measurements.series import EPSILONS, thorough_success
    from hlf_np.manifolds.oracle import stored_oracle
    from hlf_np.support.checks import check_count

    if not check_count("n_checked", n_checked, minimum=0):
        reject_unused(["transfer_from"], "with --n-checked 0")
    source = data.source
    classifier = _load_model(model, source)
    other = _load_model(transfer_from, source) if transfer_from else None
    vaes, data_vae = load_vaes(manifolds, source) if manifolds else ((), None)
    oracle = stored_oracle(manifolds) if manifolds else None
    if not vaes and data_vae is None and source.manifold is None:
        reject_unused(["n_attacked_on_manifold"], f"without --manifolds, as {source.name} has no known true manifold")
    n_test = N_TEST.value(n_test, source.test_size)
    attacked = N_ATTACKED.value(n_attacked, n_test)
    config = RunConfig(
        n_test=n_test,
        n_attacked=attacked,
        n_attacked_on_manifold=N_ATTACKED_ON_MANIFOLD.value(n_attacked_on_manifold, n_test),
        n_unseen=attacked,
        epsilon=epsilon,
        n_projected=0,
        attack=PGD(restarts=restarts),
        plugins=data.plugins,
    )
    test = source.dataset(0, n_test).test
    spaces = fitted(spaces_of(config, source, vaes, data_vae), source, manifolds)
    subject = Subject(classifier, test, config, spaces, oracle)
    shown = [measurement for measurement in config.measurements if measurement.display is not Display.NOWHERE]
    values = measure(subject, shown)
    click.echo(f"{n_test} test images of {source.name}, regular attacks on {attacked} of them within radius {epsilon}:")
    for measurement in shown:
        if np.isfinite(values[measurement.column]):
            click.echo(f"{values[measurement.column]:.4f}  {measurement.title}")
    checked = test.take(np.flatnonzero(subject.correct[: config.n_attacked])[:n_checked])
    if not subject.correct[: config.n_attacked].any():
        click.echo("None of these images is classified correctly: there are no regular attacks, and no check.")
    if len(checked):
        signs = masking.diagnose_masking(classifier, checked, epsilon, other)
        click.echo(f"{signs.white_box:.4f}  Success rate of a thorough regular attack on {signs.count} of these images")
        click.echo(f"{signs.random_search:.4f}  Success rate of random search on the same images")
        for radius, rate in zip(EPSILONS, thorough_success(classifier, checked), strict=True):
            click.echo(f"{rate:.4f}  Success rate of the strongest attack within radius {radius:g}")
        for warning in signs.warnings():
            click.echo(f"hlf_np: gradients may be masked: {warning}", err=True)


@click.command()
@click.argument("model", type=PATH)
@option(
    "--attack",
    "method",
    cls=NamesOption,
    names=lambda catalogue: [attack.name for attack in catalogue.attacks],
    default="pgd",
    help="Attack: NAMES.",
)
@option(
    "--space",
    cls=NamesOption,
    names=lambda catalogue: [space.option_name() for space in catalogue.spaces],
    default="image",
    help="Space of the perturbations: NAMES.",
)
@IMAGES
@click.option("--epsilon", type=BOUNDED_FLOAT, help="Radius of the perturbations. [default: that of runs]")
@option("--norm", default="linf", help="Norm of the perturbations: linf or l2.")
@option("--objective", default="cross-entropy", help="Objective of pgd: cross-entropy, margin, dlr or kl.")
@option("--steps", type=BOUNDED_INT, default=40, help="Number of steps of pgd.")
@click.option("--step-size", type=BOUNDED_FLOAT, help="Step size of pgd. [default: 0.005, or that of the space]")
@option("--rule", default="adam", help="Update rule of pgd: adam or sign.")
@option("--restarts", type=BOUNDED_INT, default=1, help="Number of restarts of pgd.")
@manifolds_option
@data_options
@seed_option
@path_option("--out", "adversarial.npz", "File for the adversarial examples.")
@threads_option
def attack(
    model: Path,
    method: str,
    space: str,
    images: int | None,
    epsilon: float | None,
    norm: str,
    manifolds: Path | None,
    data: Data,
    seed: int,
    out: Path,
    **settings: Any,
) -> None:
    """Attack a saved model and save the adversarial examples.

    The .npz file contains the arrays `originals`, `images`, `labels`, `predictions` and `success` (whether the
    prediction is wrong). The rate that is printed is that of images, or reconstructions, that are classified correctly
    before.
    """
    import numpy as np

    from hlf_np.attacks import PGD, checked_result
    from hlf_np.experiments.configuration.config import RunConfig
    from hlf_np.experiments.measurements import Subject
    from hlf_np.spaces import PAPER_EPSILONS, Norm, RunContext
    from hlf_np.support.checks import check_choice, check_count, choose
    from hlf_np.support.files import check_writable, replace_file
    from hlf_np.trainings import with_step_size_of

    if out.resolve() == model.resolve():
        raise UserError("--out would replace the model by its adversarial examples: give another file")
    check_writable(out)
    selected = choose("attack", method, {declared.name: declared for declared in data.catalogue.attacks})
    if type(selected) is not PGD:
        reject_unused(settings.keys(), f"with attack {method}")
        if not getattr(selected, "random", True):
            reject_unused(["seed"], f"with attack {method}")
    space_type = choose("space", space, {declared.option_name(): declared for declared in data.catalogue.spaces})
    source = data.source
    classifier = _load_model(model, source)
    vaes, data_vae = required_vaes(f"space {space}", [space_type.needs], source, manifolds)
    chosen_norm = check_choice("norm", norm, Norm)
    ball = space_type.of_run(RunContext(source, vaes, *PAPER_EPSILONS[chosen_norm], chosen_norm, data_vae))
    ball = ball if epsilon is None else replace(ball, epsilon=epsilon)
    if type(selected) is PGD:
        given = {name: value for name, value in settings.items() if value is not None}
        selected = replace(with_step_size_of(ball, selected), **given)
    images = check_count("images", IMAGES.value(images, source.test_size), 1, source.test_size)
    test = source.dataset(0, images).test
    (ball,) = fitted([ball], source, manifolds)
    config = RunConfig(n_test=images, n_attacked=images, n_attacked_on_manifold=images, n_unseen=0, n_projected=0)
    start = Subject(classifier, test, config, [ball]).start(type(ball))
    result = checked_result(selected, selected.find(classifier, test, ball, seed), classifier, test, ball)
    predictions = classifier.predict(result.images)
    with replace_file(out) as stream:
        np.savez_compressed(
            stream,
            originals=test.images,
            images=result.images,
            labels=test.labels,
            predictions=predictions,
            success=result.success,
        )
    attacked = "images" if ball.starts_at_image else "reconstructions"
    successes = (result.success & start.correct & start.perturbable).sum()
    click.echo(
        f"{start.correct.sum()} of {images} {attacked} are classified correctly; attacks succeed on {successes} of them"
    )
    click.echo(f"Saved {out}")


def _load_model(path: Path, source: Source) -> Model:
    """Load a model; raise UserError unless it fits the classes and the image shape of a dataset."""
    from hlf_np import models

    model = models.load(path)
    if (model.classes, model.image_shape) != (len(source.class_names), source.image_shape):
        raise UserError(
            f"{str(path)!r} is a model for {model.classes} classes of {format_shape(model.image_shape)} images, but"
            f" {source.name} has {len(source.class_names)} classes of {format_shape(source.image_shape)} images: give"
            " the dataset that it was trained on"
        )
    numbers = tuple(map(str, range(model.classes)))  # what classes without names are called
    if numbers not in (model.class_names, source.class_names):
        for label, (own, other) in enumerate(zip(model.class_names, source.class_names, strict=False)):
            if own != other:
                raise UserError(
                    f"{str(path)!r} is a model whose class {label} is {own!r}, but that of {source.name} is {other!r}:"
                    " give the dataset that it was trained on"
                )
    return model
