"""Pictures of a report, and what they have in common: colours, style, files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from hlf_np.files import replace_file
from hlf_np.training import Training

COLORS = {
    Training.NORMAL: "#3b6fb6",
    Training.ADVERSARIAL: "#c8452f",
    Training.ON_TRUE_MANIFOLD_ADVERSARIAL: "#2e8b57",
    Training.ON_LEARNED_MANIFOLD_ADVERSARIAL: "#8fbf3f",
    Training.ADVERSARIAL_TRANSFORMATIONS: "#8a5fbf",
    Training.RANDOM_TRANSFORMATIONS: "#7a7a7a",
    Training.REGULAR_AND_ON_TRUE_MANIFOLD_ADVERSARIAL: "#d9a021",
}
MARKERS = dict(zip(COLORS, "osD^vPX", strict=True))
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
KINDS = {  # of attacks that are measured, as a person would write them
    "regular": "regular",
    "on_true_manifold": "on the true manifold",
    "on_learned_manifold": "on the learned manifold",
}


class Section(StrEnum):
    """Where on the page a picture belongs."""

    CURVES = "curves"
    SCATTER = "scatter"
    DISTANCES = "distances"
    MANIFOLD = "manifold"
    GALLERY = "gallery"


@dataclass(frozen=True)
class Picture:
    """A figure of the report: its section, the name of its file, a caption, a description in words, the PNG itself."""

    section: Section
    name: str
    caption: str
    description: str
    png: bytes


def png_of(figure: Figure | Image.Image) -> bytes:
    """A figure of Matplotlib or a sheet of Pillow as a PNG file."""
    stream = io.BytesIO()
    if isinstance(figure, Figure):
        # without the program's version, the same numbers give the same file
        figure.savefig(stream, format="png", bbox_inches="tight", metadata={"Software": None})
    else:
        figure.save(stream, format="png")
    return stream.getvalue()


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """`figures/NAME.png` for each picture."""
    for picture in pictures:
        with replace_file(folder / "figures" / f"{picture.name}.png") as stream:
            stream.write(picture.png)
