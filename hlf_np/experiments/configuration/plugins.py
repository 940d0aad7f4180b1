"""Plugins: Python files in which users declare parts of their own (see EXTENDING.md).

A plugin is executed like a script. Its declarations are the objects at its top level that are subclasses of `Space`
with a name, `Training`s, attacks, `Measurement`s or `DataSource`s. Its source text is stored with the results and its
digest in `config.json`, so that a run can be repeated. A plugin runs with all rights of the user: only files passed
with `--plugin` are executed, never those in a results folder.
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

from hlf_np.support.errors import UserError

ENTRY_POINT_GROUP = "hlf_np.plugins"  # of installed packages, whose plugins go by the name of the entry point
MAX_PLUGIN_BYTES = 2**20
PLUGIN_MARKER = "__hlf_np_plugin__"  # a global variable of every plugin
MODULE_PREFIX = "hlf_np_plugin_"  # of the names of plugin modules
# Raised where the package receives an object that does not have the expected interface.
INTERFACE_ERRORS = (TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError)


class PluginError(UserError):
    """Raised if a plugin is missing, differs from the stored one, or fails."""


@dataclass(frozen=True)
class Plugin:
    """The source of a plugin.

    Parameters
    ----------
    name : str
        File name under which it is stored.
    text : str
        Its source text.
    path : str
        Where it was read from, for messages.
    """

    name: str
    text: str
    path: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """A digest of the text, which identifies the version."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name} {self.digest}"


def read_plugin(name: str) -> Plugin:
    """Read a plugin.

    Parameters
    ----------
    name : str
        Path of a Python file, or name of an entry point of an installed package.

    Returns
    -------
    Plugin
        The plugin, which is not executed yet.

    Raises
    ------
    PluginError
        If there is no such file or entry point, or it cannot be read.
    """
    path = Path(name)
    try:
        if not path.exists():
            for entry in metadata.entry_points(group=ENTRY_POINT_GROUP, name=name):
                path = Path(str(find_spec(entry.module).origin))  # type: ignore[union-attr]
        if not path.is_file() or path.stat().st_size > MAX_PLUGIN_BYTES:
            raise ValueError(f"not a file of at most {MAX_PLUGIN_BYTES} bytes" if path.exists() else "no such file")
        return Plugin(f"{path.stem}.py", path.read_text("utf-8-sig"), str(path))
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise PluginError(f"cannot read the plugin {name!r} ({error}): give a Python file") from None


def load_plugin(plugin: Plugin) -> list[Any]:
    """Execute a plugin.

    Parameters
    ----------
    plugin : Plugin
        The plugin.

    Returns
    -------
    list
        The objects at its top level, and in lists, tuples and dictionaries there, in the order of their definition.

    Raises
    ------
    PluginError
        If it fails, with file and line.
    """
    module = ModuleType(f"{MODULE_PREFIX}{plugin.digest}")
    file = plugin.path or plugin.name
    module.__dict__.update({"__file__": file, PLUGIN_MARKER: True})
    try:
        code = compile(plugin.text, file, "exec")
    except (SyntaxError, ValueError) as error:
        raise PluginError(f"the plugin fails at {file}:{getattr(error, 'lineno', None) or 1}: {error}") from None
    sys.modules[module.__name__] = module  # where dataclasses resolve annotations
    with plugin_errors(), chdir(Path.cwd()):  # undoes chdir in the plugin: paths of the command line stay valid
        exec(code, module.__dict__)
    values: list[Any] = []
    for name, value in module.__dict__.items():
        if not name.startswith("__"):
            several = value.values() if isinstance(value, dict) else value
            values += several if isinstance(value, dict | list | tuple) else [value]
    return values


@contextmanager
def plugin_errors() -> Iterator[None]:
    """Turn an error in the code of a plugin into a one-line message with file and line.

    Raises
    ------
    PluginError
        In place of any error whose traceback passes through a plugin, and of an error in the package that an object
        of a plugin with the wrong interface may have caused.
    """
    try:
        yield
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        locations = [f"{frame.f_code.co_filename}:{line}" for frame, line in frames if PLUGIN_MARKER in frame.f_globals]
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        files = [str(module.__file__) for name, module in sys.modules.items() if name.startswith(MODULE_PREFIX)]
        if not locations and files and type(error) in INTERFACE_ERRORS:
            location = f"{Path(frames[-1][0].f_code.co_filename).name}:{frames[-1][1]}"
            raise PluginError(
                f"an object declared in {' or '.join(files)} has the wrong interface: {message} in {location}"
            ) from None
        if not locations:
            raise
        raise PluginError(f"the plugin fails at {locations[-1]}: {message}") from None
