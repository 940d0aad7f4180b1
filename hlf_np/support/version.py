"""Which code computed a result."""

import hashlib
from functools import cache
from pathlib import Path

import hlf_np


@cache
def code_version() -> str:
    """Return the version of this package and a digest of its modules, which may change before the version does.

    Returns
    -------
    str
        Such as "0.1.0 (1f0c9a7b)".
    """
    root, content = Path(hlf_np.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return f"{hlf_np.__version__} ({content.hexdigest()[:8]})"
