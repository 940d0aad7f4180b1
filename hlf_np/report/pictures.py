"""Pictures of a report, and what they have in common: colours, style, files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from hlf_np.files import replace_file
from hlf_np.trainings import Training

MARKERS = "osD^vPXhp*<>d"
FREE = ("#d9a021", "#2a9db0", "#b0527c", "#6b5b3e", "#4a4a4a", "#e07b39", "#5f7f3f", "#7d4fa0")  # colours


STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


class Section(StrEnum):
    """Where on the page a picture belongs."""

    CLAIM_1 = "claim 1"
    CLAIM_2 = "claim 2"
    CLAIM_3 = "claim 3"
    CLAIM_4 = "claim 4"
    CURVES = "curves"
    GALLERY = "gallery"
    MANIFOLD = "manifold"


@dataclass(frozen=True)
class Picture:
    """A figure of the report: its section, the name of its files, a caption, a description in words, the files.

    pdf : of a drawing; a sheet of pixels has none.
    """

    section: Section
    name: str
    caption: str
    description: str
    png: bytes
    pdf: bytes | None = None


def look(training: Training, trainings: Iterable[Training]) -> dict[str, str]:
    """Colour and marker of a training among those of a run: its own colour, or one that no other has."""
    trainings = list(trainings)
    free = [color for color in FREE if all(color != other.color for other in trainings)]
    number = [other for other in trainings if not other.color].index(training) if not training.color else 0
    marker = MARKERS[trainings.index(training) % len(MARKERS)]
    return {"color": training.color or free[number % len(free)], "marker": marker}


def png_of(sheet: Image.Image) -> bytes:
    """A sheet of Pillow as a PNG file."""
    stream = io.BytesIO()
    sheet.save(stream, format="png")
    return stream.getvalue()


def drawing(section: Section, name: str, caption: str, description: str, figure: Figure) -> Picture:
    """A figure of Matplotlib as a picture; the same numbers give the same files."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # once is enough for both files
    box = figure.get_tightbbox().padded(0.1)  # in inches
    # without the program's version and the time
    anonymous = {"png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate")}
    files = []
    for kind, names in anonymous.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, bbox_inches=box, metadata=dict.fromkeys(names))
        files.append(stream.getvalue())
    return Picture(section, name, caption, description, *files)


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """`figures/NAME.png` for each picture, and `figures/NAME.pdf` for each drawing."""
    for picture in pictures:
        for ending, content in (("png", picture.png), ("pdf", picture.pdf)):
            if content is not None:
                with replace_file(folder / "figures" / f"{picture.name}.{ending}") as stream:
                    stream.write(content)
