"""Remember what parameters nodes have: names for whoever only sees ids on the wire. Pure.

Learned from parameter lists that pass by, or from a file that an earlier session wrote.
Source: csp.md 9, 10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from csp.errors import DecodeError, MisuseError
from csp.param.entry import decode_entry

# Sixteen nodes with the largest table; traffic of a liar must not make a monitor grow.
MAX_NAMES = 16_384


class ParamNames:
    """Names of parameters by node and id, at most `MAX_NAMES`."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], str] = {}

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, node: int, entry: bytes) -> str | None:
        """Take an entry of a list that `node` sends; return its name, None if it is none."""
        try:
            listed = decode_entry(entry)
        except DecodeError:
            return None
        name = listed.spec.name
        self._add(listed.node or node, listed.spec.id, name)
        return name

    def _add(self, node: int, number: int, name: str) -> None:
        if len(self._names) < MAX_NAMES or (node, number) in self._names:
            self._names[node, number] = name

    def name(self, node: int, number: int) -> str:
        """Return the name, or `#` and the id while it is not known."""
        return self._names.get((node, number), f"#{number}")

    def to_json(self) -> str:
        """Return all names as JSON: node, id, name."""
        nodes: dict[str, dict[str, str]] = {}
        for (node, number), name in sorted(self._names.items()):
            nodes.setdefault(str(node), {})[str(number)] = name
        return json.dumps(nodes, indent=1)

    def load_json(self, text: str) -> None:
        """Add the names that `to_json` wrote. Raises MisuseError if it is something else."""
        try:
            nodes = json.loads(text)
            if not isinstance(nodes, Mapping):
                raise ValueError("no object")
            for node, names in nodes.items():
                for number, name in names.items():
                    self._add(int(node), int(number), str(name))
        except (ValueError, AttributeError, RecursionError) as error:
            raise MisuseError(f"not a list of parameter names: {error}") from None
