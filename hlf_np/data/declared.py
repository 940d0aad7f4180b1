"""The images that `--dataset` means: FONTS, those that a plugin declares, or files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hlf_np.data.dataset import Dataset
from hlf_np.data.fonts import FONTS, Difficulty, Fonts, load_prototypes
from hlf_np.data.source import Source, array_source, open_files
from hlf_np.errors import UserError


@dataclass(frozen=True)
class DataSource:
    """Images that are made, or read, by a function: `--dataset NAME`.

    open : gives a `Dataset`, whose images are taken in an order that the seed decides; or any `Source`, such as `Fonts`
        with other prototypes.
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
    """The source of images that a user asks for.

    dataset : "fonts", the name of a declared source, or the path of files; UserError for one that is missing or
        damaged, and for settings that it does not have.
    name : of files, which dataset of several; difficulty : of FONTS; image_size : of files, to which images are scaled.
    seed : of FONTS' parameters, or of the order of images.
    """
    chosen = [source for source in declared if source.name == dataset]
    if dataset == FONTS or chosen:
        for option, value in (("--dataset-name", name), ("--image-size", image_size)):
            if value is not None:
                raise UserError(f"{dataset} is only one dataset, of one size: leave {option} out")
    if dataset == FONTS:
        return Fonts(load_prototypes(), difficulty or Difficulty.HARD, seed)
    if difficulty is not None:
        raise UserError("only FONTS has a difficulty: leave --difficulty out")
    if not chosen:
        return open_files(Path(dataset), name, seed, image_size)
    found = chosen[0].open()
    if isinstance(found, Dataset):
        return array_source(replace(found, name=dataset), seed)
    found = replace(found, name=dataset) if isinstance(found, Fonts) else found
    if getattr(found, "name", None) != dataset:
        raise UserError(f"dataset {dataset} must open a Dataset, or a Source of the same name, not {found!r:.60}")
    return found
