"""Commands that ask nodes about themselves: ping, ident, uptime, time, interfaces, reboot."""

from __future__ import annotations

import time

from csp import cmp
from csp.errors import DecodeError, NoResponse
from csp.packet import Priority
from csp.services import (
    MAGIC_REBOOT,
    MAGIC_SHUTDOWN,
    PORT_BUFFERS,
    PORT_CMP,
    PORT_MEMFREE,
    PORT_PING,
    PORT_REBOOT,
    PORT_UPTIME,
)
from csp.shell.command import (
    NODE_OPTIONS,
    TIMEOUT_OPTION,
    Args,
    Command,
    Option,
    Positional,
    unsigned,
)
from csp.shell.completers import nodes
from csp.shell.session import CommandFailed, Session

# As csh: a scan does not wait longer than these for one address (csp.md 1).
_SCAN_PING_S = 0.02
_SCAN_IDENT_S = 0.1

_NODE = Positional(name="node", optional=True, help="number or learned name", complete=nodes)


def _target(session: Session, args: Args) -> int:
    node = session.node if args.node is None else session.resolve_node(args.node)
    session.seen_nodes.add(node)
    return node


async def _ping(session: Session, args: Args) -> None:
    node, size = _target(session, args), args.size
    timeout_s = session.timeout_of(args)
    payload = bytes(index & 0xFF for index in range(size))
    began = time.perf_counter()
    try:
        answer = await session.stack.request(node, PORT_PING, payload, timeout_s=timeout_s)
    except NoResponse:
        raise CommandFailed(
            f"ping node {node}: no reply within {timeout_s * 1000:.0f} ms"
        ) from None
    if answer != payload:
        raise CommandFailed(f"ping node {node}: the reply differs from what was sent")
    elapsed_ms = (time.perf_counter() - began) * 1000
    session.out(f"Ping node {node} size {size}: reply in {elapsed_ms:.1f} ms")


async def _ident(session: Session, args: Args) -> None:
    node = _target(session, args)
    found = 0
    request = cmp.encode_record(cmp.REQUEST, cmp.Code.IDENT)
    deadline = session.scheduler.now + session.timeout_of(args)
    everybody = session.stack.is_broadcast(node)
    with session.stack.open(node, PORT_CMP) as client:
        client.send(request)
        while (left_s := deadline - session.scheduler.now) > 0:
            try:
                packet = await client.receive_packet(left_s)
            except NoResponse:
                break
            ident = cmp.Ident.decode(cmp.decode_reply(packet.data, cmp.Code.IDENT))
            _show_ident(session, packet.src, ident)
            found += 1
            if not everybody:
                break
    if not found:
        raise CommandFailed(f"ident: no response from node {node}")


def _show_ident(session: Session, node: int, ident: cmp.Ident) -> None:
    session.out(f"IDENT {node}")
    for text in (ident.hostname, ident.model, ident.revision, f"{ident.date} {ident.time}"):
        session.out(f"  {text}")
    if ident.hostname and " " not in ident.hostname:
        session.aliases[ident.hostname] = node
    session.seen_nodes.add(node)


async def _number(session: Session, args: Args, port: int) -> int:
    node = _target(session, args)
    answer = await session.stack.request(node, port, b"", timeout_s=session.timeout_of(args))
    if len(answer) != 4:
        raise DecodeError("answer has the wrong size", expected=4, actual=len(answer))
    return int.from_bytes(answer, "big")


async def _uptime(session: Session, args: Args) -> None:
    seconds = await _number(session, args, PORT_UPTIME)
    session.out(f"Uptime of node {_target(session, args)} is {seconds} s")


async def _buffree(session: Session, args: Args) -> None:
    count = await _number(session, args, PORT_BUFFERS)
    session.out(f"Free buffers at node {_target(session, args)} is {count}")


async def _memfree(session: Session, args: Args) -> None:
    count = await _number(session, args, PORT_MEMFREE)
    session.out(f"Free memory at node {_target(session, args)} is {count} bytes")


