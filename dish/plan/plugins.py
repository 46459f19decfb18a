"""Find commands that other packages add to `dish`: entry point group `dish.commands`.

Each is a function that adds one sub-command to a parser. So `dish rehearse` can use the simulated
spacecraft while nothing in `dish` imports it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module, metadata

GROUP = "dish.commands"
# Used where the distribution's metadata is absent, such as a plain checkout on the path.
_FALLBACK = (("sim.rehearsal.cli", "add_rehearse"),)

Add = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]


def add_plugins(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands of all plug-ins to a parser."""
    for add in _found():
        add(commands)


def _found() -> Iterator[Add]:
    points = metadata.entry_points(group=GROUP)
    if points:
        for point in points:
            yield point.load()
        return
    for module, name in _FALLBACK:
        try:
            yield getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.split(".")[0]):
                raise
