"""Sheets of small images: a plain grid, and an indexed contact sheet of font prototypes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hlf_np.support.arrays import Floats

Images = NDArray[np.uint8] | NDArray[np.floating]
_INDEX_WIDTH = 30  # pixels; room for four digits


def drawn(images: Floats) -> Floats:
    """Return images (..., C) as they are drawn: three channels as red, green and blue, others as their mean (...)."""
    return images if images.shape[-1] == 3 else np.asarray(images.mean(axis=-1))


def grid(images: Images, *, gap: int = 2, background: int = 96, scale: int = 1) -> Image.Image:
    """Arrange images in rows and columns.

    Parameters
    ----------
    images : ndarray of uint8 or float, shape (R, C, H, W) or (R, C, H, W, 3)
        Grey or coloured images in R rows and C columns; floating-point values are clipped to [0, 1].
    gap : int
        Pixels between images and around the sheet.
    background : int
        Grey value of the gaps, from 0 to 255.
    scale : int
        Magnification factor.

    Returns
    -------
    PIL.Image.Image
        The sheet.
    """
    rows, columns, height, width, *channels = images.shape
    sheet = np.full((rows, height * scale + gap, columns, width * scale + gap, *channels), background, np.uint8)
    enlarged = _to_bytes(images).repeat(scale, axis=2).repeat(scale, axis=3)
    sheet[:, : height * scale, :, : width * scale] = enlarged.swapaxes(1, 2)
    flat = sheet.reshape(rows * sheet.shape[1], columns * sheet.shape[3], *channels)
    # So far each image is followed by a gap; add those before the first row and the first column.
    before = [(gap, 0), (gap, 0), *[(0, 0)] * len(channels)]
    return Image.fromarray(np.pad(flat, before, constant_values=background))


def contact_sheet(images: Images, rows_per_column: int) -> Image.Image:
    """Draw every face of a prototype set as a row of letters, preceded by its index.

    Parameters
    ----------
    images : ndarray of uint8 or float, shape (F, L, H, W)
        F faces with L letters each.
    rows_per_column : int
        Number of faces per column of the sheet.

    Returns
    -------
    PIL.Image.Image
        Grey-scale image.
    """
    starts = range(0, len(images), rows_per_column)
    blocks = [_indexed_grid(images[start : start + rows_per_column], start) for start in starts]
    sheet = Image.new("L", (sum(block.width for block in blocks), max(block.height for block in blocks)))
    left = 0
    for block in blocks:
        sheet.paste(block, (left, 0))
        left += block.width
    return sheet


def _indexed_grid(images: Images, first_index: int) -> Image.Image:
    """Draw a grid with the running index before every row."""
    letters, gap = grid(images, gap=1), 1
    block = Image.new("L", (letters.width + _INDEX_WIDTH, letters.height))
    block.paste(letters, (_INDEX_WIDTH, 0))
    pen = ImageDraw.Draw(block)
    font = ImageFont.load_default(size=11)
    row_height = images.shape[2] + gap
    for row in range(len(images)):
        centre = (_INDEX_WIDTH - 3, gap + row * row_height + row_height // 2)
        pen.text(centre, str(first_index + row), fill=255, font=font, anchor="rm")
    return block


def _to_bytes(images: Images) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return np.asarray(images, np.uint8)
    return np.asarray(np.rint(np.clip(images, 0, 1) * 255), np.uint8)
