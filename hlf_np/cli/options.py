"""Options that several commands have, and what they mean."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hlf_np.errors import UserError

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.experiments.catalogue import Catalogue
    from hlf_np.experiments.plugins import Plugin
    from hlf_np.manifolds import Vae
    from hlf_np.spaces import Need

# Larger numbers are typing errors; kernels and arrays could not hold some of them.
COUNT, SIZE = click.IntRange(max=10**6), click.FloatRange(max=10**6)
PATH = click.Path(path_type=Path)


class WholeNumbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 250,500")


class NamesOption(click.Option):
    """An option whose help lists the names that are declared; they are looked up when somebody asks for help."""

    def __init__(self, *given: Any, names: Callable[[Catalogue], Iterable[object]], **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from hlf_np.experiments.catalogue import catalogue

        option, text = super().get_help_record(ctx) or ("", "")
        return option, text.replace("NAMES", ", ".join(map(str, self.names(catalogue()))))


def option(*names: str, **settings: Any) -> Callable[..., Any]:
    """An option whose help tells its default."""
    return click.option(*names, show_default=True, **settings)


def path_option(name: str, default: str, help: str) -> Callable[..., Any]:
    """An option for a file or folder."""
    return option(name, type=PATH, default=Path(default), help=help)


def _use_threads(context: click.Context, option: click.Parameter, count: int | None) -> None:
    if not context.resilient_parsing:  # a shell that completes words waits for nothing heavy
        from hlf_np.threads import use_threads

        use_threads(count)


# Not a parameter of commands: what they import later finds the number set.
threads_option = click.option(
    "--threads",
    type=int,
    callback=_use_threads,
    expose_value=False,
    help="Threads of the kernels. [default: one per core]",
)
seed_option = option("--seed", type=click.IntRange(0), default=0, help="Of every random choice.")
plugin_option = click.option(
    "--plugin",
    "plugin_paths",
    multiple=True,
    help="A Python file that declares trainings, attacks, spaces, datasets or measurements; may be repeated.",
)
manifolds_option = click.option(
    "--manifolds",
    type=PATH,
    help="Folder `manifolds` of a run's results: the VAEs of the learned manifold. [default: none]",
)
DATA_OPTIONS = (
    option(
        "--dataset",
        default="fonts",
        help="fonts; a folder of images by class, of IDX files (MNIST, EMNIST, QMNIST, Fashion-MNIST), of .npz files"
        " (Keras, MedMNIST, KMNIST), of CIFAR's binary version, one of EMNIST's .mat files, NIST's gzip.zip; or what a"
        " plugin declares.",
    ),
    click.option(
        "--dataset-name",
        help="Which one, of several in a folder, such as emnist-letters. [default: the only one, or emnist-digits]",
    ),
    click.option("--difficulty", help="Of FONTS: easy, moderate or hard. [default: hard]"),
    click.option("--image-size", type=click.IntRange(1, 1024), help="Scale images of files to this side."),
    plugin_option,
)


@dataclass(frozen=True)
class Data:
    """The values of `data_options`."""

    dataset: str
    dataset_name: str | None
    difficulty: str | None
    image_size: int | None
    plugin_paths: tuple[str, ...]

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        return plugins_at(self.plugin_paths)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What can be named."""
        from hlf_np.experiments.catalogue import catalogue

        return catalogue(self.plugins)

    @cached_property
    def source(self) -> Source:
        """The images that are meant."""
        from hlf_np.checks import check_choice
        from hlf_np.data.declared import open_source
        from hlf_np.data.fonts import Difficulty

        chosen = None if self.difficulty is None else check_choice("difficulty", self.difficulty, Difficulty)
        declared = self.catalogue.sources
        return open_source(self.dataset, self.dataset_name, chosen, self.image_size, declared=declared)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what the images are; the command takes them as `data`."""

    @functools.wraps(command)
    def with_data(**given: Any) -> Any:
        return command(data=Data(**{entry.name: given.pop(entry.name) for entry in fields(Data)}), **given)

    return functools.reduce(lambda inner, add: add(inner), reversed(DATA_OPTIONS), with_data)


def plugins_at(paths: Iterable[str]) -> tuple[Plugin, ...]:
    """The plugins in these files."""
    from hlf_np.experiments.plugins import read_plugin

    return tuple(dict.fromkeys(read_plugin(path) for path in paths))  # given twice, it is still one


def refuse_unused(names: Collection[str], what: str) -> None:
    """Refuse options of the command, by their parameters' names, that `what` would ignore."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if parameter.name in names and given:
            raise click.UsageError(f"{what} takes no {parameter.opts[0]}")


def needed_vaes(what: str, needs: Collection[Need | None], source: Source, folder: Path | None) -> tuple[Vae, ...]:
    """The VAEs of `manifolds_option` for what has these needs; none where none are needed.

    Raises
    ------
    UserError : if a manifold is needed that is not there; UsageError for VAEs that nobody needs.
    """
    from hlf_np.spaces import Need

    if Need.TRUE_MANIFOLD in needs and source.manifold is None:
        raise UserError(f"{what} needs the true manifold, which nobody knows for {source.name}: choose another")
    if Need.LEARNED_MANIFOLD not in needs:
        refuse_unused(["manifolds"], what)
        return ()
    if folder is None:
        raise UserError(f"{what} needs the VAEs of a run: give their folder with --manifolds")
    return vaes_of(folder, source)


def vaes_of(folder: Path, source: Source) -> tuple[Vae, ...]:
    """The VAEs of all classes in the folder of `manifolds_option`."""
    from hlf_np.manifolds import stored_vaes

    vaes = stored_vaes(folder, len(source.class_names))
    for vae in vaes:
        if vae.config.image_shape != source.image_shape:
            raise UserError(
                f"the VAEs in {str(folder)!r} are of images {by(vae.config.image_shape)}, those of {source.name} are"
                f" {by(source.image_shape)}: give the VAEs of a run on the same dataset"
            )
    return vaes


def by(shape: tuple[int, ...]) -> str:
    """A shape as one says it: 28x28x1."""
    return "x".join(map(str, shape))


def named(what: str, name: str, choices: dict[str, Any]) -> Any:
    """One of several things by its name."""
    if name not in choices:
        raise UserError(f"unknown {what} {name!r}: use one of {', '.join(choices)}")
    return choices[name]
