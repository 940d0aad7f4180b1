"""Commands for a grid of models: compute it, and report on it."""

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
    IntegerList,
    NamesOption,
    data_options,
    option,
    path_option,
    plugin_option,
    read_plugins,
    reject_unused,
    threads_option,
)
from hlf_np.support.errors import UserError

if TYPE_CHECKING:
    from hlf_np.experiments.analysis.claim import Claim
    from hlf_np.experiments.grid.prepare import Progress
    from hlf_np.experiments.grid.run import Workers
    from hlf_np.experiments.results import CellResult
    from hlf_np.experiments.storage.store import Store

MAX_CHANNELS = 2**16
MAX_JOBS = 1024
THREADS_PER_JOB = 4  # with more, the threads of a training step mostly wait: `bench/scaling.py`
PROGRESS_BAR_STEPS = 10_000  # the bar counts in integers


@click.command()
@option("--preset", default="quick", help="Scale of the experiment: smoke, quick, standard or paper.")
@data_options
@click.option(
    "--trainings",
    cls=NamesOption,
    names=lambda catalogue: catalogue.trainings,
    help="Comma-separated list of trainings: NAMES. [default: those of the preset and of the plugins that the dataset"
    " supports]",
)
@click.option("--sizes", type=IntegerList(), help="Numbers of training images N. [default: the preset's]")
@click.option("--seeds", type=int, help="Number of models for each training and N. [default: the preset's]")
@click.option(
    "--vae-channels",
    type=IntegerList(),
    help="Channels of the convolutions of the VAEs. [default: the preset's]",
)
@click.option(
    "--vae-images",
    type=int,
    help="Number of training images of each class for its VAE; 0: no learned manifold. [default: the preset's]",
)
@click.option(
    "--data-vae-images",
    type=int,
    help="Number of training images for a VAE of all classes, the class-agnostic manifold. [default: 0]",
)
@click.option("--architecture", help="Architecture of the models: cnn, mlp, resnet or vgg. [default: cnn]")
@click.option(
    "--channels",
    type=IntegerList(),
    help="Channels of the stages of the models, or hidden units of an MLP. [default: the paper's]",
)
@click.option(
    "--variant", help="Variant of adversarial training: half, full or weak; see `train --help`. [default: half]"
)
@click.option(
    "--norm",
    help="Norm of perturbations: linf (radius 0.3) or l2 (radius 1.5; 0.3 on manifolds, 0.1 on that of all classes)."
    " [default: linf]",
)
@click.option(
    "--carlini-wagner", is_flag=True, help="Also search for small perturbations in L2, in image space and on manifolds."
)
@click.option("--transfer", is_flag=True, help="Also attack with adversarial examples of a separately trained model.")
@click.option(
    "--tracked-images",
    "n_tracked",
    type=int,
    help="Number of test images on which models are measured and attacked after every epoch. [default: the preset's]",
)
@path_option("--out", "results", "Results folder.")
@threads_option
@option(
    "--jobs",
    type=int,
    help="Number of models to train and attack in parallel; they share the threads."
    f" [default: one for every {THREADS_PER_JOB} threads]",
)
@click.option("--scheduler", help="Compute the models by the workers of a Dask scheduler, such as tcp://HOST:8786.")
@click.option("--tls-ca-file", type=PATH, help="Certificate authority of a scheduler at tls://HOST:8786.")
@click.option("--tls-cert", type=PATH, help="Certificate for it.")
@click.option("--tls-key", type=PATH, help="Private key for it.")
def run(
    preset: str,
    data: Data,
    out: Path,
    jobs: int | None,
    scheduler: str | None,
    tls_ca_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    **choices: Any,
) -> None:
    """Train and attack a grid of models, and write a report.

    A run can be interrupted at any time; repeat the command to resume it. It may then have more seeds and trainings,
    and more sizes below the largest.
    """
    import numba

    from hlf_np.experiments.configuration.config import PRESETS, Preset
    from hlf_np.experiments.grid.cluster import Cluster
    from hlf_np.experiments.grid.estimate import estimate
    from hlf_np.experiments.grid.prepare import fit
    from hlf_np.experiments.grid.processes import LocalProcesses
    from hlf_np.experiments.grid.run import check_grid, run_grid
    from hlf_np.experiments.results import failures
    from hlf_np.experiments.storage.folder import open_store
    from hlf_np.report.curves import table
    from hlf_np.report.published import published
    from hlf_np.report.write import write_report
    from hlf_np.support.checks import check_choice, check_count

    preset_config = PRESETS[check_choice("preset", preset, Preset)]
    config = fit(preset_config, data.source, plugins=data.plugins, **_run_settings(data, choices))
    check_grid(config, data.source)
    threads = numba.get_num_threads()
    workers: Workers | None = None
    if scheduler:
        reject_unused(["jobs"], "with --scheduler, whose workers have threads of their own")
        workers = Cluster(scheduler, tls_ca_file, tls_cert, tls_key)
        workers.connect().close()  # so that a wrong address shows up before anything is computed
    else:
        reject_unused(["tls_ca_file", "tls_cert", "tls_key"], "without --scheduler")
        jobs = check_count("jobs", max(1, threads // THREADS_PER_JOB) if jobs is None else jobs, 1, MAX_JOBS)
        workers = LocalProcesses(jobs) if jobs > 1 else None
    with open_store(out, config) as store:
        expected = estimate(config, store, data.source, jobs or 1)
        if expected.models:
            click.echo(expected.announcement(threads))
        with _progress_bar(expected.seconds) as progress:
            results = run_grid(config, store, progress, workers, lambda line: click.echo(line, err=True))
        claims = write_report(store, results)
    click.echo(table(results, published(config), config.measurements))
    if failed := failures(results):
        click.echo(f"\n{failed}")
    click.echo()
    _print_claims(claims, out)


def _run_settings(data: Data, options: dict[str, Any]) -> dict[str, Any]:
    """Convert the options of `run` to keyword arguments of `fit`."""
    from hlf_np.attacks import CarliniWagner
    from hlf_np.experiments.configuration.config import SURROGATE_IMAGES
    from hlf_np.models.architectures import DEFAULTS, Kind
    from hlf_np.spaces import PAPER_EPSILONS, Norm
    from hlf_np.support.checks import check_choice, check_count
    from hlf_np.trainings import ADVERSARIAL, Variant, training_of

    settings = {name: value for name, value in options.items() if value is not None}
    if "architecture" in settings:
        settings["architecture"] = DEFAULTS[check_choice("architecture", settings["architecture"], Kind)]
    for name in ("channels", "vae_channels"):
        for channels in settings.get(name, ()):
            check_count(f"--{name.replace('_', '-')}", channels, 1, MAX_CHANNELS)
    if "norm" in settings:
        settings["norm"] = check_choice("norm", settings["norm"], Norm)
        settings["epsilon"], settings["latent_epsilon"] = PAPER_EPSILONS[settings["norm"]]
    settings["carlini_wagner"] = CarliniWagner(bounded=False) if settings["carlini_wagner"] else None
    settings["n_transfer"] = min(SURROGATE_IMAGES, data.source.train_size) if settings.pop("transfer") else 0
    if "trainings" in settings:
        names = [name.strip() for name in settings["trainings"].split(",")]
        settings["trainings"] = tuple(training_of(name, data.catalogue.trainings) for name in names)
    if "variant" in settings:
        settings["variant"] = check_choice("variant", settings["variant"], Variant)
        if not any(training.depends_on(settings["variant"]) for training in settings.get("trainings", [ADVERSARIAL])):
            reject_unused(["variant"], "with these trainings, which it does not change")
    if "vae_images" in settings:
        settings["n_vae"] = check_count("--vae-images", settings.pop("vae_images"), 0, data.source.class_size)
        if not settings["n_vae"] and not settings.get("data_vae_images"):
            reject_unused(["vae_channels"], "with --vae-images 0")
    if "data_vae_images" in settings:
        limit = data.source.train_size
        settings["n_data_vae"] = check_count("--data-vae-images", settings.pop("data_vae_images"), 0, limit)
    return settings


@contextmanager
def _progress_bar(seconds: Mapping[str, float]) -> Iterator[Progress]:
    """Show a progress bar with the remaining time, on terminals only.

    Parameters
    ----------
    seconds : mapping of str to float
        Expected duration of each task. The remaining time is the expected duration of the remaining tasks, at the
        speed at which the finished tasks were completed.
    """
    total = sum(seconds.values())
    if not sys.stderr.isatty() or total <= 0:
        yield lambda what, task, share: None
        return
    with click.progressbar(
        length=PROGRESS_BAR_STEPS, file=sys.stderr, show_eta=True, item_show_func=lambda item: item or "", width=24
    ) as bar:
        done = 0.0

        def advance(what: str, task: str, share: float) -> None:
            nonlocal done
            done += share * seconds.get(task, 0)
            bar.update(min(PROGRESS_BAR_STEPS, round(PROGRESS_BAR_STEPS * done / total)) - bar.pos, what)

        yield advance


@contextmanager
def _finished_models(folder: Path, plugin_paths: tuple[str, ...]) -> Iterator[tuple[Store, list[CellResult]]]:
    """Open a results folder, and load the results of its finished models; raise UserError if there are none."""
    from hlf_np.experiments.storage.folder import open_store, stored_config

    with open_store(folder, stored_config(folder, read_plugins(plugin_paths))) as store:
        results = store.results()
        if not results:
            raise UserError(f"{str(folder)!r} contains no finished model: repeat the `run` command that created it")
        yield store, results


@click.command()
@click.argument("folder", type=PATH, default=Path("results"))
@plugin_option
def report(folder: Path, plugin_paths: tuple[str, ...]) -> None:
    """Regenerate the report of a results folder.

    If the run used plugins, they must be given again.
    """
    from hlf_np.report.write import write_report

    with _finished_models(folder, plugin_paths) as (store, results):
        claims = write_report(store, results)
    _print_claims(claims, folder)


@click.command()
@click.argument("folder", type=PATH, default=Path("results"))
@plugin_option
def explore(folder: Path, plugin_paths: tuple[str, ...]) -> None:
    """Rebuild the explorer of a results folder, a page to try its models by hand.

    If the run used plugins, they must be given again.
    """
    from hlf_np.report.write import write_explorer

    with _finished_models(folder, plugin_paths) as (store, results):
        path = write_explorer(store, results)
    click.echo(f"Explorer: {path}")


def _print_claims(claims: Iterable[Claim], folder: Path) -> None:
    """Print the verdicts on the claims and the path of the report."""
    for claim in claims:
        click.echo(claim)
    click.echo(f"Report: {folder / 'report.html'}")
