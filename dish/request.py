"""Hold what a procedure process needs to know to run: its call graph and how to run it. Pure.

The bytes go from the node to a child of its own forge through a sealed memory file that nobody else
can reach, so they are the interpreter's own object format; nothing from the network is ever read
this way.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from dish.effects import Settings
from dish.link import CallGraph

ENGINES = ("interpreter", "compiled")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run. `row` is its line on the board, `observed` the ids of parameters with callbacks."""

    graph: CallGraph
    settings: Settings
    row: int
    engine: str = ENGINES[0]
    is_paused: bool = False
    observed: frozenset[int] = frozenset()


def encode_request(request: RunRequest) -> bytes:
    """Return the bytes of a request."""
    return pickle.dumps(request, pickle.HIGHEST_PROTOCOL)


def decode_request(data: bytes) -> RunRequest:
    """Read a request that `encode_request` of the same program made."""
    request: RunRequest = pickle.loads(data)
    return request
