"""Options that are shared by several commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.experiments.configuration.catalogue import Catalogue
    from hlf_np.experiments.configuration.plugins import Plugin

# Larger values are typos, and some of them would overflow in kernels and arrays.
MAX_VALUE = 10**6
BOUNDED_INT, BOUNDED_FLOAT = click.IntRange(max=MAX_VALUE), click.FloatRange(max=MAX_VALUE)
PATH = click.Path(path_type=Path)


class IntegerList(click.ParamType):  # type: ignore[type-arg]
    """A comma-separated list of integers."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of integers such as 250,500")


class NamesOption(click.Option):
    """An option whose help lists the declared names; they are looked up only when the help is shown.

    Parameters
    ----------
    *declarations : Any
        See `click.Option`.
    names : callable
        Function that takes a catalogue and returns the names; they replace the word NAMES in the help.
    **settings : Any
        See `click.Option`.
    """

    def __init__(self, *declarations: Any, names: Callable[[Catalogue], Iterable[object]], **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from hlf_np.experiments.configuration.catalogue import catalogue

        option, text = super().get_help_record(ctx) or ("", "")
        return option, text.replace("NAMES", ", ".join(map(str, self.names(catalogue()))))


def option(*names: str, **settings: Any) -> Callable[..., Any]:
    """Declare an option whose help shows its default."""
    return click.option(*names, show_default=True, **settings)


def path_option(name: str, default: str, help: str) -> Callable[..., Any]:
    """Declare an option for a file or a folder."""
    return option(name, type=PATH, default=Path(default), help=help)


@dataclass(frozen=True)
class ImageCountOption:
    """An option for a number of images, by default a fixed number or all if there are fewer. Decorates a command.

    Parameters
    ----------
    name : str
        The option.
    default : int
        The default if there are as many images.
    help : str
        The help without the default.
    """

    name: str
    default: int
    help: str

    def __call__(self, command: Callable[..., Any]) -> Callable[..., Any]:
        text = f"{self.help} [default: {self.default}, or all if there are fewer]"
        return click.option(self.name, type=int, help=text)(command)

    def value(self, given: int | None, available: int) -> int:
        """Return the given number, or the default for as many available images."""
        return min(self.default, available) if given is None else given


def _use_threads(context: click.Context, option: click.Parameter, count: int | None) -> None:
    if not context.resilient_parsing:  # shell completion must not import Numba
        from hlf_np.support.threads import use_threads

        use_threads(count)


# Applied when it is parsed rather than passed to the command, so that modules imported later see the setting.
threads_option = click.option(
    "--threads",
    type=int,
    callback=_use_threads,
    expose_value=False,
    help="Number of threads. [default: one per core]",
)
seed_option = option("--seed", type=click.IntRange(0), default=0, help="Random seed.")
plugin_option = click.option(
    "--plugin",
    "plugin_paths",
    multiple=True,
    help="Python file that declares trainings, attacks, spaces, datasets or measurements. Can be given several times.",
)
manifolds_option = click.option(
    "--manifolds",
    type=PATH,
    help="Folder `manifolds` of a run's results, with the VAEs of the learned manifold. [default: none]",
)
DATA_OPTIONS = (
    option(
        "--dataset",
        default="fonts",
        help="fonts; a folder with one subfolder of images per class; a folder of IDX files (MNIST, EMNIST, QMNIST,"
        " Fashion-MNIST), of .npz files (Keras, MedMNIST, KMNIST) or of CIFAR's binary version; one of EMNIST's .mat"
        " files; NIST's gzip.zip; or a dataset declared by a plugin.",
    ),
    click.option(
        "--dataset-name",
        help="Dataset to use if a folder contains several, such as emnist-letters. [default: the only one, or"
        " emnist-digits]",
    ),
    click.option("--difficulty", help="Difficulty of FONTS: easy, moderate or hard. [default: hard]"),
    click.option(
        "--image-size", type=click.IntRange(1, 1024), help="Resize images from files to squares of this many pixels."
    ),
    plugin_option,
)


@dataclass(frozen=True)
class Data:
    """The values of `data_options`, and what they select.

    Parameters
    ----------
    dataset : str
        Name or path of the dataset.
    dataset_name : str or None
        Name of the dataset within a folder of several.
    difficulty : str or None
        Difficulty of FONTS.
    image_size : int or None
        Height and width to which images from files are resized.
    plugin_paths : tuple of str
        Paths of the plugins.
    """

    dataset: str
    dataset_name: str | None
    difficulty: str | None
    image_size: int | None
    plugin_paths: tuple[str, ...]

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        """The plugins."""
        return read_plugins(self.plugin_paths)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The declarations of the package and of the plugins."""
        from hlf_np.experiments.configuration.catalogue import catalogue

        return catalogue(self.plugins)

    @cached_property
    def source(self) -> Source:
        """The selected dataset."""
        from hlf_np.data.fonts import Difficulty
        from hlf_np.data.open_source import open_source
        from hlf_np.data.source import ArraySource
        from hlf_np.support.checks import check_choice

        difficulty = None if self.difficulty is None else check_choice("difficulty", self.difficulty, Difficulty)
        declared = self.catalogue.sources
        source = open_source(self.dataset, self.dataset_name, difficulty, self.image_size, declared=declared)
        if isinstance(source, ArraySource) and source.left_out:
            click.echo(
                f"hlf_np: {source.left_out} of {source.left_out + source.test_size} test images are left out, as no"
                " training image shows their class",
                err=True,
            )
        return source


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select the dataset; the command takes them as the argument `data`."""

    @functools.wraps(command)
    def with_data(**arguments: Any) -> Any:
        return command(data=Data(**{entry.name: arguments.pop(entry.name) for entry in fields(Data)}), **arguments)

    return functools.reduce(lambda inner, add: add(inner), reversed(DATA_OPTIONS), with_data)


def read_plugins(paths: Iterable[str]) -> tuple[Plugin, ...]:
    """Read the plugins in the given files; duplicates are dropped."""
    from hlf_np.experiments.configuration.plugins import read_plugin

    return tuple(dict.fromkeys(read_plugin(path) for path in paths))


def reject_unused(names: Collection[str], condition: str) -> None:
    """Reject options of the current command that would be ignored.

    Parameters
    ----------
    names : collection of str
        Names of the parameters.
    condition : str
        Why they would be ignored, such as "with attack fgsm"; part of the message.

    Raises
    ------
    click.UsageError
        If one of the options is given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        is_given = context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if parameter.name in names and is_given:
            raise click.UsageError(f"{parameter.opts[0]} has no effect {condition}")


def format_shape(shape: tuple[int, ...]) -> str:
    """Format a shape: "28x28x1"."""
    return "x".join(map(str, shape))
