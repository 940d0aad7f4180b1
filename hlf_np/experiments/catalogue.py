"""What there is to run: all that the package and the plugins declare."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hlf_np.attacks import ATTACKS, Attack
from hlf_np.data.declared import DataSource
from hlf_np.data.fonts import FONTS
from hlf_np.errors import UserError
from hlf_np.experiments.measurements import KEYS, MEASUREMENTS, Measurement, of_attack, of_space
from hlf_np.experiments.plugins import Plugin, PluginError, load_plugin
from hlf_np.spaces import SPACES, Space
from hlf_np.trainings import TRAININGS, Training


@dataclass(frozen=True)
class Catalogue:
    """Everything that can be named: on the command line, in results, in a report.

    added : the trainings of plugins, which a run does besides those of its preset.
    """

    spaces: tuple[type[Space], ...] = SPACES
    trainings: tuple[Training, ...] = TRAININGS
    attacks: tuple[Attack, ...] = ATTACKS
    measurements: tuple[Measurement, ...] = MEASUREMENTS
    sources: tuple[DataSource, ...] = ()
    added: tuple[Training, ...] = ()

    @property
    def measured(self) -> tuple[type[Space], ...]:
        """The spaces that every model is attacked in."""
        return tuple(space for space in self.spaces if space.measured)


@cache
def catalogue(plugins: tuple[Plugin, ...] = ()) -> Catalogue:
    """What the package declares, and what plugins add to it.

    A space brings two measurements and a training with it, an attack a measurement.

    Raises
    ------
    UserError : for a plugin that fails or declares nothing, and for names that are taken or none.
    """
    package = Catalogue()
    added: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for name, count in Counter(plugin.name for plugin in plugins).items():
        if count > 1:
            raise PluginError(f"there are {count} plugins named {name}: rename one of the files")
    for plugin in plugins:
        found = list({id(thing): thing for thing in load_plugin(plugin)}.values())
        known = {kind: getattr(package, kind) for kind in _KINDS}
        own = {
            kind: [thing for thing in found if belongs(thing) and all(thing is not other for other in known[kind])]
            for kind, belongs in _KINDS.items()
        }
        if not any(own.values()):
            raise UserError(
                f"the plugin {plugin.path or plugin.name!r} declares nothing: put a Space with a name, a Training, an"
                " attack of a class of yours, a Measurement or a DataSource at its top level"
            )
        for kind, things in own.items():
            added[kind] += things
    for space in added["spaces"]:
        if space.measured:
            added["measurements"] += of_space(space)
        trained = Training(f"{space.name}_adversarial", (space,))
        if trained not in added["trainings"]:
            added["trainings"].append(trained)
    added["measurements"] += [of_attack(attack) for attack in added["attacks"]]
    everything = {kind: (*getattr(package, kind), *things) for kind, things in added.items()}
    whole = Catalogue(**everything, added=tuple(added["trainings"]))
    for kind in ("spaces", "trainings", "attacks"):
        _check_names(kind, [each.name for each in getattr(whole, kind)])
    _check_names("options", [space.choice().replace("-", "_") for space in whole.spaces])
    _check_names("measurements", [*KEYS, *(measurement.column for measurement in whole.measurements)])
    _check_names("datasets", [FONTS, *(source.name for source in whole.sources)])
    return whole


def _is_space(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Space) and bool(thing.name) and not inspect.isabstract(thing)


def _is_attack(thing: Any) -> bool:
    """Attacks of the package's own classes are settings, such as those of a training."""
    if type(thing).__module__.partition(".")[0] == "hlf_np" or inspect.isclass(thing):
        return False
    return isinstance(getattr(thing, "name", None), str) and hasattr(thing, "find")


# What belongs to each of a catalogue's kinds, in the order of its fields.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "spaces": _is_space,
    "trainings": lambda thing: isinstance(thing, Training),
    "attacks": _is_attack,
    "measurements": lambda thing: isinstance(thing, Measurement),
    "sources": lambda thing: isinstance(thing, DataSource),
}


def _check_names(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if not re.fullmatch("[a-z][a-z0-9_.]{0,63}", name):
            raise UserError(f"{what} cannot be named {name!r}: use up to 64 lower-case letters, digits and underscores")
        if count > 1:
            raise UserError(f"there are two {what} named {name!r}: give yours another name")
