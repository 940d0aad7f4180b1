"""The catalogue: everything that the package and the plugins declare."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hlf_np.attacks import ATTACKS, Attack
from hlf_np.data.fonts import FONTS
from hlf_np.data.open_source import DataSource
from hlf_np.experiments.configuration.plugins import Plugin, PluginError, load_plugin
from hlf_np.experiments.measurements.built_in import MEASUREMENTS, of_attack, of_space
from hlf_np.experiments.measurements.measurement import KEY_COLUMNS, Measurement
from hlf_np.spaces import SPACES, Space
from hlf_np.support.errors import UserError
from hlf_np.trainings import TRAININGS, Training


@dataclass(frozen=True)
class Catalogue:
    """Everything that has a name on the command line, in the results and in the report.

    Parameters
    ----------
    spaces : tuple of Space classes
        The perturbation spaces.
    trainings : tuple of Training
        The trainings.
    attacks : tuple of Attack
        The attacks.
    measurements : tuple of Measurement
        The measurements, in the order of their columns.
    sources : tuple of DataSource
        The datasets that plugins declare.
    added : tuple of Training
        The trainings that plugins declare; a run adds them to those of its preset.
    """

    spaces: tuple[type[Space], ...] = SPACES
    trainings: tuple[Training, ...] = TRAININGS
    attacks: tuple[Attack, ...] = ATTACKS
    measurements: tuple[Measurement, ...] = MEASUREMENTS
    sources: tuple[DataSource, ...] = ()
    added: tuple[Training, ...] = ()

    @property
    def measured(self) -> tuple[type[Space], ...]:
        """The spaces in which every model is attacked."""
        return tuple(space for space in self.spaces if space.measured)


@cache
def catalogue(plugins: tuple[Plugin, ...] = ()) -> Catalogue:
    """Return what the package declares, together with what plugins add.

    A space adds two measurements and a training, an attack adds a measurement.

    Parameters
    ----------
    plugins : tuple of Plugin
        The plugins to load.

    Returns
    -------
    Catalogue
        All declarations, those of the package first.

    Raises
    ------
    UserError
        If a plugin fails or declares nothing, or if a name is invalid or taken.
    """
    package = Catalogue()
    added: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for name, count in Counter(plugin.name for plugin in plugins).items():
        if count > 1:
            raise PluginError(f"there are {count} plugins named {name}: rename one of the files")
    for plugin in plugins:
        candidates = list({id(value): value for value in load_plugin(plugin)}.values())
        declared = {
            kind: [
                value
                for value in candidates
                if belongs(value) and all(value is not known for known in getattr(package, kind))
            ]
            for kind, belongs in _KINDS.items()
        }
        if not any(declared.values()):
            raise UserError(
                f"the plugin {plugin.path or plugin.name!r} declares nothing: define a Space with a name, a Training,"
                " an attack of your own class, a Measurement or a DataSource at its top level"
            )
        for kind, values in declared.items():
            added[kind] += values
    for space in added["spaces"]:
        if space.measured:
            added["measurements"] += of_space(space)
        training = Training(f"{space.name}_adversarial", (space,))
        if training not in added["trainings"]:
            added["trainings"].append(training)
    added["measurements"] += [of_attack(attack) for attack in added["attacks"]]
    declarations = {kind: (*getattr(package, kind), *values) for kind, values in added.items()}
    result = Catalogue(**declarations, added=tuple(added["trainings"]))
    for kind in ("spaces", "trainings", "attacks"):
        _check_names(kind, [declaration.name for declaration in getattr(result, kind)])
    _check_names("options", [space.option_name().replace("-", "_") for space in result.spaces])
    columns = [measurement.column for measurement in result.measurements]
    _check_names("measurements", [*KEY_COLUMNS, *columns, "computed_by"])
    _check_names("datasets", [FONTS, *(source.name for source in result.sources)])
    return result


def _is_space(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Space) and bool(value.name) and not inspect.isabstract(value)


def _is_attack(value: Any) -> bool:
    """Return whether a value declares an attack; instances of the package's own classes are mere settings."""
    if type(value).__module__.partition(".")[0] == "hlf_np" or inspect.isclass(value):
        return False
    return isinstance(getattr(value, "name", None), str) and hasattr(value, "find")


# Predicates that tell what a value declares, by the fields of `Catalogue`.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "spaces": _is_space,
    "trainings": lambda value: isinstance(value, Training),
    "attacks": _is_attack,
    "measurements": lambda value: isinstance(value, Measurement),
    "sources": lambda value: isinstance(value, DataSource),
}


def _check_names(kind: str, names: Iterable[str]) -> None:
    """Raise UserError if a name is invalid or occurs twice."""
    for name, count in Counter(names).items():
        if not re.fullmatch("[a-z][a-z0-9_.]{0,63}", name):
            raise UserError(f"{kind} cannot be named {name!r}: use up to 64 lower-case letters, digits and underscores")
        if count > 1:
            raise UserError(f"there are two {kind} named {name!r}: choose another name for yours")