async def _time(session: Session, args: Args) -> None:
    node = _target(session, args)
    wanted = cmp.Clock(unix_ns=time.time_ns() if args.sync else 0)
    request = cmp.encode_record(cmp.REQUEST, cmp.Code.CLOCK, wanted.encode())
    answer = await session.stack.request(
        node, PORT_CMP, request, timeout_s=session.timeout_of(args)
    )
    clock = cmp.Clock.decode(cmp.decode_reply(answer, cmp.Code.CLOCK))
    seconds, rest_ns = divmod(clock.unix_ns, 1_000_000_000)
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    session.out(f"Remote time is {seconds}.{rest_ns:09d} ({shown} UTC)")


async def _ifstat(session: Session, args: Args) -> None:
    request = cmp.encode_if_stats_request(args.interface)
    node = session.node_of(args)
    answer = await session.stack.request(
        node, PORT_CMP, request, timeout_s=session.timeout_of(args)
    )
    stats = cmp.InterfaceStats.decode(cmp.decode_reply(answer, cmp.Code.IF_STATS))
    counters = stats.counters
    session.out(
        f"{stats.name}  tx {counters.tx} ({counters.txbytes} B)  "
        f"rx {counters.rx} ({counters.rxbytes} B)"
    )
    session.out(
        f"  tx errors {counters.tx_error}  rx errors {counters.rx_error}  "
        f"dropped {counters.drop}  not authentic {counters.autherr}  malformed {counters.frame}"
    )


async def _scan(session: Session, args: Args) -> None:
    found = 0
    for node in range(args.first, args.last + 1):
        if session.stack.is_own(node):
            continue
        try:
            await session.stack.request(node, PORT_PING, b"", timeout_s=args.wait or _SCAN_PING_S)
        except NoResponse:
            continue
        found += 1
        request = cmp.encode_record(cmp.REQUEST, cmp.Code.IDENT)
        try:
            answer = await session.stack.request(
                node, PORT_CMP, request, timeout_s=max(args.wait or 0, _SCAN_IDENT_S)
            )
        except NoResponse:
            session.out(f"Found node {node}, which does not say who it is")
            continue
        session.out(f"Found something on node {node}")
        _show_ident(session, node, cmp.Ident.decode(cmp.decode_reply(answer, cmp.Code.IDENT)))
    session.out(f"{found} nodes answered")


async def _reboot(session: Session, args: Args) -> None:
    _power(session, args, MAGIC_REBOOT)


async def _shutdown(session: Session, args: Args) -> None:
    _power(session, args, MAGIC_SHUTDOWN)


def _power(session: Session, args: Args, magic: int) -> None:
    node = _target(session, args)
    session.stack.send(node, PORT_REBOOT, magic.to_bytes(4, "big"), prio=Priority.NORM)
    session.out(f"sent to node {node}; nodes never confirm this")


def _ask(path: str, summary: str, run: object, *options: Option) -> Command:
    return Command(
        path=tuple(path.split()),
        summary=summary,
        run=run,  # type: ignore[arg-type]
        options=(*options, TIMEOUT_OPTION),
        positionals=(_NODE,),
    )


COMMANDS = (
    _ask(
        "ping",
        "send bytes to a node and await them back",
        _ping,
        Option(
            short="-s",
            long="--size",
            metavar="BYTES",
            convert=unsigned,
            default=1,
            help="how many bytes",
        ),
    ),
    _ask("ident", "ask a node, or everybody (16383), who it is; learns its name", _ident),
    _ask("uptime", "seconds since the node started", _uptime),
    _ask("buffree", "free packet buffers of a node", _buffree),
    _ask("memfree", "free memory of a node", _memfree),
    _ask(
        "time",
        "show a node's clock",
        _time,
        Option(short="-s", long="--sync", help="set it to the clock of this machine first"),
    ),
    _ask("reboot", "restart a node", _reboot),
    _ask("shutdown", "stop a node", _shutdown),
    Command(
        path=("ifstat",),
        summary="counters of one interface of a node",
        run=_ifstat,
        options=NODE_OPTIONS,
        positionals=(Positional(name="interface", help="for example ZMQ"),),
    ),
    Command(
        path=("csp", "scan"),
        summary="find the nodes of an address range",
        run=_scan,
        options=(
            Option(
                short="-w",
                long="--wait",
                metavar="MS",
                convert=lambda text: unsigned(text) / 1000,
                help="patience per address",
            ),
        ),
        positionals=(
            Positional(name="first", convert=unsigned, optional=True, default=1),
            Positional(name="last", convert=unsigned, optional=True, default=63),
        ),
    ),
)
