"""Which faces make a prototype set: families, and the rules by which a face is left out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hlf_np.arrays import flat_rows

LETTERS = "ABCDEFGHIJ"
SIDE = 28  # pixels of a prototype

# Thresholds of the rules; pixels count from 0 to 1, differences are root mean squares.
PEAK = 0.5  # least brightest pixel of a letter: below it, strokes are too thin for 28 x 28
INK = 0.02  # least mean pixel over a face's ten letters
REPEAT = 0.2  # least difference of two letters, relative to the larger (E and F: about 0.4)
DUPLICATE = 0.06  # least difference between two faces, over all ten letters
MISREAD = 2  # most letters whose nearest letter in other families may be a different one

_BLOCK = 64  # faces compared with all others at a time
_STYLE_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        thin hairline ultralight extralight light semilight demilight book regular roman normal medium demi
        semi semibold demibold bold extra extrabold ultra ultrabold heavy black wide extended expanded narrow
        condensed compressed semicondensed extracondensed ultracondensed upright italic oblique slanted
        text caption subhead display headline title titling poster initials caps smallcap smallcaps sc osf lf
        tosf tlf std pro otf ttf variable vf
        """,
    )
)
_CAMEL_STYLE = re.compile(rf"(?<=[a-z])({'|'.join(sorted(map(str.capitalize, _STYLE_WORDS)))})(?![a-z])")
_PLAIN_STYLES = frozenset({"", "regular", "roman", "book", "normal", "medium", "plain"})

Images = NDArray[np.uint8]
Reasons = list[str | None]  # why each face is rejected; None where it is not


@dataclass(frozen=True)
class Face:
    """One face of a font file with its rendered letters."""

    path: Path
    index: int  # position in a collection (.ttc), else 0
    family: str
    style: str
    sha256: str  # of the file
    images: Images  # (10, 28, 28), white on black

    @property
    def name(self) -> str:
        return f"{self.family} {self.style}".strip()


@dataclass(frozen=True)
class Rejection:
    """A face that is not used, and why."""

    path: Path
    index: int
    reason: str


def split_family(name: str) -> tuple[str, str]:
    """Split a family name into the family proper and the words for weight, width or size in it.

    >>> split_family("Lato Black"), split_family("LibreCaslonText"), split_family("LM Roman 10")
    (('Lato', 'Black'), ('LibreCaslon', 'Text'), ('LM', 'Roman 10'))
    """
    spaced = _CAMEL_STYLE.sub(r" \1", name.strip())
    words = re.split(r"[\s_-]+", re.sub(r"(?<=[a-z])(\d+)$", r" \1", spaced))
    family, style = words[:1], list[str]()
    for word in words[1:]:
        is_style = word.lower() in _STYLE_WORDS or word.isdigit()
        (style if is_style else family).append(word)
    return " ".join(family), " ".join(style)


def family_key(family: str) -> str:
    """Name a family regardless of spelling: "EB Garamond" and "EBGaramond" are one."""
    return re.sub(r"[\W_]+", "", family).casefold()


def select(
    faces: Sequence[Face], *, per_family: int, known: Images | None = None
) -> tuple[list[Face], list[Rejection]]:
    """Apply the rules to rendered faces, then order the rest by content; `known` is for `misread`."""
    rejected: list[Rejection] = []

    def passed(reasons: Reasons) -> list[Face]:
        judged = list(zip(kept, reasons, strict=True))
        rejected.extend(Rejection(face.path, face.index, reason) for face, reason in judged if reason)
        return [face for face, reason in judged if not reason]

    kept = sorted(faces, key=_plainness)  # the plainest of a group of duplicates stays
    for rule in (faint, repeating, duplicate):
        kept = passed(rule(kept))
    before = len(kept) + 1
    while len(kept) < before:  # a symbol font can vouch for another, so ask again once the first are gone
        before = len(kept)
        kept = passed(misread(kept, known))
    kept = passed(crowded(kept, per_family))
    return sorted(kept, key=lambda face: (face.sha256, face.index)), rejected


def faint(faces: Sequence[Face]) -> Reasons:
    """Reject strokes that vanish at 28 x 28."""
    letters = _stack(faces)
    pale = letters.max(axis=(2, 3)).min(axis=1) < PEAK
    sparse = letters.mean(axis=(1, 2, 3)) < INK
    return ["too faint" if bad else None for bad in pale | sparse]


