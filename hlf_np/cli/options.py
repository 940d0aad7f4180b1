"""Options that several commands have, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hlf_np.errors import UserError

if TYPE_CHECKING:
    from hlf_np.experiments.source import Source
    from hlf_np.manifolds import Vae
    from hlf_np.spaces import Space


# Larger numbers are typing errors; kernels and arrays could not hold some of them.
COUNT, SIZE = click.IntRange(max=10**6), click.FloatRange(max=10**6)


class WholeNumbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 250,500")


def option(*names: str, **settings: Any) -> Callable[..., Any]:
    """An option whose help tells its default."""
    return click.option(*names, show_default=True, **settings)


def path_option(name: str, default: str, help: str) -> Callable[..., Any]:
    """An option for a file or folder."""
    return option(name, type=click.Path(path_type=Path), default=Path(default), help=help)


threads_option = click.option("--threads", type=int, help="Threads of the kernels. [default: one per core]")
seed_option = option("--seed", type=click.IntRange(0), default=0, help="Of every random choice.")
dataset_option = option(
    "--dataset",
    default="fonts",
    help="fonts; or a folder of IDX files (MNIST, EMNIST, QMNIST, Fashion-MNIST), or NIST's gzip.zip.",
)
dataset_name_option = click.option(
    "--dataset-name",
    help="Which one, of several in a folder, such as emnist-letters. [default: the only one, or emnist-digits]",
)
difficulty_option = click.option("--difficulty", help="Of FONTS: easy, moderate or hard. [default: hard]")
manifolds_option = click.option(
    "--manifolds",
    type=click.Path(path_type=Path),
    help="Folder `manifolds` of a run's results: the VAEs of the learned manifold. [default: none]",
)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what the images are; `chosen_source` takes them."""
    for add in (difficulty_option, dataset_name_option, dataset_option):
        command = add(command)
    return command


def chosen_source(dataset: str, dataset_name: str | None, difficulty: str | None) -> Source:
    """The images that `data_options` describe."""
    from hlf_np.checks import check_choice
    from hlf_np.data.fonts import Difficulty
    from hlf_np.experiments.source import open_source

    chosen = None if difficulty is None else check_choice("difficulty", difficulty, Difficulty)
    return open_source(dataset, dataset_name, chosen)


def refuse_unused(names: Collection[str], what: str) -> None:
    """Refuse options of the command, by their parameters' names, that `what` would ignore."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if parameter.name in names and given:
            raise click.UsageError(f"{what} takes no {parameter.opts[0]}")


def needed_vaes(what: str, spaces: Collection[type[Space]], source: Source, folder: Path | None) -> tuple[Vae, ...]:
    """The VAEs of `manifolds_option` for what happens in these spaces; none where none are needed.

    Raises
    ------
    UserError : if a manifold is needed that is not there; UsageError for VAEs that nobody needs.
    """
    from hlf_np.data.fonts import Fonts
    from hlf_np.spaces import LearnedManifold, TrueManifold

    if TrueManifold in spaces and not isinstance(source, Fonts):
        raise UserError(f"{what} needs the true manifold, which only FONTS has: choose another")
    if LearnedManifold not in spaces:
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
