"""Python files of the user that declare something of their own: see "Bring your own" in the README.

A plugin is run like a script, and what it declares are the objects at its top level that are declarations: subclasses
of `Space` with a name, `Training`s, attacks, `Measurement`s and `DataSource`s. Its text is stored with the results, and
its digest in `config.json`, so that a run can be repeated. It is code that runs with all rights of the user: only what
is named with `--plugin` is run, never what lies in a folder of results.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from hlf_np.errors import UserError

GROUP = "hlf_np.plugins"  # of entry points: those of installed packages are called by their names
LARGEST = 2**20  # bytes of a plugin
MARK, PREFIX = "__hlf_np_plugin__", "hlf_np_plugin_"  # among the globals of its code; of the names of modules
# What comes up where the package is handed something else than it expects.
MISFITS = (TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError)


class PluginError(UserError):
    """A plugin that is missing, another than it was, or fails."""


@dataclass(frozen=True)
class Plugin:
    """A plugin as it was read. name : of its file, with which it is stored; path : where it was, for messages."""

    name: str
    text: str
    path: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name} {self.digest}"


def read_plugin(given: str) -> Plugin:
    """The plugin in a file, or of an installed package by the name of its entry point.

    Raises
    ------
    PluginError : if there is none, or it cannot be read.
    """
    path = Path(given)
    try:
        if not path.exists():
            for entry in metadata.entry_points(group=GROUP, name=given):
                path = Path(str(find_spec(entry.module).origin))  # type: ignore[union-attr]
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError("not a file of reasonable size" if path.exists() else "there is no such file")
        return Plugin(f"{path.stem}.py", path.read_text("utf-8-sig"), str(path))
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise PluginError(f"cannot read the plugin {given!r} ({error}): give a Python file") from None


def load_plugin(plugin: Plugin) -> list[Any]:
    """The objects at the top level of a plugin, in their order.

    Raises
    ------
    PluginError : if running it fails, with file and line.
    """
    module = ModuleType(f"{PREFIX}{plugin.digest}")
    file = plugin.path or plugin.name
    module.__dict__.update({"__file__": file, MARK: True})
    try:
        code = compile(plugin.text, file, "exec")
    except (SyntaxError, ValueError) as error:
        raise PluginError(f"the plugin fails at {file}:{getattr(error, 'lineno', None) or 1}: {error}") from None
    sys.modules[module.__name__] = module  # where dataclasses look up the names in their annotations
    with plugin_errors(), chdir(Path.cwd()):  # whatever it does, the paths of the command line stay what they were
        exec(code, module.__dict__)
    return [thing for name, thing in module.__dict__.items() if not name.startswith("__")]


@contextmanager
def plugin_errors() -> Iterator[None]:
    """Whatever goes wrong in the code of a plugin becomes one line with its file and line.

    Raises
    ------
    PluginError : instead of any error that came through a plugin.
    """
    try:
        yield
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        places = [f"{frame.f_code.co_filename}:{line}" for frame, line in frames if MARK in frame.f_globals]
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        used = [str(module.__file__) for name, module in sys.modules.items() if name.startswith(PREFIX)]
        if not places and used and type(error) in MISFITS:
            place = f"{Path(frames[-1][0].f_code.co_filename).name}:{frames[-1][1]}"
            raise PluginError(
                f"something that {' or '.join(used)} declares is not as it must be: {what} in {place}"
            ) from None
        if not places:
            raise
        raise PluginError(f"the plugin fails at {places[-1]}: {what}") from None
