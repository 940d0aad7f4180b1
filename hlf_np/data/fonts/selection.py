"""The selection of faces for a prototype set: their families, and the rules by which faces are rejected."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hlf_np.data.fonts.prototypes import LETTERS, SIDE
from hlf_np.support.arrays import flat_rows

# Thresholds of the rules, for pixels in [0, 1] and root mean squared differences.
MIN_PEAK = 0.5  # of a letter's brightest pixel; below it, strokes are too thin for 28 x 28 pixels
MIN_MEAN_PIXEL = 0.02  # over the ten letters of a face
MIN_LETTER_DIFFERENCE = 0.2  # between two letters of a face, relative to the larger (E and F: about 0.4)
MIN_FACE_DIFFERENCE = 0.06  # between two faces, over all ten letters
MAX_MISREAD_LETTERS = 2  # of a face: letters whose nearest letter in other families is a different one

_BLOCK = 64  # faces that are compared with all others at a time
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
Reasons = list[str | None]  # why each face is rejected; None if it is not


@dataclass(frozen=True)
class Face:
    """A face of a font file with its rendered letters.

    Parameters
    ----------
    path : Path
        Path of the file.
    index : int
        Index in a collection (.ttc), else 0.
    family : str
        Family name, without words for weight, width and size.
    style : str
        These words and the style.
    sha256 : str
        SHA-256 digest of the file.
    images : ndarray of uint8, shape (10, 28, 28)
        The letters A to J, white on black.
    """

    path: Path
    index: int
    family: str
    style: str
    sha256: str
    images: Images

    @property
    def name(self) -> str:
        return f"{self.family} {self.style}".strip()


@dataclass(frozen=True)
class Rejection:
    """A rejected face.

    Parameters
    ----------
    path : Path
        Path of the font file.
    index : int
        Index in a collection (.ttc), else 0.
    reason : str
        Why the face is rejected.
    """

    path: Path
    index: int
    reason: str


def split_family(name: str) -> tuple[str, str]:
    """Split a family name into the family proper and its words for weight, width or size.

    Examples
    --------
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
    """Return a key for a family that is independent of spelling: "EB Garamond" and "EBGaramond" are the same."""
    return re.sub(r"[\W_]+", "", family).casefold()


def select_faces(
    faces: Sequence[Face], *, per_family: int, known: Images | None = None
) -> tuple[list[Face], list[Rejection]]:
    """Apply all rules to rendered faces.

    Parameters
    ----------
    faces : sequence of Face
        The candidates.
    per_family : int
        Maximum number of faces of one family.
    known : ndarray of uint8, shape (F, 10, 28, 28), optional
        Prototypes for `reject_misread`.

    Returns
    -------
    kept : list of Face
        The faces that pass, ordered by the digest of their file.
    rejected : list of Rejection
        The other faces.
    """
    rejected: list[Rejection] = []

    def without_rejected(reasons: Reasons) -> list[Face]:
        judged = list(zip(kept, reasons, strict=True))
        rejected.extend(Rejection(face.path, face.index, reason) for face, reason in judged if reason)
        return [face for face, reason in judged if not reason]

    kept = sorted(faces, key=_plainness)  # the plainest of several duplicates is kept
    for rule in (reject_faint, reject_lookalike_letters, reject_duplicates):
        kept = without_rejected(rule(kept))
    previous = len(kept) + 1
    while len(kept) < previous:  # symbol fonts may support each other, so repeat once some are rejected
        previous = len(kept)
        kept = without_rejected(reject_misread(kept, known))
    kept = without_rejected(reject_crowded(kept, per_family))
    return sorted(kept, key=lambda face: (face.sha256, face.index)), rejected


def reject_faint(faces: Sequence[Face]) -> Reasons:
    """Reject faces whose strokes vanish at 28 x 28 pixels."""
    letters = _letters(faces)
    pale = letters.max(axis=(2, 3)).min(axis=1) < MIN_PEAK
    sparse = letters.mean(axis=(1, 2, 3)) < MIN_MEAN_PIXEL
    return ["too faint" if is_faint else None for is_faint in pale | sparse]


def reject_lookalike_letters(faces: Sequence[Face]) -> Reasons:
    """Reject faces with two letters that look alike."""
    reasons: Reasons = []
    for letters in _letters(faces):
        sizes = np.sqrt((flat_rows(letters) ** 2).mean(axis=1))
        relative = _distances(letters) / np.maximum(sizes[:, None], sizes)  # (10, 10)
        np.fill_diagonal(relative, np.inf)
        first, second = np.unravel_index(relative.argmin(), relative.shape)
        alike = relative[first, second] < MIN_LETTER_DIFFERENCE
        reasons.append(f"{LETTERS[first]} and {LETTERS[second]} look alike" if alike else None)
    return reasons


