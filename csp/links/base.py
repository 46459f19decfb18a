"""Say what a link is. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from csp.guard import Guard
from csp.sched import Scheduler

if TYPE_CHECKING:
    from csp.loop import Loop

OnFrame = Callable[[bytes], None]


class Link(Protocol):
    """Carries frames. Sending never blocks and may lose frames; `send` may raise OSError.

    `guard` is for the node at this end of the link: with one, it authenticates what crosses.
    """

    guard: Guard | None

    @property
    def name(self) -> str:
        """Short name of the interface, as `ifstat` asks for it (at most 10 characters)."""

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Start to deliver received frames, from the loop or scheduler."""

    def send(self, frame: bytes) -> None:
        """Send one frame: header, payload and trailers."""

    def close(self) -> None:
        """Release everything. Harmless if done twice."""


def scheduler_of(loop: Loop | Scheduler) -> Scheduler:
    """Return the scheduler behind a loop, or the scheduler itself."""
    return loop if isinstance(loop, Scheduler) else loop.scheduler
