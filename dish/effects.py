"""Say what a running procedure asks of its driver and how every engine is driven.

Theory of operation: an engine computes on shared memory by itself. Whatever needs the outside - a
value of another node, a write with callbacks, time, a native function - it returns as an effect and
gets the reply with the next `step`. Drivers are the child process of the node, the rehearsal in
virtual time, and tests; none of them decides anything about the procedure. Source: design.md 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from csp.param.types import ParamType
from dish.errors import Ret
from dish.values import Mode, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a procedure runs. Times in seconds; the defaults are the flight values of dish.md 1.

    `own_nodes` are the addresses that mean local besides 0. A `budget` of 0 means unlimited.
    The engine returns `Slice` at least every `slice_instructions` instructions, so that its driver
    can look at commands.
    """

    mode: Mode = Mode.STRICT
    own_nodes: frozenset[int] = frozenset()
    poll_s: float = 0.25
    block_timeout_s: float = 5000.0
    max_depth: int = 1000
    budget: int = 0
    slice_instructions: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One remote element to pull."""

    name: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Fetch elements of one node with one pull. Reply: a `Reading` for each, or `Fault`."""

    node: int
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Say what a remote parameter is, from the cached list. Reply: `Remote` or `Fault`."""

    node: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Write one element, or all when `index` is None, of a remote parameter. Reply: None, Fault."""

    node: int
    name: str
    index: int | None
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWrite:
    """Write a local parameter that has callbacks or persists; its owner does it. Reply as Push."""

    id: int
    index: int | None
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Do nothing until the monotonic instant `until` (seconds). Reply: None."""

    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """Run the native function of a reserved slot. Reply: its return value, 0 meaning success."""

    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice of instructions is used up; carry on when convenient. Reply: None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The procedure ended well. There is no reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The procedure ended at instruction `index` of `slot`. There is no reply."""

    ret: Ret
    slot: int
    index: int
    reason: str


Effect = Pull | Resolve | Push | LocalWrite | Wait | Native | Slice | Done | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A pulled element. `value` is None when the parameter has no such element."""

    type: ParamType
    value: Value | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What a remote parameter is."""

    type: ParamType
    count: int
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An effect could not be had; the instruction fails with this reason."""

    reason: str


Reply = Sequence[Reading] | Remote | Fault | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a procedure is: the instruction it executes next or waits in, and the call depth."""

    slot: int
    index: int
    depth: int


class Engine(Protocol):
    """One run of one call graph. The interpreter and the compiled engine are both this."""

    slice_instructions: int

    def step(self, reply: Reply, now: float) -> Effect:
        """Go on until something is needed. The first reply is None; `now` is monotonic seconds."""

    @property
    def position(self) -> Position:
        """Where it is; exact whenever `step` has returned."""

    @property
    def executed(self) -> int:
        """Instructions executed so far; a skipped one does not count, a poll counts once."""
