"""Open the dataset that `--dataset` names: FONTS, one declared by a plugin, or files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hlf_np.data.dataset import Dataset
from hlf_np.data.fonts import FONTS, Difficulty, Fonts, load_prototypes
from hlf_np.data.source import Source, array_source, check_class_names, open_files
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class DataSource:
    """A plugin's declaration of a dataset, which `--dataset NAME` selects.

    Parameters
    ----------
    name : str
        Name of the dataset.
    open : callable
        Function without parameters that returns any `Source`, such as `Fonts` with other prototypes, or a `Dataset`,
        whose images a run takes in an order that depends on the seed.
    """

    name: str
    open: Callable[[], Dataset | Source]


def open_source(
    dataset: str,
    name: str | None = None,
    difficulty: Difficulty | None = None,
    image_size: int | None = None,
    seed: int = 0,
    declared: Sequence[DataSource] = (),
) -> Source:
    """Open a dataset by its name or path.

    Parameters
    ----------
    dataset : str
        "fonts", the name of a declared source, or the path of files.
    name : str, optional
        Which of several datasets in the files to read.
    difficulty : Difficulty, optional
        Difficulty of FONTS; hard by default.
    image_size : int, optional
        Side in pixels to which the images in files are resized.
    seed : int
        Seed of the parameters of FONTS, or of the order of other images.
    declared : sequence of DataSource
        Sources that plugins declare.

    Returns
    -------
    Source
        The training and test images.

    Raises
    ------
    UserError
        If the dataset is missing or damaged, or does not support one of the settings.
    """
    matches = [source for source in declared if source.name == dataset]
    if dataset == FONTS or matches:
        for option, value in (("--dataset-name", name), ("--image-size", image_size)):
            if value is not None:
                raise UserError(f"{option} applies to datasets of files, not to {dataset}: leave {option} out")
    if dataset == FONTS:
        return Fonts(load_prototypes(), difficulty or Difficulty.HARD, seed)
    if difficulty is not None:
        raise UserError("only FONTS has a difficulty: leave --difficulty out")
    if not matches:
        return open_files(Path(dataset), name, seed, image_size)
    source = matches[0].open()
    if isinstance(source, Dataset):
        return array_source(replace(source, name=dataset), seed)
    source = replace(source, name=dataset) if isinstance(source, Fonts) else source
    if getattr(source, "name", None) != dataset:
        raise UserError(
            f"the function of dataset {dataset} must return a Dataset, or a Source of this name, not {source!r:.60}"
        )
    check_class_names(source.class_names)
    return source
