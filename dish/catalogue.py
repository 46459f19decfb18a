"""Parameter lists of nodes as JSON: `{"162": [{"id": 1, "name": "pipeline_run", ...}, ...]}`.

The verifier and the compiler check names and types against such lists. Lists of the emulated
payload's nodes are shipped (`configs/lists`, made by `tools/make_lists.py`); `dish verify --save`
writes those of any network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from csp.errors import CspError
from csp.param.spec import ParamSpec
from csp.param.types import TYPES, Mask
from dish.errors import ContentError

NodeList = dict[str, ParamSpec]


def encode_lists(lists: Mapping[int, Iterable[ParamSpec]]) -> str:
    """Return lists as JSON text, one parameter per line."""
    nodes = []
    for node, specs in sorted(lists.items()):
        rows = ",\n  ".join(json.dumps(_row(spec)) for spec in specs)
        nodes.append(f' "{node}": [\n  {rows}\n ]' if rows else f' "{node}": []')
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _row(spec: ParamSpec) -> dict[str, object]:
    row: dict[str, object] = {"id": spec.id, "name": spec.name, "type": TYPES[spec.type].label}
    if spec.array_size != 1:
        row["array_size"] = spec.array_size
    if spec.mask:
        row["mask"] = int(spec.mask)
    return row


def decode_lists(text: str, name: str) -> dict[int, NodeList]:
    """Read lists from JSON text. Raises ContentError that names the file and what is wrong."""
    labels = {label: row.type for row in TYPES for label in (row.label, row.name)}
    try:
        return {
            int(node): {
                row["name"]: ParamSpec(
                    id=int(row.get("id", number)),
                    name=row["name"],
                    type=labels[row["type"]],
                    array_size=int(row.get("array_size", 1)),
                    mask=Mask(int(row.get("mask", 0))),
                )
                for number, row in enumerate(rows)
            }
            for node, rows in json.loads(text).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, CspError) as error:
        raise ContentError(f"{name} is no parameter list: {error!r}") from None


def load_catalogue(path: Path) -> dict[int, NodeList]:
    """Read a file of parameter lists. Raises ContentError."""
    return decode_lists(path.read_bytes().decode("utf-8", "replace"), str(path))


def shipped_lists() -> dict[int, NodeList]:
    """Return the lists of the emulated payload's nodes, at the node numbers of its configuration.

    Raises ContentError if they are not installed.
    """
    lists: dict[int, NodeList] = {}
    try:
        folder = resources.files("configs").joinpath("lists")
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".json"):
                lists.update(decode_lists(file.read_text("utf-8"), file.name))
    except (ModuleNotFoundError, OSError) as error:
        raise ContentError(f"no shipped parameter lists: {error}") from None
    return lists
