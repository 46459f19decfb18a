"""Write the parameter lists of the emulated payload's nodes into configs/lists.

`dish verify --shipped` and `dish compile` check plans against them without a network. Run it after
a parameter of any node changed: `python -m tools.make_lists`; a test holds the files current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from csp.param.spec import ParamSpec
from dipp import params as dipp_params
from dish import params as dish_params
from dish.catalogue import encode_lists
from sim import a53, config, gnss, link, radio
from sim.camera import params as camera_params
from sim.eps import Eps

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "lists"


def generate() -> dict[str, str]:
    """Return the text of every file by its name, for the shipped configuration."""
    settings = config.load()
    eps = Eps(settings, settings.clock(0.0), 0.0)
    tables: dict[str, Iterable[ParamSpec]] = {
        "dish": dish_params.SPECS,
        "eps": [parameter.spec for parameter in eps.table],
        "gnss": gnss.SPECS,
        "radio": radio.SPECS,
        "link": link.SPECS,
        "a53": a53.SPECS,
        "dipp": [parameter.spec for parameter in dipp_params.make_table()],
        "camera": camera_params.SPECS,
    }
    return {
        f"{name}.json": encode_lists({settings.nodes.number(name): specs})
        for name, specs in tables.items()
    }


def main() -> int:
    """Write the files into the source tree."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in generate().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
