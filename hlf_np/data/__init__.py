"""Datasets."""

from hlf_np.data.dataset import Codes, Dataset, Split
from hlf_np.data.fonts import Fonts, load_fonts
from hlf_np.data.idx import load_idx

__all__ = ["Codes", "Dataset", "Fonts", "Split", "load_fonts", "load_idx"]
