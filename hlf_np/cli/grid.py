"""Commands about a grid of models: compute it, and make its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlf_np.cli.options import WholeNumbers, chosen_source, data_options, option, path_option, threads_option
from hlf_np.errors import UserError

if TYPE_CHECKING:
    from hlf_np.experiments.config import RunConfig


@click.command()
@option("--preset", default="quick", help="How large: smoke, quick, standard or paper.")
@data_options
@click.option(
    "--trainings",
    help="Separated by commas: normal, adversarial, on_true_manifold_adversarial, on_learned_manifold_adversarial,"
    " adversarial_transformations, random_transformations, regular_and_on_true_manifold_adversarial."
    " [default: the preset's, those that need the true manifold on FONTS only]",
)
@click.option("--sizes", type=WholeNumbers(), help="Numbers of training images. [default: the preset's]")
@click.option("--seeds", type=int, help="Models for each training and size. [default: the preset's]")
@click.option("--vae-channels", type=WholeNumbers(), help="Of the learned manifold's VAEs. [default: the preset's]")
@click.option(
    "--vae-images", type=int, help="Of each class, to train its VAE; 0: no learned manifold. [default: the preset's]"
)
@path_option("--out", "results", "Folder of the results.")
@threads_option
def run(
    preset: str,
    dataset: str,
    dataset_name: str | None,
    difficulty: str | None,
    out: Path,
    threads: int | None,
    **choices: Any,
) -> None:
    """Train and attack a grid of models and write a report.

    Can be stopped at any instant; the same command goes on where it stopped.
    """
    from hlf_np.threads import use_threads

    use_threads(threads)
    from hlf_np.checks import check_choice
    from hlf_np.experiments.config import PRESETS, Preset
    from hlf_np.experiments.groundwork import fit
    from hlf_np.experiments.run import check_grid, run_grid
    from hlf_np.experiments.store import open_store
    from hlf_np.experiments.work import total_work
    from hlf_np.report.curves import table
    from hlf_np.report.published import published
    from hlf_np.report.write import write_report

    chosen = PRESETS[check_choice("preset", preset, Preset)]
    source = chosen_source(dataset, dataset_name, difficulty)
    config = _choose(fit(chosen, source), choices)
    check_grid(config, source)
    with open_store(out, config) as store:
        with _progress(total_work(config, store)) as progress:
            results = run_grid(config, store, progress)
        write_report(store, results)
    click.echo(table(results, published(config)))
    click.echo(f"\nReport: {out / 'report.html'}")


def _choose(config: RunConfig, choices: dict[str, Any]) -> RunConfig:
    """A preset with what the user chose."""
    from hlf_np.checks import check_choice
    from hlf_np.training import Training

    chosen = {name: value for name, value in choices.items() if value is not None}
    if "trainings" in chosen:
        names = [name.strip() for name in chosen["trainings"].split(",")]
        chosen["trainings"] = tuple(check_choice("training", name, Training) for name in names)
    if "vae_channels" in chosen:
        chosen["vae"] = replace(config.vae, channels=chosen.pop("vae_channels"))
    if "vae_images" in chosen:
        chosen["n_vae"] = chosen.pop("vae_images")
    return replace(config, **chosen)


@contextmanager
def _progress(work: float) -> Iterator[Callable[[str, float], None]]:
    """A progress bar with the time left, on a terminal only."""
    if not sys.stderr.isatty() or work <= 0:
        yield lambda what, done: None
        return
    length = 10_000  # the bar counts in whole numbers
    with click.progressbar(
        length=length, file=sys.stderr, show_eta=True, item_show_func=lambda item: item or "", width=24
    ) as bar:
        total = 0.0

        def advance(what: str, done: float) -> None:
            nonlocal total
            total += done
            bar.update(min(length, round(length * total / work)) - bar.pos, what)

        yield advance


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("results"))
def report(folder: Path) -> None:
    """Make the report of a results folder again."""
    from hlf_np.experiments.store import open_store, stored_config
    from hlf_np.report.write import write_report

    config = stored_config(folder)
    with open_store(folder, config) as store:
        results = store.results()
        if not results:
            raise UserError(f"{str(folder)!r} holds no finished model yet: repeat the command that made it")
        write_report(store, results)
    click.echo(f"Report: {folder / 'report.html'}")
