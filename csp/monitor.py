"""Say in words what a packet is: one line for an operator, one record for a program. Pure.

Theory of operation: a `Decoder` looks at the port of the server's end and hands the data to the
function for that service. It remembers two things of the past: names of parameters from lists that
passed by, and what a client asked memory services for, because their answers do not repeat it.
Both are bounded. Content can never make it raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from csp.cmp import Clock, Code, Ident, decode_interface_name
from csp.errors import DecodeError
from csp.guard import Guard
from csp.hmac import HMAC_BYTES
from csp.names import ParamNames
from csp.packet import Flag, Packet, Priority
from csp.param.codec import INDEX_MAX, Item, decode_queue
from csp.rdp_wire import SYN, RdpFlag, RdpOptions, decode_segment
from csp.services import MAGIC_REBOOT, MAGIC_SHUTDOWN
from csp.vmem import wire

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
_LIST_PORT, _PARAM_PORT, _VMEM_PORT = 12, 10, 14
# First byte of a parameter packet (csp.md 11): name, queue version or 0, whether with values.
_PARAM_KINDS: dict[int, tuple[str, int, bool]] = {
    0: ("pull v1", 1, False),
    1: ("values v1", 1, True),
    2: ("push v1", 1, True),
    3: ("push acknowledge", 0, False),
    4: ("pull all v1", 0, False),
    5: ("pull", 2, False),
    6: ("values", 2, True),
    7: ("push", 2, True),
    8: ("pull all", 0, False),
    33: ("push with hardware id", 2, True),
}
_PUSH_HWID = 33
_RESPONSES = (1, 6)
# Low four bits of the first byte of a procedure packet; odd ones are the answers (csp.md 12.5).
_PROCEDURE_KINDS = ("del", "pull", "push", "slots", "run", "control")
_PROCEDURE_FLAG, _PROCEDURE_ERROR = 0x80, 0x40
_VMEM_KINDS = {kind.value: kind.name.lower().replace("_", " ") for kind in wire.RequestKind}
_RING_KINDS = (wire.RequestKind.RING_UPLOAD, wire.RequestKind.RING_DOWNLOAD)
_CMP_NAMES = {code.value: code.name.lower() for code in Code}
_REBOOTS = {MAGIC_REBOOT: "reboot", MAGIC_SHUTDOWN: "shutdown"}
_NUMBER_PORTS = {3: "bytes", 5: "buffers", 6: "s"}
_SHOWN_BYTES = 16
_SHOWN_ITEMS = 8
# Requests whose answers may still come; csh has 20 ports, and there may be some shells.
_MAX_ASKED = 256


def service_port(packet: Packet) -> int:
    """Return the port that says what the packet is about: the server's end."""
    return min(packet.dport, packet.sport)


