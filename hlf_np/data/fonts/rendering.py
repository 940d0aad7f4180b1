"""Prototypes from font files: every face becomes ten grey images of the letters A to J.

A face is drawn large, white on black, at one scale for its ten letters, and box-filtered down to 28 x 28 pixels. Faces
without such letters, faces that are illegible, and faces that repeat another one are rejected with a reason; each
family contributes at most a few faces (see `selection`).
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hlf_np.data.fonts.prototypes import LETTERS, SIDE
from hlf_np.data.fonts.selection import Face, Images, Rejection, select_faces, split_family
from hlf_np.support.errors import UserError
from hlf_np.support.files import replace_file, write_text

LETTER_EXTENT = 20  # pixels, larger of width and height of the largest letter of a face
SUFFIXES = (".otf", ".ttc", ".ttf")

_OVERSAMPLING = 8
_MAX_FACES = 256  # of a collection; a larger count is a damaged header
_MAX_LETTER_PIXELS = 16 * SIDE * _OVERSAMPLING  # width or height of a drawn letter
_UNMAPPED = "\U0010fffe"  # a noncharacter, for which every face draws its glyph for missing characters


class UnusableFaceError(Exception):
    """A face cannot be rendered; the message is the reason."""


def build_prototypes(
    directories: Sequence[Path],
    *,
    faces: int | None = None,
    per_family: int = 8,
    excluded: Collection[str] = (),
    known: Images | None = None,
) -> tuple[list[Face], list[Rejection]]:
    """Render and select the faces of all font files below some directories.

    Parameters
    ----------
    directories : sequence of Path
        Directories that are searched recursively, following links, for TrueType and OpenType files and collections.
    faces : int, optional
        Number of faces to keep; all usable ones by default.
    per_family : int
        Maximum number of faces of one family (see `family_key`).
    excluded : collection of str
        Names of files to ignore.
    known : ndarray of uint8, shape (F, 10, 28, 28), optional
        Prototypes with which the letters are compared; by default, those of the other families found.

    Returns
    -------
    kept : list of Face
        The faces, in an order that depends only on the contents of their files.
    rejected : list of Rejection
        The rejected faces.

    Raises
    ------
    UserError
        If a directory does not exist, or there are no usable faces or fewer than `faces`.
    """
    if per_family < 1 or (faces is not None and faces < 1):
        raise UserError("the number of faces and the limit per family must be at least 1")
    readable, rejected = read_faces(directories, excluded)
    kept, unsuitable = select_faces(readable, per_family=per_family, known=known)
    rejected += unsuitable
    searched = ", ".join(map(str, directories))
    if not kept:
        raise UserError(
            f"no face in {searched} has usable letters A to J ({', '.join(rejection_summary(rejected))}):"
            " name a directory of Latin text fonts"
        )
    if faces is not None and len(kept) < faces:
        raise UserError(
            f"{faces} faces were requested, but {searched} yields {len(kept)}: "
            "request fewer, allow more per family, or add directories"
        )
    return kept[:faces], rejected


def rejection_summary(rejected: Sequence[Rejection], max_reasons: int = 3) -> list[str]:
    """Count the reasons of rejections, most frequent first, as in "2: too faint"."""
    most_common = Counter(rejection.reason for rejection in rejected).most_common(max_reasons)
    lines = [f"{count}: {reason}" for reason, count in most_common]
    rest = len(rejected) - sum(count for _, count in most_common)
    return [*lines, f"{rest}: for other reasons"] if rest else lines


def read_faces(directories: Sequence[Path], excluded: Collection[str] = ()) -> tuple[list[Face], list[Rejection]]:
    """Render every face below the directories; unreadable, blank and excluded ones are rejected."""
    faces: list[Face] = []
    rejected: list[Rejection] = []
    for path in find_files(directories):
        if path.name in excluded:
            rejected.append(Rejection(path, 0, "excluded by name"))
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            rejected.append(Rejection(path, 0, f"cannot be read ({error.strerror})"))
            continue
        for index in range(face_count(data)):
            try:
                faces.append(read_face(path, data, index))
            except UnusableFaceError as error:
                rejected.append(Rejection(path, index, str(error)))
    return faces, rejected


def find_files(directories: Sequence[Path]) -> list[Path]:
    """List the font files below the directories, sorted; raise UserError if there are none."""
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory: name a directory that holds font files")
    paths = sorted(path for path in _walk(directories) if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        searched = ", ".join(map(str, directories))
        raise UserError(f"no font files in {searched}: name a directory that holds {', '.join(SUFFIXES)} files")
    return paths


def _walk(directories: Sequence[Path]) -> Iterator[Path]:
    """Iterate over all files below the directories, following links, but visiting each directory only once."""
    visited = set()
    for directory in directories:
        for parent, subdirectories, names in os.walk(directory, followlinks=True):
            real_path = os.path.realpath(parent)
            if real_path in visited:
                subdirectories.clear()
                continue
            visited.add(real_path)
            subdirectories.sort()
            yield from (Path(parent, name) for name in names)


def face_count(data: bytes) -> int:
    """Return the number of faces of a font file: a collection's header states it, any other file holds one."""
    return min(int.from_bytes(data[8:12], "big"), _MAX_FACES) if data[:4] == b"ttcf" else 1


