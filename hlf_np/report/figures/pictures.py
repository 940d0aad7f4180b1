"""Pictures of the report as files, with common colours and style."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from hlf_np.support.files import write_bytes
from hlf_np.trainings import Training

MARKERS = "osD^vPXhp*<>d"
# Colours for trainings that declare none.
FALLBACK_COLORS = ("#d9a021", "#2a9db0", "#b0527c", "#6b5b3e", "#4a4a4a", "#e07b39", "#5f7f3f", "#7d4fa0")
STYLE: dict[Any, Any] = {  # Matplotlib's rcParams
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
    """The section of the page in which a picture is shown."""

    CLAIM_1 = "claim 1"
    CLAIM_2 = "claim 2"
    CLAIM_3 = "claim 3"
    CLAIM_4 = "claim 4"
    CLAIM_5 = "claim 5"
    CLAIM_6 = "claim 6"
    CLAIM_7 = "claim 7"
    CLAIM_8 = "claim 8"
    CLAIM_9 = "claim 9"
    ROBUSTNESS = "robustness"
    CURVES = "curves"
    GALLERY = "gallery"
    MANIFOLD = "manifold"


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Parameters
    ----------
    section : Section
        Section of the page.
    name : str
        Name of its files, without extension.
    caption : str
        Text below the figure.
    description : str
        Alternative text for readers who cannot see the figure.
    png : bytes
        PNG file.
    pdf : bytes, optional
        PDF file; None for raster images.
    """

    section: Section
    name: str
    caption: str
    description: str
    png: bytes
    pdf: bytes | None = None


def training_style(training: Training, trainings: Iterable[Training]) -> dict[str, str]:
    """Choose the colour and the marker of a training.

    Parameters
    ----------
    training : Training
        One of `trainings`.
    trainings : iterable of Training
        All trainings of the figure.

    Returns
    -------
    dict
        Matplotlib's keyword arguments `color` and `marker`. The colour is the training's own or, if it declares none, a
        fallback colour that no other training declares.
    """
    trainings = list(trainings)
    available = [color for color in FALLBACK_COLORS if all(color != other.color for other in trainings)]
    index = [other for other in trainings if not other.color].index(training) if not training.color else 0
    marker = MARKERS[trainings.index(training) % len(MARKERS)]
    return {"color": training.color or available[index % len(available)], "marker": marker}


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, format="png")
    return stream.getvalue()


def render(section: Section, name: str, caption: str, description: str, figure: Figure) -> Picture:
    """Render a Matplotlib figure as PNG and PDF files; equal figures give equal bytes.

    Parameters
    ----------
    section : Section
        Section of the page.
    name : str
        Name of the files, without extension.
    caption : str
        Text below the figure.
    description : str
        Alternative text.
    figure : Figure
        The figure; its layout engine is removed.

    Returns
    -------
    Picture
        The rendered figure.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # the layout is computed once, for both files
    box = figure.get_tightbbox().padded(0.1)  # inches
    # Metadata that depends on the time or on Matplotlib's version is omitted.
    omitted_metadata = {"png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate")}
    files = []
    for file_format, names in omitted_metadata.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=file_format, bbox_inches=box, metadata=dict.fromkeys(names))
        files.append(stream.getvalue())
    return Picture(section, name, caption, description, *files)


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write the files of pictures to `folder/figures`.

    Parameters
    ----------
    pictures : sequence of Picture
        Pictures to write.
    folder : Path
        Results folder.
    """
    for picture in pictures:
        for extension, content in (("png", picture.png), ("pdf", picture.pdf)):
            if content is not None:
                write_bytes(folder / "figures" / f"{picture.name}.{extension}", content)