class Decoder:
    """Puts packets into words; feed it all traffic in order, for the names."""

    def __init__(self, names: ParamNames | None = None) -> None:
        self.names = names if names is not None else ParamNames()
        self._asked: dict[tuple[int, int], wire.Request] = {}

    def summarize(self, packet: Packet) -> str:
        """Return what the packet does, as far as port and content tell."""
        if packet.flags & Flag.RDP:
            text = self._rdp(packet)
        else:
            try:
                text = self._service(packet, packet.data)
            except DecodeError:
                text = "malformed"
        text = text or ("reply" if packet.sport == service_port(packet) else "request")
        # Names come from the wire: none may write to the operator's terminal what it likes.
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)

    def describe(self, packet: Packet) -> str:
        """Return one line: who to whom, priority, service, size, summary, first bytes."""
        name = PORT_NAMES.get(service_port(packet), f"port {service_port(packet)}")
        flags = _flag_names(packet.flags)
        return (
            f"{packet.src:>5}:{packet.sport:<2} > {packet.dst:>5}:{packet.dport:<2} "
            f"{Priority(packet.prio).name.lower():<8} {name:<9} {flags:<9} {len(packet.data):>4} B"
            f"  {self.summarize(packet)}  {_shown(packet.data)}"
        ).rstrip()

    def as_record(self, packet: Packet) -> dict[str, object]:
        """Return the same for a program; keys are stable."""
        return {
            "prio": packet.prio,
            "src": packet.src,
            "sport": packet.sport,
            "dst": packet.dst,
            "dport": packet.dport,
            "flags": packet.flags,
            "service": PORT_NAMES.get(service_port(packet)),
            "summary": self.summarize(packet),
            "data": packet.data.hex(),
        }

    # -- services

    def _rdp(self, packet: Packet) -> str:
        try:
            segment = decode_segment(packet.data)
        except DecodeError:
            return "rdp malformed"
        flags = [flag.name for flag in RdpFlag if segment.flags & flag and flag.name]
        text = "+".join(flags) or "-"
        text = f"rdp {text} seq {segment.seq} ack {segment.ack}, {len(segment.data)} B"
        if not segment.data:
            return text
        try:
            inner = (
                _syn(segment.data)
                if segment.flags & SYN
                else self._service(packet, segment.data, stream=True)
            )
        except DecodeError:
            inner = ""
        return f"{text}; {inner}" if inner else text

    def _service(self, packet: Packet, data: bytes, *, stream: bool = False) -> str:
        """Return what the data of a service mean, empty if unknown. Raises DecodeError."""
        port, to_server = service_port(packet), packet.dport <= packet.sport
        if port == _LIST_PORT and not to_server:
            name = self.names.learn(packet.src, data)
            return f"entry {name}" if name else ""
        if port == _PARAM_PORT and data:
            return self._param(packet, data)
        if port == _VMEM_PORT and data:
            return self._memory(packet, data, to_server=to_server, stream=stream)
        simple = _SIMPLE.get(port)
        return simple(data, to_server) if simple is not None else ""

    def _param(self, packet: Packet, data: bytes) -> str:
        name, version, has_values = _PARAM_KINDS.get(data[0], (f"type {data[0]}", 0, False))
        if not version:
            return name
        queue = data[2:-4] if data[0] == _PUSH_HWID else data[2:]
        try:
            items = decode_queue(queue, version, has_values=has_values)
        except DecodeError:
            return f"{name}, malformed queue"
        # Node 0 means the server's own parameters.
        own = packet.src if data[0] in _RESPONSES else packet.dst
        shown = ", ".join(self._item(item, own) for item in items[:_SHOWN_ITEMS])
        more = f" and {len(items) - _SHOWN_ITEMS} more" if len(items) > _SHOWN_ITEMS else ""
        return f"{name} {shown}{more}".rstrip()

    def _item(self, item: Item, own: int) -> str:
        node = item.node or own
        text = self.names.name(node, item.id)
        if node != own:
            text = f"{node}:{text}"
        if item.index is not None:
            text += f"[{item.index if item.index <= INDEX_MAX else item.index - 256}]"
        if item.value is None:
            return text
        value = _shown(item.value) if isinstance(item.value, bytes) else repr(item.value)
        return f"{text}={value[:60]}"

    def _memory(self, packet: Packet, data: bytes, *, to_server: bool, stream: bool) -> str:
        if to_server:
            if data[0] & _PROCEDURE_FLAG and not stream:
                return _procedure(data)
            # In a stream, what is longer is content on its way up.
            if stream and len(data) > wire.REQUEST_BYTES:
                return ""
            request = wire.decode_request(data)
            self._ask((packet.src, packet.sport), request)
            return _vmem_request(request, data)
        asked = self._asked.get((packet.dst, packet.dport))
        if stream:
            return "" if asked is None else f"{_vmem_name(asked)} data"
        if asked is not None and asked.kind == wire.RequestKind.LIST:
            areas = wire.decode_list(asked.version, [data])
            return f"vmem list v{asked.version} " + ", ".join(
                f"{area.name} {area.address:#x}+{area.size}" for area in areas[:_SHOWN_ITEMS]
            )
        if asked is not None and asked.kind == wire.RequestKind.CRC32 and len(data) == 4:
            return f"vmem crc32 is {data.hex()}"
        if data[0] & _PROCEDURE_FLAG and asked is None:
            return _procedure(data)
        return "" if asked is None else f"{_vmem_name(asked)} data"

    def _ask(self, key: tuple[int, int], request: wire.Request) -> None:
        self._asked.pop(key, None)
        if len(self._asked) >= _MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[key] = request


