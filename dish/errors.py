"""Name every way a procedure, a run or a request can be wrong.

Two branches, as in every package: `MisuseError` (the local caller is wrong) and `ContentError`
(what came from elsewhere is wrong). Codes of runs are the `Ret` table; it is what telemetry, shell
and documentation show.
"""

from __future__ import annotations

from enum import IntEnum


class DishError(Exception):
    """Base of all errors of this package."""


class MisuseError(DishError):
    """The local caller asked for something that cannot be."""


class ContentError(DishError):
    """Bytes, text or a program that came from elsewhere is wrong."""


class DecodeError(ContentError):
    """Bytes do not follow their format. `offset` is where, in bytes from their start."""

    def __init__(self, offset: int, expected: str, actual: str) -> None:
        super().__init__(f"at byte {offset}: expected {expected}, found {actual}")
        self.offset = offset
        self.expected = expected
        self.actual = actual


class AssemblyError(ContentError):
    """Text is not a procedure. Line and column count from 1."""

    def __init__(self, line: int, column: int, reason: str) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.line = line
        self.column = column
        self.reason = reason


class LinkError(ContentError):
    """The call graph has a hole: `slot` calls `callee`, which is not there."""

    def __init__(self, slot: int, index: int, callee: int) -> None:
        super().__init__(f"slot {slot} instruction {index} calls slot {callee}, which is empty")
        self.slot = slot
        self.index = index
        self.callee = callee


class StoreError(ContentError):
    """A slot cannot be read, filled or run."""


class Ret(IntEnum):
    """How a run ended (`proc_last_ret`). 0 to -3 as flown, the rest ours. Source: dish.md 5, 14."""

    OK = 0
    ERROR = -1
    CONDITION = -2
    MISMATCH = -3
    STOPPED = -10
    BUDGET = -11
    KILLED = -12
    HOST_LOST = -13
    START_FAILED = -14
    INTERRUPTED = -15


RET_TEXT: dict[Ret, str] = {
    Ret.OK: "completed",
    Ret.ERROR: "instruction failed",
    Ret.CONDITION: "condition could not be evaluated",
    Ret.MISMATCH: "condition compares different classes",
    Ret.STOPPED: "stopped by operator",
    Ret.BUDGET: "instruction budget used up",
    Ret.KILLED: "procedure process was killed or crashed",
    Ret.HOST_LOST: "forge process was lost",
    Ret.START_FAILED: "procedure process could not start",
    Ret.INTERRUPTED: "node stopped or restarted during the run",
}
