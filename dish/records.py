"""The records of running procedures, for their supervisor and for operators."""

from __future__ import annotations

from dataclasses import dataclass

from dish.board import Row
from dish.effects import Fault, Reading, Remote, Reply
from dish.frames import Frame, Readings, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What an operator sees of a running procedure. `pid` is 0 while it starts."""

    run_id: int
    root: int
    pid: int
    row: int
    line: Row
    age_s: float


@dataclass(slots=True)
class RunCounters:
    """What has happened since the node started."""

    started: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    killed: int = 0
    bad_frames: int = 0


def reply_frame(reply: Reply) -> Frame:
    """Return the frame that carries a reply to a child."""
    if isinstance(reply, (Remote, Fault)):
        return reply
    if reply is None or isinstance(reply, int):
        return Written()
    return Readings(readings=tuple(entry for entry in reply if isinstance(entry, Reading)))
