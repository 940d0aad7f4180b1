"""Sheets of small grey images: a plain grid, and an indexed contact sheet of prototypes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GreyImages = NDArray[np.uint8] | NDArray[np.floating]
_LABEL_WIDTH = 30  # pixels for an index of up to four digits


def grid(images: GreyImages, *, gap: int = 2, background: int = 96, scale: int = 1) -> Image.Image:
    """Lay grey images out in rows and columns.

    images : (R, C, H, W): bytes, or numbers that are clipped to [0, 1].
    gap : pixels between neighbours and around the sheet, of the grey value `background`.
    scale : enlargement of every pixel.
    """
    rows, columns, height, width = images.shape
    sheet = np.full((rows, height * scale + gap, columns, width * scale + gap), background, np.uint8)
    enlarged = _to_bytes(images).repeat(scale, axis=2).repeat(scale, axis=3)
    sheet[:, : height * scale, :, : width * scale] = enlarged.transpose(0, 2, 1, 3)
    flat = sheet.reshape(rows * sheet.shape[1], columns * sheet.shape[3])
    # The gaps so far follow each image; the first row and column still lack theirs.
    return Image.fromarray(np.pad(flat, ((gap, 0), (gap, 0)), constant_values=background))


def contact_sheet(
    images: GreyImages, rows_per_column: int, *, first_index: int = 0, gap: int = 1, scale: int = 1
) -> Image.Image:
    """Show every face of a prototype set in one row of its letters, behind its index.

    images : (F, L, H, W): F faces of L letters each.
    rows_per_column : faces below each other before a new column starts.
    first_index : label of the first face.
    gap : pixels between the letters; scale : enlargement of every pixel.
    """
    blocks = [
        _labelled(images[start : start + rows_per_column], first_index + start, gap, scale)
        for start in range(0, len(images), rows_per_column)
    ]
    sheet = Image.new("L", (sum(block.width for block in blocks), max(block.height for block in blocks)))
    left = 0
    for block in blocks:
        sheet.paste(block, (left, 0))
        left += block.width
    return sheet


def _labelled(images: GreyImages, first_index: int, gap: int, scale: int) -> Image.Image:
    """Put the running index before every row of a grid."""
    letters = grid(images, gap=gap, scale=scale)
    block = Image.new("L", (letters.width + _LABEL_WIDTH, letters.height))
    block.paste(letters, (_LABEL_WIDTH, 0))
    pen = ImageDraw.Draw(block)
    font = ImageFont.load_default(size=11)
    pitch = images.shape[2] * scale + gap
    for row in range(len(images)):
        centre = (_LABEL_WIDTH - 3, gap + row * pitch + pitch // 2)
        pen.text(centre, str(first_index + row), fill=255, font=font, anchor="rm")
    return block


def _to_bytes(images: GreyImages) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return np.asarray(images, np.uint8)
    return np.asarray(np.rint(np.clip(images, 0, 1) * 255), np.uint8)
