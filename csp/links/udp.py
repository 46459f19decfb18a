"""Carry frames in UDP datagrams between two fixed ends. Source: csp.md 8.2. Driver."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from csp.errors import MisuseError
from csp.guard import Guard
from csp.links.base import OnFrame
from csp.packet import MAX_PAYLOAD_BYTES
from csp.sched import Scheduler

if TYPE_CHECKING:
    from csp.loop import Loop

# Shorter datagrams are dropped by real nodes, whatever the CSP version.
_MIN_DATAGRAM = 5
_READ_BYTES = 8 + MAX_PAYLOAD_BYTES
_BURST = 128


class UdpLink:
    """A UDP socket on `local_port` (0: any free one) that talks to one remote end.

    The sender address of received datagrams is ignored, as real nodes do. Bound to `bind_host`;
    use "0.0.0.0" to be reached from other machines.
    """

    def __init__(
        self,
        remote_host: str,
        remote_port: int,
        local_port: int = 0,
        *,
        bind_host: str = "127.0.0.1",
        name: str = "UDP",
    ) -> None:
        self.name = name
        self.guard: Guard | None = None
        self._remote = (remote_host, remote_port)
        self._loop: Loop | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind((bind_host, local_port))
        except OSError as error:
            self._socket.close()
            raise MisuseError(f"cannot bind UDP port {local_port}: {error}") from error
        self.local_port: int = self._socket.getsockname()[1]

    def connect_to(self, remote_host: str, remote_port: int) -> None:
        """Change the remote end, for peers that learn each other's ports late."""
        self._remote = (remote_host, remote_port)

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Start to receive. Raises MisuseError for a scheduler without a loop."""
        if isinstance(loop, Scheduler):
            raise MisuseError("a UDP link needs an event loop, not a bare scheduler")
        self._loop, self._on_frame = loop, on_frame
        loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(_BURST):
            try:
                datagram = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                # An earlier datagram found nobody listening: the peer is not there yet.
                continue
            if len(datagram) >= _MIN_DATAGRAM:
                self._on_frame(datagram)
            if self._loop is None:
                return

    def send(self, frame: bytes) -> None:
        """Send one datagram. Raises OSError if the system refuses it."""
        self._socket.sendto(frame, self._remote)

    def close(self) -> None:
        """Close the socket. Harmless if done twice."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()
