"""Hold what a node knows of one of its interfaces: addresses, counters, the way out. Pure.

Source: csp.md 3 and 5 (`if_stats`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from csp.errors import MisuseError
from csp.guard import Guard
from csp.packet import ADDRESS_BITS, broadcast_address


@dataclass(slots=True, kw_only=True)
class InterfaceCounters:
    """The counters of `if_stats`, in wire order. They wrap at 32 bits on the wire only.

    `txbytes` and `rxbytes` leave the header out and include all trailers, as real nodes count.
    """

    tx: int = 0
    rx: int = 0
    tx_error: int = 0
    rx_error: int = 0
    drop: int = 0
    autherr: int = 0
    frame: int = 0
    txbytes: int = 0
    rxbytes: int = 0
    irq: int = 0


@dataclass(slots=True, eq=False)
class Interface:
    """One network interface of a node.

    `netmask` counts network bits. `accepted` are the destinations this node takes from here: the
    own address, the own network with all host bits one, and all ones. `guard` authenticates what
    crosses; None is a link as flown.
    """

    name: str
    address: int
    send: Callable[[bytes], None]
    netmask: int
    version: int
    guard: Guard | None = None
    counters: InterfaceCounters = field(default_factory=InterfaceCounters)
    host_bits: int = field(init=False)
    accepted: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        bits = ADDRESS_BITS[self.version]
        if not 0 <= self.address < broadcast_address(self.version):
            raise MisuseError(f"address {self.address} is not a CSP v{self.version} node address")
        if self.netmask < 0:
            raise MisuseError(f"netmask {self.netmask} is negative")
        # A v2 netmask on a v1 network leaves no host bits: then there is no subnet broadcast.
        self.host_bits = max(bits - self.netmask, 0)
        self.accepted = frozenset(
            {self.address, self.subnet_broadcast, broadcast_address(self.version)}
        )

    @property
    def subnet_broadcast(self) -> int:
        """The address that means everybody in this network."""
        return self.address | (1 << self.host_bits) - 1

    def reaches(self, node: int) -> bool:
        """Tell whether the node is in this interface's own network."""
        return node >> self.host_bits == self.address >> self.host_bits
