"""Commands about a grid of models: compute it, and make its report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlf_np.cli.options import (
    PATH,
    Data,
    NamesOption,
    WholeNumbers,
    data_options,
    option,
    path_option,
    plugin_option,
    plugins_at,
    refuse_unused,
    threads_option,
)
from hlf_np.errors import UserError

if TYPE_CHECKING:
    from hlf_np.experiments.claims import Claim
    from hlf_np.experiments.jobs import Progress

MOST_CHANNELS = 2**16


@click.command()
@option("--preset", default="quick", help="How large: smoke, quick, standard or paper.")
@data_options
@click.option(
    "--trainings",
    cls=NamesOption,
    names=lambda declared: declared.trainings,
    help="Separated by commas: NAMES. [default: the preset's and those of plugins, as far as the data has what they"
    " need]",
)
@click.option("--sizes", type=WholeNumbers(), help="Numbers of training images. [default: the preset's]")
@click.option("--seeds", type=int, help="Models for each training and size. [default: the preset's]")
@click.option("--vae-channels", type=WholeNumbers(), help="Of the learned manifold's VAEs. [default: the preset's]")
@click.option(
    "--vae-images", type=int, help="Of each class, to train its VAE; 0: no learned manifold. [default: the preset's]"
)
@click.option("--architecture", help="Of the models: cnn, mlp, resnet or vgg. [default: cnn]")
@click.option("--channels", type=WholeNumbers(), help="Of its stages, or units of an MLP. [default: the paper's]")
@click.option("--variant", help="Of adversarial trainings: half, full or weak, as in `train`. [default: half]")
@click.option("--norm", help="Of perturbations: linf (up to 0.3) or l2 (up to 1.5, on manifolds 0.3). [default: linf]")
@click.option("--carlini-wagner", is_flag=True, help="Also look for the smallest regular perturbations, in L2.")
@click.option("--transfer", is_flag=True, help="Also attack with adversarial examples of another, held-out model.")
@path_option("--out", "results", "Folder of the results.")
@threads_option
@option("--jobs", default=1, help="Processes that share the threads, each with a model of its own.")
def run(preset: str, data: Data, out: Path, jobs: int, **choices: Any) -> None:
    """Train and attack a grid of models and write a report.

    Can be stopped at any instant; the same command goes on where it stopped.
    """
    import numba

    from hlf_np.checks import check_choice, check_count
    from hlf_np.experiments.config import PRESETS, Preset
    from hlf_np.experiments.estimate import estimate
    from hlf_np.experiments.folder import open_store
    from hlf_np.experiments.groundwork import fit
    from hlf_np.experiments.results import failures
    from hlf_np.experiments.run import check_grid, run_grid
    from hlf_np.report.curves import table
    from hlf_np.report.published import published
    from hlf_np.report.write import write_report

    chosen = PRESETS[check_choice("preset", preset, Preset)]
    config = fit(chosen, data.source, plugins=data.plugins, **_choices(data, choices))
    check_grid(config, data.source)
    check_count("jobs", jobs, 1, 1024)
    with open_store(out, config) as store:
        expected = estimate(config, store, data.source)
        if expected.models:
            click.echo(expected.announcement(numba.get_num_threads()))
        with _progress(expected.seconds) as progress:
            results = run_grid(config, store, progress, jobs)
        claims = write_report(store, results)
    click.echo(table(results, published(config), config.measurements))
    if failed := failures(results):
        click.echo(f"\n{failed}")
    click.echo()
    _say(claims, out)


def _choices(data: Data, given: dict[str, Any]) -> dict[str, Any]:
    """What the user chose, as `fit` takes it."""
    from hlf_np.architectures import DEFAULTS, Kind
    from hlf_np.attacks import CarliniWagner
    from hlf_np.checks import check_choice, check_count
    from hlf_np.experiments.config import SURROGATE_IMAGES
    from hlf_np.spaces import PAPER_EPSILONS, Norm
    from hlf_np.trainings import Variant, training_of

    chosen = {name: value for name, value in given.items() if value is not None}
    if "architecture" in chosen:
        chosen["architecture"] = DEFAULTS[check_choice("architecture", chosen["architecture"], Kind)]
    for name in ("channels", "vae_channels"):
        for channels in chosen.get(name, ()):
            check_count(f"--{name.replace('_', '-')}", channels, 1, MOST_CHANNELS)
    if "norm" in chosen:
        chosen["norm"] = check_choice("norm", chosen["norm"], Norm)
        chosen["epsilon"], chosen["latent_epsilon"] = PAPER_EPSILONS[chosen["norm"]]
    chosen["carlini_wagner"] = CarliniWagner() if chosen["carlini_wagner"] else None
    chosen["n_transfer"] = min(SURROGATE_IMAGES, data.source.train_size) if chosen.pop("transfer") else 0
    if "trainings" in chosen:
        names = [name.strip() for name in chosen["trainings"].split(",")]
        chosen["trainings"] = tuple(training_of(name, data.catalogue.trainings) for name in names)
        if not any(training.spaces for training in chosen["trainings"]):
            refuse_unused(["variant"], "normal training")
    if "variant" in chosen:
        chosen["variant"] = check_choice("variant", chosen["variant"], Variant)
    if "vae_images" in chosen:
        chosen["n_vae"] = check_count("--vae-images", chosen.pop("vae_images"), 0, data.source.class_size)
        if not chosen["n_vae"]:
            refuse_unused(["vae_channels"], "--vae-images 0")
    return chosen


@contextmanager
def _progress(seconds: Mapping[str, float]) -> Iterator[Progress]:
    """A progress bar with the time left, on a terminal only; seconds : that each task is expected to take.

    The time left is what those tasks are expected to take that are left, at the speed of those that are done.
    """
    whole = sum(seconds.values())
    if not sys.stderr.isatty() or whole <= 0:
        yield lambda what, task, share: None
        return
    length = 10_000  # the bar counts in whole numbers
    with click.progressbar(
        length=length, file=sys.stderr, show_eta=True, item_show_func=lambda item: item or "", width=24
    ) as bar:
        done = 0.0

        def advance(what: str, task: str, share: float) -> None:
            nonlocal done
            done += share * seconds.get(task, 0)
            bar.update(min(length, round(length * done / whole)) - bar.pos, what)

        yield advance


@click.command()
@click.argument("folder", type=PATH, default=Path("results"))
@plugin_option
def report(folder: Path, plugin_paths: tuple[str, ...]) -> None:
    """Make the report of a results folder again, with the plugins that it was made with."""
    from hlf_np.experiments.folder import open_store, stored_config
    from hlf_np.report.write import write_report

    config = stored_config(folder, plugins_at(plugin_paths))
    with open_store(folder, config) as store:
        results = store.results()
        if not results:
            raise UserError(f"{str(folder)!r} holds no finished model yet: repeat the command that made it")
        claims = write_report(store, results)
    _say(claims, folder)


def _say(claims: Iterable[Claim], folder: Path) -> None:
    """What became of the claims, and where more is to be read."""
    for claim in claims:
        click.echo(claim)
    click.echo(f"Report: {folder / 'report.html'}")
