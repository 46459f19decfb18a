"""Choose the interface towards a node: own networks, then set routes, then the default. Pure.

Source: csp.md 3 and 5 (`route set`). A row has no next hop: no interface of this project can
address a packet to another node than its destination.
"""

from __future__ import annotations

from csp.errors import MisuseError
from csp.interface import Interface
from csp.packet import ADDRESS_BITS

# What anybody may set must have a bound; libcsp's table has ten rows by default.
MAX_ROUTES = 16


class RouteTable:
    """The routes of one node. `interfaces` is the node's own list, which grows."""

    def __init__(self, interfaces: list[Interface], version: int) -> None:
        self.default: Interface | None = None
        self._interfaces = interfaces
        self._address_bits = ADDRESS_BITS[version]
        self._rows: list[tuple[tuple[int, int], Interface]] = []

    def find(self, node: int) -> Interface | None:
        """Return the way to a node; None if there is no interface at all."""
        for interface in self._interfaces:
            if interface.reaches(node):
                return interface
        for (network, bits), interface in self._rows:
            if node >> self._address_bits - bits == network:
                return interface
        return self.default

    def set(self, node: int, network_bits: int | None, interface_name: str) -> None:
        """Send what is for a network over an interface; None is all bits: that node alone.

        The longest prefix counts; a row with the same network is replaced. Raises MisuseError for
        an unknown interface, a netmask that is none, or row `MAX_ROUTES` + 1.
        """
        bits = self._address_bits if network_bits is None else network_bits
        if not 0 <= bits <= self._address_bits:
            raise MisuseError(f"netmask {bits} is not 0..{self._address_bits}")
        name = interface_name.lower()
        interface = next((one for one in self._interfaces if one.name.lower() == name), None)
        if interface is None:
            raise MisuseError(f"there is no interface {interface_name!r}")
        key = node >> self._address_bits - bits, bits
        others = [row for row in self._rows if row[0] != key]
        if len(others) >= MAX_ROUTES:
            raise MisuseError(f"there are {MAX_ROUTES} routes already")
        self._rows = sorted([*others, (key, interface)], key=lambda row: -row[0][1])
