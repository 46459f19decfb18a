"""Judge one module execution from how its process ended and what it said.

Theory of operation: the process outranks its words. A killed or late module has failed whatever it
sent before; then comes anything that is not exactly one well-formed frame; then the code it gave;
then its exit status. Pure. Source: dipp.md 10 and 11, defects D1 and D5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dipp.errors import Code, custom_code
from dipp.runner.frames import (
    Frame,
    ModuleDone,
    ModuleFailed,
    ModuleForwarded,
    ModuleRaised,
)


class Cut(Enum):
    """Why the parent ended the child, if it did."""

    NONE = "ended by itself"
    DEADLINE = "exceeded its time"
    OPERATOR = "stopped by the operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the process of a module ended. `native_code` is what it wrote on its error pipe."""

    cut: Cut = Cut.NONE
    signal: int = 0
    status: int = 0
    native_code: int | None = None


def judge(ending: Ending, frames: Sequence[Frame | None]) -> int:
    """Return the error code, or 0. A frame that did not decode is None."""
    if ending.cut is Cut.OPERATOR:
        return Code.OPERATOR_STOP
    if ending.cut is Cut.DEADLINE:
        return Code.TIMEOUT
    if ending.signal:
        return Code.SIGNAL
    if len(frames) > 1 or None in frames:
        return Code.RESULT_INVALID
    frame = frames[0] if frames else None
    if isinstance(frame, ModuleFailed):
        return custom_code(frame.code)
    if ending.status and ending.native_code is not None:
        return custom_code(ending.native_code)
    if ending.status or isinstance(frame, ModuleRaised):
        return Code.EXIT_WITHOUT_CODE
    return Code.OK if isinstance(frame, ModuleDone | ModuleForwarded) else Code.PIPE_EMPTY
