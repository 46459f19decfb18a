"""Let procedure processes show where they are, in memory they share with the node. Driver."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum

from dish.effects import Position


class RunState(IntEnum):
    """What a run is doing (`proc_run_state`)."""

    FREE = 0
    STARTING = 1
    RUNNING = 2
    WAITING = 3
    REMOTE = 4
    PAUSED = 5
    # Not yet a process: waits for the battery, and is on no board.
    DEFERRED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the board."""

    state: RunState
    position: Position
    executed: int


# state, slot, index, depth, executed
_WORDS = 5


class Board:
    """`rows` lines of five 64-bit words, written by one child each and read by the node.

    A line is not written atomically: a reader may see a position one instruction apart from its
    count. Make it before the forge, so that every child inherits it.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._words = memoryview(mmap.mmap(-1, max(8 * _WORDS * rows, 8))).cast("Q")

    def write(self, row: int, state: RunState, position: Position, executed: int) -> None:
        """Publish a line."""
        at = row * _WORDS
        words = self._words
        words[at], words[at + 1] = state, position.slot
        words[at + 2], words[at + 3] = position.index, position.depth
        words[at + 4] = executed & 0xFFFF_FFFF_FFFF_FFFF

    def set_state(self, row: int, state: RunState) -> None:
        """Change only the state of a line."""
        self._words[row * _WORDS] = state

    def clear(self, row: int) -> None:
        """Mark a line as free."""
        self.write(row, RunState.FREE, Position(slot=0, index=0, depth=0), 0)

    def read(self, row: int) -> Row:
        """Return a line; a state or position that no child writes reads as FREE or zero."""
        state, slot, index, depth, executed = self._words[row * _WORDS : (row + 1) * _WORDS]
        known = state in RunState._value2member_map_
        return Row(
            state=RunState(state) if known else RunState.FREE,
            position=Position(slot=slot & 0xFF, index=index & 0xFF, depth=depth & 0xFFFF),
            executed=executed,
        )
