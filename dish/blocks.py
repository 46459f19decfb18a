"""Cut a call graph into blocks for the compiled engine. Pure.

A block starts at a state of the machine: slot, index and flag. Every slot that is called has one at
its entry, every nested call one behind it, and so has whatever a nested ifelse leads to. Inside a
block control only moves forward; between blocks it goes through `jump`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dish.machine import Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockState:
    """Where a block starts."""

    slot: int
    index: int
    flag: Flag


class BlockTable:
    """Numbers for block states, given out on first use; `pending` are those without code yet."""

    def __init__(self) -> None:
        self.states: list[BlockState] = []
        self._numbers: dict[BlockState, int] = {}
        self._done = 0

    def number(self, slot: int, index: int = 0, flag: Flag = Flag.NONE) -> int:
        """Return the number of a state, a new one if it has none yet."""
        state = BlockState(slot=slot, index=index, flag=flag)
        if state not in self._numbers:
            self._numbers[state] = len(self.states)
            self.states.append(state)
        return self._numbers[state]

    def next_pending(self) -> int | None:
        """Return a block that still needs code, each only once."""
        if self._done == len(self.states):
            return None
        self._done += 1
        return self._done - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a fault at `k` means: the instruction, and how many ran since `n` was brought up."""

    slot: int
    index: int
    ahead: int


@dataclass(slots=True)
class Program:
    """The generated source and what it refers to.

    `names` are the globals of the source, `places` is indexed by `k`, `blocks` by block number.
    `longest` is at least what one block can execute.
    """

    source: str = ""
    names: dict[str, object] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    blocks: BlockTable = field(default_factory=BlockTable)
    longest: int = 1
