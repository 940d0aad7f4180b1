"""Galleries of adversarial examples: originals, adversarial images and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hlf_np.experiments.results import Examples
from hlf_np.report.figures.sheets import drawn
from hlf_np.spaces import Space
from hlf_np.support.arrays import Floats

ROW_NAMES = ("original", "adversarial", "difference")
COLUMN_GAP_PIXELS = 3
LABEL_HEIGHT_PIXELS = 10  # above each row of images


def gallery_figure(examples: Mapping[type[Space], Examples], classes: Sequence[str]) -> Figure:
    """Draw the adversarial examples of a model, one block per space.

    Parameters
    ----------
    examples : mapping of Space classes to Examples
        Examples by the space of the attack; at least one space must have some. Spaces without examples are omitted.
    classes : sequence of str
        Names of the classes.

    Returns
    -------
    Figure
        The gallery.
    """
    shown = {space: found for space, found in examples.items() if len(found.labels)}
    columns = max(len(found.labels) for found in shown.values())
    figure = Figure(figsize=(0.85 * max(columns, 3) + 1, 3.6 * len(shown)), layout="tight")
    blocks = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, (space, found) in zip(blocks, shown.items(), strict=True):
        axes.set_title(space.attack_label().capitalize(), loc="left", fontsize=15)
        _draw_block(axes, found, classes, columns)
    return figure


def tiles(examples: Examples) -> Floats:
    """Compute the pixels of originals, adversarial images and differences.

    Parameters
    ----------
    examples : Examples
        N adversarial examples.

    Returns
    -------
    ndarray, shape (3, N, H, W) or (3, N, H, W, 3)
        Grey or coloured pixels in [0, 1], see `sheets.drawn`; differences are scaled by their largest absolute value,
        and 0.5 stands for no difference.
    """
    differences = examples.adversarial - examples.originals
    scale = np.maximum(np.abs(differences).max(axis=(1, 2, 3), keepdims=True), 1e-6)
    rows = [examples.originals, examples.adversarial, 0.5 + differences / (2 * scale)]
    return drawn(np.stack(rows))


def _draw_block(axes: Axes, examples: Examples, classes: Sequence[str], columns: int) -> None:
    """Draw three rows of tiles on white; `columns` is the number of examples in the widest block."""
    images = tiles(examples)
    image_height, image_width, *channels = images.shape[2:]
    row_height, column_width = image_height + LABEL_HEIGHT_PIXELS, image_width + COLUMN_GAP_PIXELS
    sheet = np.ones((len(ROW_NAMES) * row_height, columns * column_width, *channels), np.float32)
    for row, column in np.ndindex(images.shape[:2]):
        top, left = row * row_height + LABEL_HEIGHT_PIXELS, column * column_width
        sheet[top : top + image_height, left : left + image_width] = images[row, column]
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    for row, name in enumerate(ROW_NAMES):
        middle = row * row_height + LABEL_HEIGHT_PIXELS + image_height / 2
        axes.text(-2, middle, name, rotation=90, ha="right", va="center", fontsize=11)
    font_size = 14 if max(map(len, classes)) < 4 else 8  # long names are wider than an image
    for column, (label, prediction) in enumerate(zip(examples.labels, examples.predictions, strict=True)):
        centre = column * column_width + image_width / 2
        for row, text in enumerate((classes[int(label)], f"\u2192 {classes[int(prediction)]}")):
            bottom = row * row_height + LABEL_HEIGHT_PIXELS - 2
            axes.text(centre, bottom, text, ha="center", va="bottom", fontsize=font_size, parse_math=False)
