"""Where the images of a run come from, see `hlf_np.data.source`."""

from hlf_np.data.source import FONTS, Source, open_source
from hlf_np.data.source import StoredSource as IdxSource
from hlf_np.data.source import open_files as open_idx

__all__ = ["FONTS", "IdxSource", "Source", "open_idx", "open_source"]
