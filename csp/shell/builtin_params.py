"""Commands on the parameters of nodes: list, pull, get, set, watch, and queued requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from csp.errors import CspError
from csp.param.client import EXCLUDE_DEFAULT, INCLUDE_ALL, PullItem, PushItem, RemoteParam
from csp.param.errors import ReadOnlyParam
from csp.param.format import (
    Target,
    format_row,
    format_value,
    parse_assignment,
    parse_mask,
    parse_target,
)
from csp.param.spec import ParamSpec
from csp.param.types import TYPE_BY_LABEL, Mask, Value
from csp.shell.command import NODE_OPTIONS, Args, Command, Option, Positional, UsageError, unsigned
from csp.shell.completers import parameters
from csp.shell.session import CommandFailed, Session

_QUEUE = "cmd"
_FORCE = Option(short="-f", long="--force", help="also write what is listed as read-only")
_NO_ACK = Option(short="-a", long="--no-ack-values", help="do not ask for the values back")
_NAMES = Positional(name="names", many=True, complete=parameters, help="name, name[3], name[2:4]")


@dataclass(slots=True)
class _Queue:
    """The request that `cmd add` collects."""

    kind: str
    node: int
    items: list[tuple[RemoteParam, Target, str]] = field(default_factory=list)


async def _download(session: Session, args: Args) -> None:
    node = session.node_of(args)
    session.params.timeout_s = session.timeout_of(args)
    found = await session.remote.download(node)
    for param in found:
        session.out(format_row(param.spec, node, None, verbose=3))
    session.out(f"{len(found)} parameters of node {node}")


async def _list(session: Session, args: Args) -> None:
    node = session.node_of(args)
    known = session.remote.cached(node)
    shown = [p for p in known if args.pattern is None or fnmatchcase(p.spec.name, args.pattern)]
    if not known:
        raise CommandFailed(f"the list of node {node} is not here: list download -n {node}")
    for param in shown:
        session.out(format_row(param.spec, node, None, verbose=args.verbose))


async def _list_add(session: Session, args: Args) -> None:
    kind = TYPE_BY_LABEL.get(args.type)
    if kind is None:
        raise UsageError(f"list add: {args.type!r} is none of {', '.join(TYPE_BY_LABEL)}")
    spec = ParamSpec(
        id=args.id,
        name=args.name,
        type=kind,
        array_size=args.array,
        mask=Mask(args.mask) | Mask.REMOTE,
        unit=args.unit or "",
        help=args.comment or "",
    )
    node = session.node_of(args)
    session.remote.add(RemoteParam(spec=spec, node=node))
    session.out(format_row(spec, node, None, verbose=3))


async def _pull(session: Session, args: Args) -> None:
    node = session.node_of(args)
    session.params.timeout_s = session.timeout_of(args)
    values = await session.params.pull_all(node, args.mask, args.exclude)
    known = {param.spec.id: param for param in session.remote.cached(node)}
    for number, value in values.items():
        param = known.get(number)
        if param is None:
            session.out(f" {number:3d}:{node:<2d}  (not listed)         = {value!r}")
        else:
            session.out(format_row(param.spec, node, value))
    session.out(f"{len(values)} values of node {node}")


async def _resolve(
    session: Session, node: int, texts: Sequence[str]
) -> list[tuple[RemoteParam, Target]]:
    targets = [parse_target(text) for text in texts]
    return [(await session.remote.find(node, target.name), target) for target in targets]


async def _get(session: Session, args: Args) -> None:
    node = session.node_of(args)
    session.params.timeout_s = session.timeout_of(args)
    wanted = await _resolve(session, node, args.names)
    items = [PullItem(param=param, index=_single(param, target)) for param, target in wanted]
    values = await session.params.pull(node, items)
    for (param, target), value in zip(wanted, values, strict=True):
        part = target.part(param.spec)
        if part is not None and isinstance(value, list):
            value = [value[index] for index in part]
        _show(session, node, param, part, value)


def _single(param: RemoteParam, target: Target) -> int | None:
    """The index to pull: one element if one is meant, else None for all of them."""
    part = target.part(param.spec)
    if part is None or target.is_slice or param.spec.row.is_text:
        return None
    return part[0]


def _show(
    session: Session, node: int, param: RemoteParam, part: range | None, value: Value
) -> None:
    if part is None:
        session.out(format_row(param.spec, node, value))
    else:
        place = f"{part[0]}" if len(part) == 1 else f"{part[0]}:{part[-1] + 1}"
        session.out(f"  {param.spec.name}[{place}] = {format_value(param.spec.row, value)}")


async def _set(session: Session, args: Args) -> None:
    node = session.node_of(args)
    session.params.timeout_s = session.timeout_of(args)
    [(param, target)] = await _resolve(session, node, [args.name])
    item = _assign(param, target, " ".join(args.value), force=args.force)
    stored = await _push(session, node, [item], ack=not args.no_ack_values)
    if stored is not None:
        part = target.part(param.spec)
        if part is None and item.index is not None:
            part = range(item.index, item.index + len(stored))
        _show(session, node, param, part, stored[0])


def _assign(param: RemoteParam, target: Target, text: str, *, force: bool) -> PushItem:
    if param.spec.mask & Mask.READONLY and not force:
        raise ReadOnlyParam(f"{param.spec.name} is read-only (-f writes it all the same)")
    found = parse_assignment(param.spec, target, text)
    return PushItem(param=param, value=found.value, index=found.index)


async def _push(
    session: Session, node: int, items: list[PushItem], *, ack: bool
) -> list[Value] | None:
    try:
        return await session.params.push(node, items, ack=ack)
    except CspError as error:
        if "no response" not in str(error):
            raise
        raise CommandFailed(
            f"{error}. A node is also silent when it refuses a value: a number out of range, a "
            "read-only parameter, or one it does not know"
        ) from None


async def _watch(session: Session, args: Args) -> None:
    line = " ".join(args.line)
    done = 0
    while args.count == 0 or done < args.count:
        if done:
            await session.scheduler.sleep(args.interval)
        await session.run(line)
        done += 1


async def _cmd_new(session: Session, args: Args) -> None:
    if args.kind not in ("get", "set"):
        raise UsageError("cmd new: say `get` or `set`")
    session.extra[_QUEUE] = _Queue(args.kind, session.node_of(args))


def _queue(session: Session) -> _Queue:
    queue: _Queue | None = session.extra.get(_QUEUE)
    if queue is None:
        raise CommandFailed("there is no request: begin one with `cmd new get` or `cmd new set`")
    return queue


async def _cmd_add(session: Session, args: Args) -> None:
    queue = _queue(session)
    [(param, target)] = await _resolve(session, queue.node, [args.name])
    text = " ".join(args.value)
    if queue.kind == "set":
        _assign(param, target, text, force=args.force)
    queue.items.append((param, target, text))


async def _cmd_show(session: Session, args: Args) -> None:
    del args
    queue = _queue(session)
    session.out(f"cmd {queue.kind} on node {queue.node}, {len(queue.items)} items")
    for _, target, text in queue.items:
        session.out(f"  {target} {text}".rstrip())


async def _cmd_run(session: Session, args: Args) -> None:
    queue = _queue(session)
    session.params.timeout_s = session.timeout_of(args)
    if queue.kind == "get":
        items = [PullItem(param=p, index=_single(p, target)) for p, target, _ in queue.items]
        values: list[Value] | None = await session.params.pull(queue.node, items)
    else:
        pushes = [_assign(p, target, text, force=True) for p, target, text in queue.items]
        values = await _push(session, queue.node, pushes, ack=True)
    for (param, target, _), value in zip(queue.items, values or [], strict=True):
        session.out(f"  {target} = {format_value(param.spec.row, value)}")


async def _cmd_done(session: Session, args: Args) -> None:
    del args
    session.extra.pop(_QUEUE, None)


def _mask_option(short: str, long: str, default: int, text: str) -> Option:
    return Option(
        short=short, long=long, metavar="MASK", convert=parse_mask, default=default, help=text
    )


COMMANDS = (
    Command(
        path=("list", "download"),
        summary="fetch the parameter list of a node; names work from then on",
        run=_download,
        options=NODE_OPTIONS,
    ),
    Command(
        path=("list", "add"),
        summary="describe a parameter by hand, such as one that its node does not list",
        run=_list_add,
        options=(
            *NODE_OPTIONS,
            Option(
                short="-a",
                long="--array",
                metavar="N",
                convert=unsigned,
                default=1,
                help="array size; bytes of str and dat",
            ),
            _mask_option("-m", "--mask", 0, "letters as lists show them"),
            Option(short="-u", long="--unit", metavar="TEXT", help="unit"),
            Option(short="-c", long="--comment", metavar="TEXT", help="help text"),
        ),
        positionals=(
            Positional(name="name"),
            Positional(name="id", convert=unsigned),
            Positional(name="type", help="u08 .. dat as lists show them"),
        ),
    ),
    Command(
        path=("list",),
        summary="show the parameters of a node whose list is here",
        run=_list,
        options=(
            *NODE_OPTIONS,
            Option(
                short="-v",
                long="--verbose",
                metavar="LEVEL",
                convert=unsigned,
                default=2,
                help="1 names, 2 and types, 3 and help texts",
            ),
        ),
        positionals=(Positional(name="pattern", optional=True, help="such as gnss_*"),),
    ),
    Command(
        path=("pull",),
        summary="read all parameters of a node",
        run=_pull,
        options=(
            *NODE_OPTIONS,
            _mask_option("-m", "--mask", INCLUDE_ALL, "only with one of these bits"),
            _mask_option("-e", "--exclude", EXCLUDE_DEFAULT, "none with one of these bits"),
        ),
    ),
    Command(
        path=("get",),
        summary="read parameters",
        run=_get,
        options=NODE_OPTIONS,
        positionals=(_NAMES,),
    ),
    Command(
        path=("set",),
        summary="write a parameter: a number, [1 2 3], text, or hex pairs for data",
        run=_set,
        options=(*NODE_OPTIONS, _FORCE, _NO_ACK),
        positionals=(
            Positional(name="name", complete=parameters),
            Positional(name="value", many=True),
        ),
    ),
    Command(
        path=("watch",),
        summary="run a line again and again",
        run=_watch,
        options=(
            Option(
                short="-n",
                long="--interval",
                metavar="MS",
                convert=lambda text: unsigned(text) / 1000,
                default=1.0,
                help="pause between runs (default 1000)",
            ),
            Option(
                short="-c",
                long="--count",
                metavar="N",
                convert=unsigned,
                default=0,
                help="how often (default 0: until Ctrl-C)",
            ),
        ),
        positionals=(Positional(name="line", many=True),),
    ),
    Command(
        path=("cmd", "new"),
        summary="begin a request of several parameters",
        run=_cmd_new,
        options=NODE_OPTIONS,
        positionals=(Positional(name="kind", help="get or set"),),
    ),
    Command(
        path=("cmd", "add"),
        summary="add a parameter to the request",
        run=_cmd_add,
        options=(_FORCE,),
        positionals=(
            Positional(name="name", complete=parameters),
            Positional(name="value", many=True, optional=True),
        ),
    ),
    Command(path=("cmd",), summary="show the request", run=_cmd_show),
    Command(
        path=("cmd", "run"),
        summary="send the request in as few packets as it takes",
        run=_cmd_run,
        options=NODE_OPTIONS,
    ),
    Command(path=("cmd", "done"), summary="forget the request", run=_cmd_done),
)
