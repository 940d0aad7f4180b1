"""What there is to run: all that the package and the plugins declare."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hlf_np.attacks import ATTACKS, Attack
from hlf_np.data.declared import DataSource
from hlf_np.errors import UserError
from hlf_np.experiments.measurements import MEASUREMENTS, Measurement, of_attack, of_space
from hlf_np.experiments.plugins import Plugin, load_plugin
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
    built_in = Catalogue()
    spaces, trainings, attacks, measurements, sources = (list[Any]() for _ in range(5))
    for plugin in plugins:
        found = list({id(thing): thing for thing in load_plugin(plugin)}.values())
        own: list[list[Any]] = [
            [thing for thing in found if _is_space(thing) and thing not in built_in.spaces],
            [thing for thing in found if isinstance(thing, Training) and thing not in built_in.trainings],
            [thing for thing in found if _is_attack(thing)],
            [thing for thing in found if isinstance(thing, Measurement) and thing not in built_in.measurements],
            [thing for thing in found if isinstance(thing, DataSource)],
        ]
        if not any(own):
            raise UserError(
                f"the plugin {plugin.path or plugin.name!r} declares nothing: put a Space with a name, a Training, an"
                " attack, a Measurement or a DataSource at its top level"
            )
        for everything, new in zip((spaces, trainings, attacks, measurements, sources), own, strict=True):
            everything += new
    for space in spaces:
        if space.measured:
            measurements += of_space(space)
        trained = Training(f"{space.name}_adversarial", (space,))
        trainings += [] if trained in trainings else [trained]
    measurements += [of_attack(attack) for attack in attacks]
    whole = Catalogue(
        built_in.spaces + tuple(spaces),
        built_in.trainings + tuple(trainings),
        built_in.attacks + tuple(attacks),
        built_in.measurements + tuple(measurements),
        tuple(sources),
        tuple(trainings),
    )
    for what, names in (
        ("spaces", [space.name for space in whole.spaces]),
        ("trainings", [training.name for training in whole.trainings]),
        ("attacks", [attack.name for attack in whole.attacks]),
        ("measurements", [measurement.column for measurement in whole.measurements]),
        ("datasets", ["fonts", *(source.name for source in whole.sources)]),
    ):
        _check_names(what, names)
    return whole


def _is_space(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Space) and bool(thing.name) and not inspect.isabstract(thing)


def _is_attack(thing: Any) -> bool:
    """Attacks of the package's own classes are settings, such as those of a training."""
    own = type(thing).__module__.partition(".")[0] == "hlf_np"
    return (
        not own
        and not inspect.isclass(thing)
        and isinstance(getattr(thing, "name", None), str)
        and hasattr(thing, "find")
    )


def _check_names(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if not re.fullmatch("[a-z][a-z0-9_.]*", name):
            raise UserError(f"{what} cannot be named {name!r}: use lower-case letters, digits and underscores")
        if count > 1:
            raise UserError(f"there are two {what} named {name!r}: give yours another name")
