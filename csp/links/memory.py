"""Carry frames between stacks of one process, in real or virtual time. Pure.

A `MemoryBus` behaves like the ZMQ hub: each frame reaches every other link on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from csp.errors import MisuseError
from csp.guard import Guard
from csp.links.base import OnFrame, scheduler_of
from csp.sched import Scheduler

if TYPE_CHECKING:
    from csp.loop import Loop


class MemoryLink:
    """One end at a bus; made by `MemoryBus.link` or `pair`."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self.name = name
        self.guard: Guard | None = None
        self._bus = bus
        self._on_frame: OnFrame | None = None

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Start to deliver received frames. Raises MisuseError for a foreign scheduler."""
        if scheduler_of(loop) is not self._bus.scheduler:
            raise MisuseError("the memory link belongs to another scheduler")
        self._on_frame = on_frame

    def send(self, frame: bytes) -> None:
        """Deliver the frame to every other open link after the bus's delay."""
        self._bus.carry(self, frame)

    def deliver(self, frame: bytes) -> None:
        """Hand a frame to this end's receiver, if it is open. Called by the bus."""
        if self._on_frame is not None:
            self._on_frame(frame)

    def close(self) -> None:
        """Neither receive nor send any more."""
        self._on_frame = None
        self._bus.detach(self)


class MemoryBus:
    """A lossless broadcast medium; `delay_s` is the time each frame needs."""

    def __init__(self, scheduler: Scheduler, *, delay_s: float = 0.0) -> None:
        self.scheduler = scheduler
        self._delay_s = delay_s
        self._links: list[MemoryLink] = []

    def link(self, name: str = "MEM") -> MemoryLink:
        """Add an end to the bus."""
        link = MemoryLink(self, name)
        self._links.append(link)
        return link

    def detach(self, link: MemoryLink) -> None:
        """Take an end off the bus."""
        if link in self._links:
            self._links.remove(link)

    def carry(self, sender: MemoryLink, frame: bytes) -> None:
        """Deliver a frame to all ends but the sender's, never from within the sender's call."""

        def arrive() -> None:
            for link in tuple(self._links):
                if link is not sender:
                    link.deliver(frame)

        if self._delay_s > 0:
            self.scheduler.call_later(self._delay_s, arrive)
        else:
            self.scheduler.call_soon(arrive)


def pair(scheduler: Scheduler, *, delay_s: float = 0.0) -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a wire."""
    bus = MemoryBus(scheduler, delay_s=delay_s)
    return bus.link("MEM"), bus.link("MEM")
