"""Prototype letters from font files: every face becomes ten grey images of the letters A to J.

A face is drawn large and box-filtered down to 28 x 28, white on black, at one scale for its ten letters. Faces that
hold no such letters, that nobody could read, or that repeat another face are rejected with a reason, and no family may
contribute more than a few faces.
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

from hlf_np.data.font_selection import LETTERS, SIDE, Face, Images, Rejection, select, split_family
from hlf_np.errors import UserError
from hlf_np.files import replace_file, write_text

EXTENT = 20  # pixels of the largest letter of a face, in width or height
SUFFIXES = (".otf", ".ttc", ".ttf")

_OVERSAMPLING = 8
_MOST_FACES = 256  # of a collection; a larger count is a damaged header
_UNMAPPED = "\U0010fffe"  # a noncharacter: no face maps it, so it draws the face's "missing" glyph


class UnusableFaceError(Exception):
    """A face that cannot be rendered; the message is the reason."""


def build(
    directories: Sequence[Path],
    *,
    faces: int | None = None,
    per_family: int = 8,
    excluded: Collection[str] = (),
    known: Images | None = None,
) -> tuple[list[Face], list[Rejection]]:
    """Turn the font files below some directories into a prototype set.

    directories : searched recursively, links to folders included, for TrueType and OpenType files and collections.
    faces : how many to keep; all usable ones if None.
    per_family : most faces of one family (see `family_key`).
    excluded : names of files to leave out.
    known : faces whose letters are known, (F, 10, 28, 28); without them, those that are found must read each other.

    Returns the faces, in an order that depends on their files' contents alone, and the rejected ones.
    """
    if per_family < 1 or (faces is not None and faces < 1):
        raise UserError("the number of faces and the limit per family must be at least 1")
    found, rejected = read(directories, excluded)
    kept, more = select(found, per_family=per_family, known=known)
    rejected += more
    places = ", ".join(map(str, directories))
    if not kept:
        raise UserError(
            f"no face in {places} has usable letters A to J ({', '.join(summary(rejected))}):"
            " name a directory of Latin text fonts"
        )
    if faces is not None and len(kept) < faces:
        raise UserError(
            f"{faces} faces were asked for, but {places} yields {len(kept)}: "
            "ask for fewer, allow more per family, or add directories"
        )
    return kept[:faces], rejected


def summary(rejected: Sequence[Rejection], most: int = 3) -> list[str]:
    """Why faces were left out, the commonest reasons first: "2: too faint"."""
    commonest = Counter(rejection.reason for rejection in rejected).most_common(most)
    told = [f"{count}: {reason}" for reason, count in commonest]
    rest = len(rejected) - sum(count for _, count in commonest)
    return [*told, f"{rest}: for other reasons"] if rest else told


def read(directories: Sequence[Path], excluded: Collection[str] = ()) -> tuple[list[Face], list[Rejection]]:
    """Render every face below the directories; unreadable, blank and excluded ones are rejected."""
    found: list[Face] = []
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
                found.append(read_face(path, data, index))
            except UnusableFaceError as error:
                rejected.append(Rejection(path, index, str(error)))
    return found, rejected


def find_files(directories: Sequence[Path]) -> list[Path]:
    """List the font files below the directories."""
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory: name a directory that holds font files")
    paths = sorted(path for path in _below(directories) if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        places = ", ".join(map(str, directories))
        raise UserError(f"no font files in {places}: name a directory that holds {', '.join(SUFFIXES)} files")
    return paths


def _below(directories: Sequence[Path]) -> Iterator[Path]:
    """All files below the directories and below what they link to; each directory once, as links may go in circles."""
    entered = set()
    for directory in directories:
        for place, inner, names in os.walk(directory, followlinks=True):
            real = os.path.realpath(place)
            if real in entered:
                inner.clear()
                continue
            entered.add(real)
            inner.sort()
            yield from (Path(place, name) for name in names)


def face_count(data: bytes) -> int:
    """Count the faces of a font file: a collection's header says, any other file holds one."""
    return min(int.from_bytes(data[8:12], "big"), _MOST_FACES) if data[:4] == b"ttcf" else 1


def read_face(path: Path, data: bytes, index: int) -> Face:
    """Render one face of a font file."""
    try:
        names = _font(data, index, SIDE).getname()
        images = render(data, index)
    except (OSError, ValueError) as error:
        raise UnusableFaceError(f"cannot be read as a font ({error})") from error
    raw_family, raw_style = ("".join(filter(str.isprintable, name or "")) for name in names)
    family, cut = split_family(raw_family or path.stem)
    return Face(path, index, family, f"{cut} {raw_style}".strip(), hashlib.sha256(data).hexdigest(), images)


def render(data: bytes, index: int = 0) -> Images:
    """Draw the letters of a face: (10, 28, 28), each centred by its ink, all at one scale."""
    target = EXTENT * _OVERSAMPLING
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
    return np.stack([_reduce(ink) for ink in inks])


def _font(data: bytes, index: int, size: float) -> ImageFont.FreeTypeFont:
    # From memory, because Pillow replaces a file it cannot open by a system font of the same name.
    return ImageFont.truetype(io.BytesIO(data), size, index, layout_engine=ImageFont.Layout.BASIC)


def _ink(font: ImageFont.FreeTypeFont, letter: str) -> Images:
    """Draw a letter and crop it to its ink."""
    box = font.getbbox(letter, anchor="ls")
    left, top, right, bottom = int(box[0]), int(box[1]), int(box[2]) + 1, int(box[3]) + 1
    if max(right - left, bottom - top) > 16 * SIDE * _OVERSAMPLING:
        raise UnusableFaceError(f"letter {letter} is out of proportion")
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=font, anchor="ls")
    return np.asarray(canvas.crop(canvas.getbbox() or (0, 0, 0, 0)))


def _reduce(ink: Images) -> Images:
    """Centre a large letter on the canvas and box-filter it to 28 x 28."""
    side = SIDE * _OVERSAMPLING
    height, width = ink.shape
    if max(height, width) > side:
        raise UnusableFaceError("the letters do not scale")
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.pad(ink.astype(float), ((top, side - height - top), (left, side - width - left)))
    reduced: Images = np.rint(canvas.reshape(SIDE, _OVERSAMPLING, SIDE, -1).mean(axis=(1, 3))).astype(np.uint8)
    return reduced


def write(
    faces: Sequence[Face],
    path: Path,
    *,
    manifest: Path | None = None,
    extra: Callable[[Face], Mapping[str, str]] | None = None,
) -> None:
    """Write a prototype set, and on demand a table that says where each face comes from.

    faces : as `build` returns them.
    path : archive of `images` (F, 10, 28, 28) uint8, `classes` (10,) and `names` (F,).
    manifest : CSV file with one row per face; extra : further columns of it.
    """
    images, names = np.stack([face.images for face in faces]), np.array([face.name for face in faces])
    with replace_file(path) as stream:
        np.savez_compressed(stream, images=images, classes=np.array(list(LETTERS)), names=names)
    if manifest is not None:
        rows = [
            {"index": str(i), "family": face.family, "style": face.style}
            | dict(extra(face) if extra else {})
            | {"file": face.path.name, "sha256": face.sha256}
            for i, face in enumerate(faces)
        ]
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(manifest, table.getvalue())
