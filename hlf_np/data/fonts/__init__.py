"""FONTS, the dataset with a known manifold (`dataset`), and how its prototypes are made from font files."""

from hlf_np.data.fonts.dataset import (
    BOXES,
    EMNIST_BOX,
    FONTS,
    Box,
    Difficulty,
    Fonts,
    load_fonts,
)
from hlf_np.data.fonts.prototypes import LETTERS, load_prototypes, prototypes_digest

__all__ = [
    "BOXES",
    "EMNIST_BOX",
    "FONTS",
    "LETTERS",
    "Box",
    "Difficulty",
    "Fonts",
    "load_fonts",
    "load_prototypes",
    "prototypes_digest",
]