def reject_duplicates(faces: Sequence[Face]) -> Reasons:
    """Reject faces that are close to an earlier one that is kept."""
    close = _distances(_letters(faces)) < MIN_FACE_DIFFERENCE  # (F, F)
    kept = np.zeros(len(faces), bool)
    reasons: Reasons = []
    for i in range(len(faces)):
        twins = np.flatnonzero(close[i] & kept)
        kept[i] = twins.size == 0
        reasons.append(None if kept[i] else f"looks like {faces[twins[0]].name}")
    return reasons


def reject_misread(faces: Sequence[Face], known: Images | None = None) -> Reasons:
    """Reject faces whose letters are nearest to different letters of other faces.

    Parameters
    ----------
    faces : sequence of Face
        Faces to judge.
    known : ndarray of uint8, shape (F, 10, 28, 28), optional
        Prototypes to compare with; by default, the other families of `faces`. These should be a few hundred: among 20
        families, a fifth of all text faces would be rejected.
    """
    families = np.unique([family_key(face.family) for face in faces], return_inverse=True)[1]
    other_families = families if known is None else np.full(len(known), -1)
    if known is None and len(set(families.tolist())) < 2:  # nothing to compare with
        return [None] * len(faces)
    blurred = _blurred(_letters(faces))
    others = blurred if known is None else _blurred(known.astype(np.float32) / np.float32(255))
    norms = np.einsum("ij,ij->i", others, others)
    misread: list[int] = []  # number of letters of each face
    for start in range(0, len(faces), _BLOCK):
        block = blurred[10 * start : 10 * (start + _BLOCK)]
        distances = norms - 2 * block @ others.T  # squared, up to a constant per row
        by_face = distances.reshape(-1, 10, len(other_families), 10)  # (block, 10, F, 10)
        same_family = families[start : start + _BLOCK, None] == other_families  # (block, F)
        by_face[np.broadcast_to(same_family[:, None, :, None], by_face.shape)] = np.inf
        nearest = by_face.min(axis=2).argmin(axis=2)  # (block, 10)
        misread += np.count_nonzero(nearest != np.arange(10), axis=1).tolist()
    return [f"{count} of 10 letters mistaken for others" if count > MAX_MISREAD_LETTERS else None for count in misread]


def _blurred(letters: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flatten letters (F, 10, 28, 28) to (10 F, 784), slightly blurred to tolerate strokes that are a pixel apart."""
    blurred: NDArray[np.float32] = gaussian_filter(letters, sigma=(0, 0, 1, 1)).reshape(-1, SIDE * SIDE)
    return blurred


def reject_crowded(faces: Sequence[Face], per_family: int) -> Reasons:
    """Reject all but the most varied `per_family` faces of each family, found by farthest-point sampling."""
    families: dict[str, list[int]] = {}
    for i, face in enumerate(faces):
        families.setdefault(family_key(face.family), []).append(i)
    reasons: Reasons = [f"more than {per_family} faces of its family"] * len(faces)
    for members in families.values():
        distances = _distances(_letters([faces[i] for i in members]))
        nearest = np.full(len(members), np.inf)  # distance to the nearest chosen face
        for _ in range(min(per_family, len(members))):
            farthest = int(nearest.argmax())  # at first, the plainest face
            reasons[members[farthest]] = None
            nearest = np.minimum(nearest, distances[farthest])
    return reasons


def _plainness(face: Face) -> tuple[bool, int, str, int]:
    """Return a sort key: regular upright faces first, then short names ("X" before "X Armenian")."""
    return face.style.lower() not in _PLAIN_STYLES, len(face.name), face.sha256, face.index


def _letters(faces: Sequence[Face]) -> NDArray[np.float32]:
    """Stack the letters of all faces, (F, 10, 28, 28) float32 in [0, 1]."""
    images = np.array([face.images for face in faces], np.float32)
    return images.reshape(-1, len(LETTERS), SIDE, SIDE) / np.float32(255)


def _distances(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the root mean squared difference between every two of N letters or faces, (N, ...) to (N, N)."""
    rows = flat_rows(images)
    norms = np.einsum("ij,ij->i", rows, rows)
    squared = norms[:, None] + norms - 2 * rows @ rows.T
    distances: NDArray[np.float32] = np.sqrt(np.maximum(squared, 0) / rows.shape[1])
    return distances