def repeating(faces: Sequence[Face]) -> Reasons:
    """Reject faces that draw two letters alike."""
    reasons: Reasons = []
    for letters in _stack(faces):
        sizes = np.sqrt((flat_rows(letters) ** 2).mean(axis=1))
        relative = _distances(letters) / np.maximum(sizes[:, None], sizes)  # (10, 10)
        np.fill_diagonal(relative, np.inf)
        first, second = np.unravel_index(relative.argmin(), relative.shape)
        alike = relative[first, second] < REPEAT
        reasons.append(f"{LETTERS[first]} and {LETTERS[second]} look alike" if alike else None)
    return reasons


def duplicate(faces: Sequence[Face]) -> Reasons:
    """Reject faces that are close to an earlier one that stays."""
    close = _distances(_stack(faces)) < DUPLICATE  # (F, F)
    stays = np.zeros(len(faces), bool)
    reasons: Reasons = []
    for i in range(len(faces)):
        twins = np.flatnonzero(close[i] & stays)
        stays[i] = twins.size == 0
        reasons.append(None if stays[i] else f"looks like {faces[twins[0]].name}")
    return reasons


def misread(faces: Sequence[Face], known: Images | None = None) -> Reasons:
    """Reject faces whose letters are nearest to different letters of known faces (F, 10, 28, 28).

    Without any, the other families of `faces` stand for them. There must be some hundred: among 20 families, a fifth of
    all text faces would be rejected.
    """
    own = np.unique([family_key(face.family) for face in faces], return_inverse=True)[1]
    keys = own if known is None else np.full(len(known), -1)
    if known is None and len(set(own.tolist())) < 2:  # nothing to compare with
        return [None] * len(faces)
    blurred = _blurred(_stack(faces))
    others = blurred if known is None else _blurred(known.astype(np.float32) / np.float32(255))
    norms = np.einsum("ij,ij->i", others, others)
    wrong: list[int] = []
    for start in range(0, len(faces), _BLOCK):
        block = blurred[10 * start : 10 * (start + _BLOCK)]
        distances = norms - 2 * block @ others.T  # squared, up to a constant per row
        by_face = distances.reshape(-1, 10, len(keys), 10)  # (block, 10, F, 10)
        same_family = own[start : start + _BLOCK, None] == keys  # (block, F)
        by_face[np.broadcast_to(same_family[:, None, :, None], by_face.shape)] = np.inf
        nearest = by_face.min(axis=2).argmin(axis=2)  # (block, 10)
        wrong += np.count_nonzero(nearest != np.arange(10), axis=1).tolist()
    return [f"{count} of 10 letters read as others" if count > MISREAD else None for count in wrong]


def _blurred(letters: NDArray[np.float32]) -> NDArray[np.float32]:
    """Letters (F, 10, 28, 28) as rows (10 F, 784); a slight blur forgives strokes that are a pixel apart."""
    blurred: NDArray[np.float32] = gaussian_filter(letters, sigma=(0, 0, 1, 1)).reshape(-1, SIDE * SIDE)
    return blurred


def crowded(faces: Sequence[Face], per_family: int) -> Reasons:
    """Reject all but the most varied faces of each family."""
    groups: dict[str, list[int]] = {}
    for i, face in enumerate(faces):
        groups.setdefault(family_key(face.family), []).append(i)
    reasons: Reasons = [f"more than {per_family} faces of its family"] * len(faces)
    for members in groups.values():
        distances = _distances(_stack([faces[i] for i in members]))
        nearest = np.full(len(members), np.inf)
        for _ in range(min(per_family, len(members))):
            farthest = int(nearest.argmax())  # from those chosen; at first, the plainest
            reasons[members[farthest]] = None
            nearest = np.minimum(nearest, distances[farthest])
    return reasons


def _plainness(face: Face) -> tuple[bool, int, str, int]:
    """Sort key: regular upright faces first, then short family names ("X" before "X Armenian")."""
    return face.style.lower() not in _PLAIN_STYLES, len(face.name), face.sha256, face.index


def _stack(faces: Sequence[Face]) -> NDArray[np.float32]:
    """Collect the letters as numbers in [0, 1]: (F, 10, 28, 28)."""
    images = np.array([face.images for face in faces], np.float32)
    return images.reshape(-1, len(LETTERS), SIDE, SIDE) / np.float32(255)


def _distances(things: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean squared difference between every two things, letters or faces: (R, ...) to (R, R)."""
    rows = flat_rows(things)
    norms = np.einsum("ij,ij->i", rows, rows)
    squared = norms[:, None] + norms - 2 * rows @ rows.T
    distances: NDArray[np.float32] = np.sqrt(np.maximum(squared, 0) / rows.shape[1])
    return distances
