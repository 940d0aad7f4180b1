"""The command line. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from hlf_np import __version__
from hlf_np.errors import UserError

if TYPE_CHECKING:
    from hlf_np.experiments.config import RunConfig

PROGRAM = "python -m hlf_np"


class WholeNumbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 250,500")


def _option(*names: str, **settings: Any) -> Callable[..., Any]:
    return click.option(*names, show_default=True, **settings)


threads_option = click.option("--threads", type=int, help="Threads of the kernels. [default: one per core]")
seed_option = _option("--seed", type=click.IntRange(0), default=0, help="Of every random choice.")
difficulty_option = _option("--difficulty", default="hard", help="Of FONTS: easy, moderate or hard.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hlf_np")
def cli() -> None:
    """Are accurate and robust models possible?

    Trains small networks normally and on adversarial examples, attacks them, and shows how robustness
    and generalization go together: "Disentangling Adversarial Robustness and Generalization" (CVPR 2019)
    on the CPU.
    """


@cli.command()
@_option("--preset", default="quick", help="How large: smoke, quick, standard or paper.")
@_option("--dataset", default="fonts", help="The images.")
@click.option("--difficulty", help="Of FONTS: easy, moderate or hard. [default: hard]")
@click.option(
    "--trainings",
    help="Separated by commas: normal, adversarial, on_true_manifold_adversarial, on_learned_manifold_adversarial,"
    " adversarial_transformations, random_transformations, regular_and_on_true_manifold_adversarial. [default: all]",
)
@click.option("--sizes", type=WholeNumbers(), help="Numbers of training images. [default: the preset's]")
@click.option("--seeds", type=int, help="Models for each training and size. [default: the preset's]")
@click.option("--vae-channels", type=WholeNumbers(), help="Of the learned manifold's VAEs. [default: the preset's]")
@click.option(
    "--vae-images", type=int, help="Of each class, to train its VAE; 0: no learned manifold. [default: the preset's]"
)
@_option("--out", type=click.Path(path_type=Path), default=Path("results"), help="Folder of the results.")
@threads_option
def run(preset: str, out: Path, threads: int | None, **choices: Any) -> None:
    """Train and attack a grid of models and write a report.

    Can be stopped at any instant; the same command goes on where it stopped.
    """
    from hlf_np.threads import use_threads

    use_threads(threads)
    from hlf_np.checks import check_choice
    from hlf_np.experiments.config import PRESETS, Preset
    from hlf_np.experiments.groundwork import classes_of
    from hlf_np.experiments.run import check_grid, run_grid
    from hlf_np.experiments.store import open_store
    from hlf_np.experiments.work import total_work
    from hlf_np.report.curves import table
    from hlf_np.report.write import write_report

    config = _choose(PRESETS[check_choice("preset", preset, Preset)], choices)
    check_grid(config)
    with open_store(out, config) as store:
        with _progress(total_work(config, store)) as progress:
            results = run_grid(config, store, progress)
        write_report(store, results, classes_of(config))
    click.echo(table(results))
    click.echo(f"\nReport: {out / 'report.html'}")


def _choose(config: RunConfig, choices: dict[str, Any]) -> RunConfig:
    """A preset with what the user chose."""
    from hlf_np.checks import check_choice
    from hlf_np.data.fonts import Difficulty
    from hlf_np.training import Training

    chosen = {name: value for name, value in choices.items() if value is not None}
    if "difficulty" in chosen:
        chosen["difficulty"] = check_choice("difficulty", chosen["difficulty"], Difficulty)
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


@cli.command()
@_option("--training", default="normal", help="How, as in `run --trainings`.")
@_option("--variant", default="half", help="half or full: how much of each batch is perturbed; weak: half, weakly.")
@_option("--n-train", default=1000, help="Training images.")
@_option("--architecture", default="cnn", help="cnn, mlp, resnet or vgg.")
@_option("--epochs", default=20)
@difficulty_option
@seed_option
@_option("--out", type=click.Path(path_type=Path), default=Path("model.npz"), help="File of the trained model.")
@threads_option
def train(
    training: str,
    variant: str,
    n_train: int,
    architecture: str,
    epochs: int,
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
    from hlf_np.spaces import Transformations, TrueManifold

    check_writable(out)
    model = models.Model(models.DEFAULTS[check_choice("architecture", architecture, models.Kind)], seed)
    fonts = Fonts(load_prototypes(), check_choice("difficulty", difficulty, Difficulty))
    split = fonts.dataset(n_train, 0).train
    spaces = (TrueManifold(fonts), Transformations(fonts.box))

    def show(entry: trainings.EpochLog) -> None:
        click.echo(f"epoch {entry.epoch:>3}  loss {entry.loss:.4f}  error {entry.error:.4f}  {entry.seconds:.1f} s")

    trainings.train(model, split, training, epochs, seed=seed, progress=show, space=spaces, variant=variant)
    model.save(out)
    click.echo(f"Saved {out}")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@_option("--n-test", default=10_000, help="Test images for the test error.")
@_option("--n-attacked", default=1000, help="The first of them, attacked where classified correctly.")
@_option("--n-attacked-on-manifold", default=2500, help="Likewise, along the true manifold.")
@_option("--restarts", default=5, help="Of each attack.")
@_option("--epsilon", default=0.3, help="Size of the regular perturbations.")
@difficulty_option
@threads_option
def evaluate(
    model: Path,
    n_test: int,
    n_attacked: int,
    n_attacked_on_manifold: int,
    restarts: int,
    epsilon: float,
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

    classifier = models.load(model)
    config = RunConfig(
        difficulty=check_choice("difficulty", difficulty, Difficulty),
        n_test=n_test,
        n_attacked=min(n_attacked, n_test),
        n_attacked_on_manifold=min(n_attacked_on_manifold, n_test),
        epsilon=epsilon,
    )
    config = replace(config, attack=replace(config.attack, restarts=restarts))
    fonts = fonts_of(config)
    found, *_ = measure(classifier, load_dataset(config, fonts).test, config, spaces_of(config, fonts))
    click.echo(f"test error                         {found.test_error:.4f}  ({n_test} images)")
    click.echo(f"regular success, mean restart      {found.regular_success:.4f}  (epsilon {epsilon})")
    click.echo(f"regular success, any restart       {found.regular_success_worst:.4f}")
    click.echo(f"on-manifold success, mean restart  {found.on_true_manifold_success:.4f}")
    click.echo(f"on-manifold success, any restart   {found.on_true_manifold_success_worst:.4f}")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@_option("--attack", "method", default="pgd", help="pgd; fgsm: a single step; cw: the smallest, by Carlini and Wagner.")
@_option("--space", default="image", help="Where: image, true-manifold or transformations.")
@_option("--images", default=100, help="How many test images to attack.")
@_option("--epsilon", default=0.3, help="Size of the perturbations.")
@_option("--norm", default="linf", help="linf or l2.")
@_option("--objective", default="cross-entropy", help="Of pgd: cross-entropy or margin.")
@_option("--steps", default=40, help="Of pgd.")
@_option("--step-size", default=0.005, help="Of pgd.")
@_option("--rule", default="adam", help="Of pgd: adam or sign.")
@_option("--restarts", default=1, help="Of pgd.")
@difficulty_option
@seed_option
@_option("--out", type=click.Path(path_type=Path), default=Path("adversarial.npz"), help="File of the examples.")
@threads_option
def attack(
    model: Path,
    method: str,
    space: str,
    images: int,
    epsilon: float,
    norm: str,
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
    from hlf_np.spaces import ImageBall, Norm, Transformations, TrueManifold

    check_writable(out)
    classifier = models.load(model)
    fonts = Fonts(load_prototypes(), check_choice("difficulty", difficulty, Difficulty))
    test = fonts.dataset(0, check_count("images", images)).test
    size: dict[str, Any] = {"epsilon": epsilon, "norm": check_choice("norm", norm, Norm)}
    where = {
        "image": ImageBall(**size),
        "true-manifold": TrueManifold(fonts, **size),
        "transformations": Transformations(fonts.box, **size),
    }
    how: dict[str, Callable[..., attacks.AttackResult]] = {
        "pgd": partial(attacks.pgd, **settings),
        "fgsm": attacks.fgsm,
        "cw": attacks.carlini_wagner,
    }
    find, chosen = _named("attack", method, how), _named("space", space, where)
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


def _named(what: str, name: str, choices: dict[str, Any]) -> Any:
    """One of several things by its name."""
    if name not in choices:
        raise UserError(f"unknown {what} {name!r}: use one of {', '.join(choices)}")
    return choices[name]


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("results"))
def report(folder: Path) -> None:
    """Make the report of a results folder again."""
    from hlf_np.experiments.groundwork import classes_of
    from hlf_np.experiments.store import open_store, stored_config
    from hlf_np.report.write import write_report

    config = stored_config(folder)
    with open_store(folder, config) as store:
        results = store.results()
        if not results:
            raise UserError(f"{str(folder)!r} holds no finished model yet: repeat the command that made it")
        write_report(store, results, classes_of(config))
    click.echo(f"Report: {folder / 'report.html'}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON list.")
@threads_option
def bench(as_json: bool, threads: int | None) -> None:
    """Measure what this machine can do and how near the kernels come.

    Takes about a minute for one thread, and again for 2, 4, ... up to --threads. Let nothing else run meanwhile.
    """
    from hlf_np.threads import use_threads

    count = use_threads(threads)
    import json
    from dataclasses import asdict

    from hlf_np.benchmarks import HEAD, line, measure

    if as_json:
        click.echo(json.dumps([asdict(measurement) for measurement in measure(count)], indent=2))
        return
    click.echo(HEAD)
    for measurement in measure(count):
        click.echo(line(measurement))


@cli.group(invoke_without_command=True)
@_option("--out", type=click.Path(path_type=Path), default=Path("fonts-sheets"), help="Folder of the pictures.")
@click.option(
    "--prototypes",
    type=click.Path(path_type=Path),
    help="A file of `fonts build`. [default: the shipped one]",
)
@seed_option
@click.pass_context
def fonts(context: click.Context, out: Path, prototypes: Path | None, seed: int) -> None:
    """Draw the prototypes and random images of each difficulty; or build your own set."""
    if context.invoked_subcommand:
        return
    from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
    from hlf_np.files import replace_file
    from hlf_np.random import generator
    from hlf_np.report.sheets import contact_sheet, grid

    images = load_prototypes(prototypes)
    sheets = {"prototypes": contact_sheet(images, rows_per_column=100)}
    for difficulty in Difficulty:
        source = Fonts(images, difficulty, seed)
        chosen = generator(seed, "sheet").integers(source.train_size // source.classes, size=12) * source.classes
        numbers = (chosen[:, None] + range(source.classes)).ravel()  # each row: the ten letters of one font
        sample = source.split(numbers).images.reshape(len(chosen), source.classes, *images.shape[2:])
        sheets[str(difficulty)] = grid(sample, scale=2)
    for name, sheet in sheets.items():
        with replace_file(out / f"{name}.png") as stream:
            sheet.save(stream, format="png")
        click.echo(f"Saved {out / f'{name}.png'}")


@fonts.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@_option("--out", type=click.Path(path_type=Path), default=Path("prototypes.npz"), help="File of the prototypes.")
@click.option("--faces", type=click.IntRange(1), help="How many to keep. [default: all usable ones]")
@_option("--per-family", type=click.IntRange(1), default=8, help="Most faces of one family.")
def build(directories: tuple[Path, ...], out: Path, faces: int | None, per_family: int) -> None:
    """Make prototypes from the font files below DIRECTORIES."""
    from collections import Counter

    from hlf_np.data import font_files
    from hlf_np.data.font_selection import family_key

    kept, rejected = font_files.build(directories, faces=faces, per_family=per_family)
    font_files.write(kept, out)
    click.echo(f"Saved {out}: {len(kept)} faces of {len({family_key(face.family) for face in kept})} families")
    for reason, count in Counter(rejection.reason for rejection in rejected).most_common(10):
        click.echo(f"  left out {count}: {reason}")


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. A user's mistake ends in one line and exit code 2, an interruption in one line and 130."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_shown:
        click.echo(help_shown.format_message())
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        _fail(f"{error.format_message().rstrip('.')}: see `{where} --help`")
    except (UserError, click.ClickException) as error:
        _fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (KeyboardInterrupt, click.Abort):
        resume = ": what is finished is stored; the same command goes on from there" if "run" in sys.argv[1:2] else ""
        click.echo(f"Interrupted{resume}.", err=True)  # click has ended the line before
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; do not complain at exit
        sys.exit(1)


def _fail(message: str) -> None:
    click.echo(f"hlf_np: {' '.join(message.split())}", err=True)
    sys.exit(2)
