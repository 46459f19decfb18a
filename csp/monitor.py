"""Say in words what a packet is: one line for an operator, one record for a program. Pure."""

from __future__ import annotations

from csp.cmp import Code
from csp.errors import DecodeError
from csp.packet import Flag, Packet, Priority
from csp.rdp_wire import RdpFlag, decode_segment

# Port names of csp.md 4; 14 is shared by vmem and procedures.
PORT_NAMES = {
    0: "cmp",
    1: "ping",
    2: "ps",
    3: "memfree",
    4: "reboot",
    5: "buffers",
    6: "uptime",
    7: "dtp",
    8: "dtp-data",
    10: "param",
    12: "list",
    13: "index",
    14: "vmem/proc",
}
# First byte of a parameter packet: csp.md 11.
PARAM_KINDS = {
    0: "pull v1",
    1: "values v1",
    2: "push v1",
    3: "push acknowledge",
    4: "pull all v1",
    5: "pull",
    6: "values",
    7: "push",
    8: "pull all",
    33: "push with hardware id",
}
_PARAM_PORT = 10
_SHOWN_BYTES = 16


def service_port(packet: Packet) -> int:
    """Return the port that says what the packet is about: the server's end."""
    return min(packet.dport, packet.sport)


def summarize(packet: Packet) -> str:
    """Return what the packet does, as far as its port and first bytes tell."""
    port = service_port(packet)
    if packet.flags & Flag.RDP:
        return _summarize_rdp(packet)
    if port == 0 and len(packet.data) >= 2:
        kind = "reply" if packet.data[0] else "request"
        names = {code.value: code.name.lower() for code in Code}
        return f"{kind} {names.get(packet.data[1], packet.data[1])}"
    if port == _PARAM_PORT and packet.data:
        return PARAM_KINDS.get(packet.data[0], f"type {packet.data[0]}")
    return "reply" if packet.sport == port else "request"


def _summarize_rdp(packet: Packet) -> str:
    try:
        segment = decode_segment(packet.data)
    except DecodeError:
        return "rdp malformed"
    names = [flag.name for flag in RdpFlag if segment.flags & flag and flag.name]
    kind = "+".join(names) or "-"
    return f"rdp {kind} seq {segment.seq} ack {segment.ack}, {len(segment.data)} B"


def describe(packet: Packet) -> str:
    """Return one line: who to whom, priority, service, size, summary, first bytes."""
    name = PORT_NAMES.get(service_port(packet), f"port {service_port(packet)}")
    flags = _flag_names(packet.flags)
    shown = packet.data[:_SHOWN_BYTES].hex(" ")
    dots = " ..." if len(packet.data) > _SHOWN_BYTES else ""
    return (
        f"{packet.src:>5}:{packet.sport:<2} > {packet.dst:>5}:{packet.dport:<2} "
        f"{Priority(packet.prio).name.lower():<8} {name:<9} {flags:<9} {len(packet.data):>4} B  "
        f"{summarize(packet)}  {shown}{dots}"
    ).rstrip()


def as_record(packet: Packet) -> dict[str, object]:
    """Return the same for a program; keys are stable."""
    return {
        "prio": packet.prio,
        "src": packet.src,
        "sport": packet.sport,
        "dst": packet.dst,
        "dport": packet.dport,
        "flags": packet.flags,
        "service": PORT_NAMES.get(service_port(packet)),
        "summary": summarize(packet),
        "data": packet.data.hex(),
    }


def _flag_names(flags: int) -> str:
    names = [name for bit, name in _FLAG_LETTERS.items() if flags & bit]
    return "+".join(names) or "-"


_FLAG_LETTERS = {
    int(Flag.CRC32): "crc",
    int(Flag.RDP): "rdp",
    int(Flag.HMAC): "hmac",
    int(Flag.FRAGMENT): "sfp",
}
