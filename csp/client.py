"""Give client code a connectionless socket with an ephemeral port.

Source: csp.md 4 and 14 (one request = one source port).
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from csp.errors import NoResponse
from csp.packet import Packet
from csp.sched import Mailbox, Timeout

if TYPE_CHECKING:
    from csp.stack import Stack

CLIENT_PORTS = range(17, 64)
# A pull of every parameter of a big table is some tens of packets; a flood must not grow memory.
_MAX_WAITING = 256


class Client:
    """A connectionless socket to one port of one node. Use as a context manager."""

    def __init__(
        self, stack: Stack, node: int, port: int, local_port: int, prio: int, flags: int
    ) -> None:
        self.node = node
        self.port = port
        self.local_port = local_port
        self._stack = stack
        self._prio = prio
        self._flags = flags
        # Who must have sent the answer; None: anybody, because we ask everybody or ourselves.
        self._from: int | None = None if stack.is_broadcast(node) or stack.is_own(node) else node
        self._inbox: Mailbox[Packet] = Mailbox(stack.scheduler, _MAX_WAITING)

    def deliver(self, packet: Packet) -> None:
        """Take a packet that arrived for this port. Called by the stack."""
        if packet.sport == self.port and self._from in (None, packet.src):
            self._inbox.put(packet)

    def send(self, data: bytes) -> None:
        """Send one packet to the node's port."""
        self._stack.send(
            self.node,
            self.port,
            data,
            sport=self.local_port,
            prio=self._prio,
            flags=self._flags,
        )

    async def receive_packet(self, timeout_s: float) -> Packet:
        """Return the next packet that came back. Raises NoResponse after `timeout_s`."""
        try:
            return await self._inbox.get(timeout_s)
        except Timeout:
            raise NoResponse(
                f"no response from node {self.node} port {self.port} within {timeout_s:g} s"
            ) from None

    async def receive(self, timeout_s: float) -> bytes:
        """Return the data of the next packet that came back. Raises NoResponse."""
        return (await self.receive_packet(timeout_s)).data

    def close(self) -> None:
        """Give the port back. Harmless if done twice."""
        self._stack.forget_client(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
