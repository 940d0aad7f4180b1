"""Datasets: FONTS, whose manifold is known, and images from files."""

from hlf_np.data.dataset import Codes, Dataset, Split
from hlf_np.data.files import load, load_idx
from hlf_np.data.fonts import Fonts, load_fonts
from hlf_np.data.open_source import DataSource

__all__ = ["Codes", "DataSource", "Dataset", "Fonts", "Split", "load", "load_fonts", "load_idx"]
