"""Choose a link on a command line: the options every daemon and the shell share. Driver."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from csp.errors import MisuseError
from csp.links.auth import open_guard
from csp.links.base import Link
from csp.links.can import CanLink
from csp.links.kiss import DEFAULT_BAUD, KissLink
from csp.links.udp import UdpLink
from csp.links.zmq import PUB_PORT, SUB_PORT, ZmqLink

DEFAULT_HUB = f"127.0.0.1:{SUB_PORT}:{PUB_PORT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAddress:
    """Where a hub is: host, the port nodes publish to, the port they subscribe at."""

    host: str
    sub_port: int
    pub_port: int

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read HOST or HOST:SUB:PUB. Raises ValueError that says what is wrong."""
        host, *ports = text.split(":")
        if len(ports) not in (0, 2) or not host:
            raise ValueError(f"{text!r} is not HOST or HOST:SUB:PUB, as in {DEFAULT_HUB}")
        try:
            sub_port, pub_port = (int(port) for port in ports or (SUB_PORT, PUB_PORT))
        except ValueError:
            raise ValueError(f"{text!r}: ports are numbers, as in {DEFAULT_HUB}") from None
        if not all(0 < port < 65536 for port in (sub_port, pub_port)):
            raise ValueError(f"{text!r}: ports are 1..65535")
        return cls(host=host, sub_port=sub_port, pub_port=pub_port)

    def __str__(self) -> str:
        return f"{self.host}:{self.sub_port}:{self.pub_port}"


def add_link_options(parser: argparse.ArgumentParser, *, address: int) -> None:
    """Add `--address`, `--csp-version` and the links to a parser; `address` is the default."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "-a",
        "--address",
        type=int,
        default=address,
        metavar="NODE",
        help=f"own CSP address (default {address})",
    )
    group.add_argument(
        "--csp-version",
        type=int,
        choices=(1, 2),
        default=2,
        help="header version of the whole network (default 2)",
    )
    group.add_argument(
        "-m",
        "--netmask",
        type=int,
        default=8,
        metavar="BITS",
        help="network bits of the address (default 8)",
    )
    links = group.add_mutually_exclusive_group()
    links.add_argument(
        "--hub",
        metavar="HOST[:SUB:PUB]",
        default=DEFAULT_HUB,
        help=f"ZMQ hub (default {DEFAULT_HUB}; `csp hub` starts one)",
    )
    links.add_argument(
        "--udp", metavar="HOST:PORT:LOCAL", help="UDP to HOST:PORT, receiving on LOCAL"
    )
    links.add_argument(
        "--kiss",
        metavar="DEVICE[@BAUD]",
        help=f"serial line in KISS framing (default {DEFAULT_BAUD} baud)",
    )
    links.add_argument("--can", metavar="IFACE", help="CAN bus through SocketCAN, as in --can can0")
    group.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="CURVE key of an encrypted hub: 40 Z85 characters",
    )
    group.add_argument(
        "--hmac-key",
        type=Path,
        metavar="FILE",
        help="authenticate packets with the passphrase in FILE; drop those without (default: off)",
    )
    group.add_argument(
        "--replay-window",
        type=Path,
        metavar="FILE",
        help="with --hmac-key: refuse replayed packets too, and keep in FILE what that needs;"
        " the other end must do the same (not the flown format)",
    )


def open_link(options: argparse.Namespace, *, promiscuous: bool = False) -> Link:
    """Make the link that the parsed options name. Raises MisuseError if it cannot be.

    With `--hmac-key` it has a guard, which the node that the link is attached to obeys.
    """
    if options.replay_window is not None and options.hmac_key is None:
        raise MisuseError("--replay-window needs a key: --hmac-key FILE")
    link = _open(options, promiscuous=promiscuous)
    if options.hmac_key is not None:
        try:
            link.guard = open_guard(options.hmac_key, options.replay_window, options.csp_version)
        except OSError as error:
            raise MisuseError(f"cannot keep stamps: {error}") from error
    return link


def _open(options: argparse.Namespace, *, promiscuous: bool) -> Link:
    try:
        if options.udp:
            host, port, local = options.udp.rsplit(":", 2)
            return UdpLink(host, int(port), int(local))
        if options.kiss:
            device, _, baud = options.kiss.partition("@")
            return KissLink(device, baud=int(baud or DEFAULT_BAUD), version=options.csp_version)
        if options.can:
            return CanLink(
                options.can,
                address=options.address,
                netmask=options.netmask,
                version=options.csp_version,
                promiscuous=promiscuous,
            )
        hub = HubAddress.parse(options.hub)
    except ValueError as error:
        raise MisuseError(f"cannot understand the link: {error}") from None
    return ZmqLink(
        hub.host,
        address=options.address,
        netmask=options.netmask,
        version=options.csp_version,
        promiscuous=promiscuous,
        sub_port=hub.sub_port,
        pub_port=hub.pub_port,
        key_file=options.key_file,
    )
