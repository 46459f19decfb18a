"""Make any link as slow and unreliable as a radio: wrap it with a shaper per direction. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csp.links.base import Link, OnFrame, scheduler_of
from csp.sched import Scheduler
from csp.shaper import Delivery, Shaper, Window

__all__ = ["ShapedLink", "Shaper", "Window"]

if TYPE_CHECKING:
    from csp.loop import Loop


class ShapedLink:
    """A link seen through a channel; `outgoing` and `incoming` may be None: unshaped."""

    def __init__(
        self, link: Link, outgoing: Shaper | None = None, incoming: Shaper | None = None
    ) -> None:
        self.outgoing = outgoing
        self.incoming = incoming
        self._link = link
        self.guard = link.guard
        self._scheduler: Scheduler | None = None
        self._on_frame: OnFrame | None = None

    @property
    def name(self) -> str:
        """The name of the wrapped link."""
        return self._link.name

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Open the wrapped link and deliver what its channel lets through."""
        self._scheduler = scheduler_of(loop)
        self._on_frame = on_frame
        self._link.open(loop, self._receive)

    def _receive(self, frame: bytes) -> None:
        self._pass(self.incoming, frame, self._deliver)

    def _deliver(self, frame: bytes) -> None:
        if self._on_frame is not None:
            self._on_frame(frame)

    def send(self, frame: bytes) -> None:
        """Send the frame through the channel; it may be delayed, changed or lost."""
        self._pass(self.outgoing, frame, self._send_late)

    def _send_late(self, frame: bytes) -> None:
        if self._on_frame is not None:
            self._link.send(frame)

    def _pass(self, shaper: Shaper | None, frame: bytes, onward: OnFrame) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return
        if shaper is None:
            onward(frame)
            return
        for delivery in shaper.submit(frame, scheduler.now):
            self._schedule(scheduler, delivery, onward)

    @staticmethod
    def _schedule(scheduler: Scheduler, delivery: Delivery, onward: OnFrame) -> None:
        scheduler.call_at(delivery.at_s, lambda: onward(delivery.frame))

    def close(self) -> None:
        """Close the wrapped link; what is still in the channel is lost."""
        self._on_frame = None
        self._link.close()