def _vmem_name(request: wire.Request) -> str:
    return f"vmem {_VMEM_KINDS.get(request.kind, f'type {request.kind}')}"


def _vmem_request(request: wire.Request, data: bytes) -> str:
    text = f"{_vmem_name(request)} v{request.version}"
    if request.kind in _RING_KINDS:
        ring = wire.decode_ring_request(data)
        return f"{text} {ring.name} {ring.value}"
    if request.kind == wire.RequestKind.UPLOAD:
        return f"{text} to {request.address:#x}"
    if request.kind in (wire.RequestKind.DOWNLOAD, wire.RequestKind.CRC32):
        return f"{text} {request.address:#x}+{request.length}"
    return text


def _procedure(data: bytes) -> str:
    kind = data[0] & 0x0F
    name = _PROCEDURE_KINDS[kind // 2] if kind // 2 < len(_PROCEDURE_KINDS) else f"type {kind}"
    if kind & 1:
        return f"proc {name} {'refused' if data[0] & _PROCEDURE_ERROR else 'answer'}"
    return f"proc {name} slot {data[1]}" if len(data) > 1 else f"proc {name}"


def _syn(data: bytes) -> str:
    options = RdpOptions.decode(data)
    return (
        f"window {options.window}, timeouts {options.conn_timeout_ms}/{options.packet_timeout_ms}"
        f"/{options.ack_timeout_ms} ms, acknowledge after {options.ack_delay_count}"
    )


def _cmp(data: bytes, to_server: bool) -> str:
    if len(data) < 2:
        return ""
    code, body = data[1], data[2:]
    text = f"{'reply' if data[0] else 'request'} {_CMP_NAMES.get(code, code)}"
    if code == Code.IF_STATS:
        return f"{text} {decode_interface_name(body)}".rstrip()
    if not data[0]:
        return text
    if code == Code.IDENT:
        ident = Ident.decode(body)
        return f"{text} {ident.hostname} {ident.model} {ident.revision}".rstrip()
    if code == Code.CLOCK:
        clock = Clock.decode(body)
        return f"{text} {clock.unix_ns / 1e9:.3f}"
    return text


def _reboot(data: bytes, to_server: bool) -> str:
    return _REBOOTS.get(int.from_bytes(data, "big"), "no valid command")


def _number(unit: str) -> Callable[[bytes, bool], str]:
    def read(data: bytes, to_server: bool) -> str:
        if to_server or len(data) != 4:
            return ""
        return f"reply {int.from_bytes(data, 'big')} {unit}"

    return read


_SIMPLE: dict[int, Callable[[bytes, bool], str]] = {
    0: _cmp,
    4: _reboot,
    **{port: _number(unit) for port, unit in _NUMBER_PORTS.items()},
}


def _shown(data: bytes) -> str:
    return data[:_SHOWN_BYTES].hex(" ") + (" ..." if len(data) > _SHOWN_BYTES else "")


def _flag_names(flags: int) -> str:
    names = [name for bit, name in _FLAG_LETTERS.items() if flags & bit]
    return "+".join(names) or "-"


_FLAG_LETTERS = {
    int(Flag.CRC32): "crc",
    int(Flag.RDP): "rdp",
    int(Flag.HMAC): "hmac",
    int(Flag.FRAGMENT): "sfp",
}


def without_authentication(packet: Packet, guards: Sequence[Guard]) -> tuple[Packet, str]:
    """Return the packet as its service sees it, and how far its authentication was checked.

    Without a key only the HMAC as flown can be taken off: a stamp looks like data.
    """
    if not packet.flags & Flag.HMAC:
        return packet, ""
    for guard in guards:
        try:
            return guard.open(packet), "authentic"
        except DecodeError:
            continue
    bare = packet._replace(data=packet.data[:-HMAC_BYTES])
    return bare, "not authentic, or seen before" if guards else "authentication not checked"