def read_face(path: Path, data: bytes, index: int) -> Face:
    """Render one face of a font file.

    Parameters
    ----------
    path : Path
        Path of the file.
    data : bytes
        Content of the file.
    index : int
        Index of the face in a collection, else 0.

    Returns
    -------
    Face
        The face with its rendered letters.

    Raises
    ------
    UnusableFaceError
        If the face is damaged or lacks a letter.
    """
    try:
        names = _font(data, index, SIDE).getname()
        images = render_letters(data, index)
    except (OSError, ValueError) as error:
        raise UnusableFaceError(f"cannot be read as a font ({error})") from error
    raw_family, raw_style = ("".join(filter(str.isprintable, name or "")) for name in names)
    family, style = split_family(raw_family or path.stem)
    return Face(path, index, family, f"{style} {raw_style}".strip(), hashlib.sha256(data).hexdigest(), images)


def render_letters(data: bytes, index: int = 0) -> Images:
    """Render the letters of a face, (10, 28, 28) uint8, each centred by its ink, all at one scale."""
    target = LETTER_EXTENT * _OVERSAMPLING
    probe = _font(data, index, target)
    extent = max(max(_ink(probe, letter).shape) for letter in LETTERS)
    if extent == 0:
        raise UnusableFaceError("the letters are blank")
    font = _font(data, index, target * target / extent)
    inks = [_ink(font, letter) for letter in LETTERS]
    missing = _ink(font, _UNMAPPED)
    for letter, ink in zip(LETTERS, inks, strict=True):
        if ink.size == 0:
            raise UnusableFaceError(f"letter {letter} is blank")
        if np.array_equal(ink, missing):
            raise UnusableFaceError(f"letter {letter} is missing")
    return np.stack([_downscale(ink) for ink in inks])


def _font(data: bytes, index: int, size: float) -> ImageFont.FreeTypeFont:
    # From memory, because Pillow replaces a file that it cannot open by a system font of the same name.
    return ImageFont.truetype(io.BytesIO(data), size, index, layout_engine=ImageFont.Layout.BASIC)


def _ink(font: ImageFont.FreeTypeFont, letter: str) -> Images:
    """Draw a letter and crop it to its ink."""
    box = font.getbbox(letter, anchor="ls")
    left, top, right, bottom = int(box[0]), int(box[1]), int(box[2]) + 1, int(box[3]) + 1
    if max(right - left, bottom - top) > _MAX_LETTER_PIXELS:
        raise UnusableFaceError(f"letter {letter} is out of proportion")
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=font, anchor="ls")
    return np.asarray(canvas.crop(canvas.getbbox() or (0, 0, 0, 0)))


def _downscale(ink: Images) -> Images:
    """Centre a large letter on the canvas and box-filter it to 28 x 28 pixels."""
    side = SIDE * _OVERSAMPLING
    height, width = ink.shape
    if max(height, width) > side:
        raise UnusableFaceError("the letters do not scale with the font size")
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.pad(ink.astype(float), ((top, side - height - top), (left, side - width - left)))
    image: Images = np.rint(canvas.reshape(SIDE, _OVERSAMPLING, SIDE, -1).mean(axis=(1, 3))).astype(np.uint8)
    return image


def write_prototypes(
    faces: Sequence[Face],
    path: Path,
    *,
    manifest: Path | None = None,
    extra_columns: Callable[[Face], Mapping[str, str]] | None = None,
) -> None:
    """Write faces to a prototypes file, optionally with a table of their origin.

    Parameters
    ----------
    faces : sequence of Face
        Faces as returned by `build_prototypes`.
    path : Path
        Archive to write: `images` (F, 10, 28, 28) uint8, `classes` (10,) and `names` (F,).
    manifest : Path, optional
        CSV file to write, with one row per face.
    extra_columns : callable, optional
        Function that returns further columns of the row of a face.
    """
    images, names = np.stack([face.images for face in faces]), np.array([face.name for face in faces])
    with replace_file(path) as stream:
        np.savez_compressed(stream, images=images, classes=np.array(LETTERS), names=names)
    if manifest is not None:
        rows = [
            {"index": str(i), "family": face.family, "style": face.style}
            | dict(extra_columns(face) if extra_columns else {})
            | {"file": face.path.name, "sha256": face.sha256}
            for i, face in enumerate(faces)
        ]
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(manifest, table.getvalue())
