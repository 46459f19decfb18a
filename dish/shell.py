"""The shell commands `proc ...`: write a procedure line by line, move it, run it, watch it.

Each session has one current procedure, as in csh. Plug-in of `csp shell` (group `csp.shell`).
Source: dish.md 3; `status`, `wait`, `stop`, `pause`, `resume` and `step` are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from csp.errors import NoResponse, Refused
from csp.keyfiles import operator_key
from csp.param.client import PushItem, RemoteParam
from csp.shell.command import (
    KEY_OPTION,
    NODE_OPTIONS,
    Args,
    Command,
    Option,
    Positional,
    UsageError,
)
from csp.shell.completers import nodes, parameters
from csp.shell.session import CommandFailed, Session
from csp.signing import fingerprint
from dish.asm import Word, parse_instruction
from dish.client import M7_BUFFER_BYTES, ProcClient, fits
from dish.errors import RET_TEXT, AssemblyError, Ret
from dish.isa import OPCODES, FieldKind, Opcode, OpcodeRow
from dish.params import SEAL_SPEC
from dish.problems import Check
from dish.profile import PROFILES
from dish.program import MAX_INSTRUCTIONS, MAX_NODE, MAX_SLOT, Procedure, size_bytes
from dish.seals import seal_procedure
from dish.status import RunLine, Status, Verb
from dish.verify import Target, has_errors, verify

_CURRENT = "dish.procedure"
_STATES = {1: "starting", 2: "running", 3: "waiting", 4: "asks a node", 5: "paused", 6: "deferred"}
# Often enough to feel immediate, rare enough for a slow link.
_WAIT_PERIOD_S = 0.5


def slot_number(text: str) -> int:
    """Convert a slot. Raises ValueError unless it is 0..255 in plain decimal."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    if int(text) > MAX_SLOT:
        raise ValueError(f"slots are 0..{MAX_SLOT}")
    return int(text)


_SLOT = Positional(name="slot", convert=slot_number, help="0..255")
_ANY_SLOT = replace(_SLOT, optional=True, help="only runs of this slot (default: all)")
_NODE = Positional(name="at", help="node, default as `node` says", optional=True, complete=nodes)


def _client(session: Session, args: Args) -> ProcClient:
    return ProcClient(session.stack, session.timeout_of(args))


def _node(session: Session, args: Args) -> int:
    """Return the node: the word after the slot, else the option, else the default."""
    if args.at is None:
        return session.node_of(args)
    node = session.resolve_node(args.at)
    session.seen_nodes.add(node)
    return node


def _current(session: Session) -> Procedure:
    procedure = session.extra.get(_CURRENT)
    if not isinstance(procedure, Procedure):
        raise CommandFailed("no current procedure: `proc new` or `proc pull` first")
    return procedure


def _refusal(session: Session, node: int, what: str) -> CommandFailed:
    return CommandFailed(
        f"node {node} refused to {what}; `get -n {node} proc_refusal` may know why"
    )


async def _new(session: Session, args: Args) -> None:
    session.extra[_CURRENT] = Procedure()


async def _delete(session: Session, args: Args) -> None:
    node = _node(session, args)
    await _client(session, args).delete(node, args.slot)
    session.out(f"slot {args.slot} on node {node} is empty")


async def _pull(session: Session, args: Args) -> None:
    node = _node(session, args)
    try:
        procedure = await _client(session, args).pull(node, args.slot)
    except Refused:
        raise _refusal(session, node, f"give slot {args.slot}") from None
    session.extra[_CURRENT] = procedure
    session.out(f"pulled {len(procedure)} instructions, {size_bytes(procedure)} bytes")


def _check(session: Session, node: int, slot: int, procedure: Procedure) -> bool:
    """Show what is wrong with a procedure, as far as the lists known here tell; True if it flies.

    The limits of the node are the node's business; slots it calls may be pushed later.
    """
    catalogue = {
        number: {param.spec.name: param.spec for param in session.remote.cached(number)}
        for number in {node, *(entry.node for entry in procedure.instructions)} - {0}
    }
    target = Target(
        own=node,
        profile=replace(PROFILES["default"], buffer_bytes=1 << 16),
        catalogue={number: table for number, table in catalogue.items() if table},
        present=frozenset(range(MAX_SLOT + 1)),
    )
    problems = [
        problem
        for problem in verify({slot: procedure}, target)
        if problem.check is not Check.UNKNOWN_NODE
    ]
    for problem in problems:
        session.out(str(problem))
    return not has_errors(problems)


async def _push(session: Session, args: Args) -> None:
    node, procedure = _node(session, args), _current(session)
    if not _check(session, node, args.slot, procedure) and not args.force:
        raise CommandFailed("not pushed; `proc push --force` pushes it all the same")
    if not fits(procedure):
        session.out(
            f"warning: {size_bytes(procedure)} bytes do not reach a node with "
            f"{M7_BUFFER_BYTES}-byte buffers"
        )
    await _offer_seal(session, args, node, procedure)
    try:
        await _client(session, args).push(node, args.slot, procedure)
    except Refused:
        raise _refusal(session, node, f"take slot {args.slot} (occupied?)") from None
    session.out(f"pushed {size_bytes(procedure)} bytes to slot {args.slot} on node {node}")


async def _offer_seal(session: Session, args: Args, node: int, procedure: Procedure) -> None:
    """Send the signature of the push that follows, if there is a key."""
    key = operator_key(args.key)
    if key is None:
        return
    counter = key.next_counter()
    seal = seal_procedure(procedure, key.signer, node=node, slot=args.slot, counter=counter)
    session.params.timeout_s = session.timeout_of(args)
    item = PushItem(param=RemoteParam(spec=SEAL_SPEC, node=node), value=seal)
    try:
        await session.params.push(node, [item])
    except NoResponse:
        # A node that asks for signatures refuses the push then, any other takes it.
        session.out(f"warning: node {node} did not take the signature; pushing without it")
    else:
        name = fingerprint(key.signer.public_key)
        session.out(f"signed with {name}, counter {counter}")


async def _size(session: Session, args: Args) -> None:
    session.out(f"{size_bytes(_current(session))} bytes")


async def _pop(session: Session, args: Args) -> None:
    rows = list(_current(session).instructions)
    index = len(rows) - 1 if args.index is None else args.index
    if not 0 <= index < len(rows):
        raise CommandFailed(f"no instruction {index}: there are {len(rows)}")
    del rows[index]
    session.extra[_CURRENT] = Procedure(instructions=tuple(rows))


async def _list(session: Session, args: Args) -> None:
    for index, entry in enumerate(_current(session).instructions):
        node = "-\t" if entry.opcode is Opcode.NOOP else f"[node {entry.node}]"
        session.out(f"{index}:\t{node}\t{entry}")


async def _slots(session: Session, args: Args) -> None:
    node = _node(session, args)
    slots = await _client(session, args).slots(node)
    session.out(f"{len(slots)} occupied procedure slots on node {node}:")
    for slot in slots:
        session.out(str(slot))


async def _run(session: Session, args: Args) -> None:
    node = _node(session, args)
    try:
        await _client(session, args).run(node, args.slot)
    except Refused:
        raise _refusal(session, node, f"run slot {args.slot}") from None
    session.out(f"slot {args.slot} runs on node {node}")


def _line(run: RunLine) -> str:
    return (
        f"slot {run.root}: {_STATES.get(run.state, 'unknown')} at {run.slot}:{run.index}, "
        f"depth {run.depth}, {run.executed} instructions, {run.age_s} s"
    )


def _ending(status: Status) -> str:
    text = RET_TEXT.get(Ret(status.last_ret), "") if status.last_ret in set(Ret) else "unknown"
    return f"slot {status.last_root}: {text} at {status.last_slot}:{status.last_index}"


async def _status(session: Session, args: Args) -> None:
    node = _node(session, args)
    status = await _client(session, args).status(node)
    session.out(f"{len(status.runs)} running procedures on node {node}")
    for run in status.runs:
        session.out(_line(run))
    if status.last_root != MAX_SLOT or status.last_ret:
        session.out(f"last ended {_ending(status)} ({status.last_ret})")


async def _wait(session: Session, args: Args) -> None:
    """Wait until no run of the slot is left; fail if the last one that ended failed."""
    node, client = _node(session, args), _client(session, args)
    end = session.scheduler.now + args.seconds
    while True:
        try:
            status = await client.status(node)
        except NoResponse:
            # A pass may have ended; the deadline decides, not one lost packet.
            status = None
        if status is not None and not any(run.root == args.slot for run in status.runs):
            break
        if session.scheduler.now >= end:
            raise CommandFailed(f"slot {args.slot} still runs after {args.seconds:g} s")
        await session.scheduler.sleep(_WAIT_PERIOD_S)
    session.out(_ending(status))
    if status.last_root == args.slot and status.last_ret:
        raise CommandFailed(f"slot {args.slot} ended with {status.last_ret}")


def _control(verb: Verb) -> Callable[[Session, Args], Coroutine[Any, Any, None]]:
    async def run(session: Session, args: Args) -> None:
        node = _node(session, args)
        count = await _client(session, args).control(node, verb, args.slot)
        session.out(f"{verb.name.lower()}: {count} runs on node {node}")

    return run


def _append(row: OpcodeRow) -> Callable[[Session, Args], Coroutine[Any, Any, None]]:
    async def run(session: Session, args: Args) -> None:
        procedure = _current(session)
        if len(procedure) >= MAX_INSTRUCTIONS:
            raise CommandFailed("Maximum number of instructions reached")
        words = [row.name, *(getattr(args, attribute) for attribute in row.typed)]
        typed = [Word(text=word, line=1, column=1, quoted=True) for word in words]
        try:
            entry = parse_instruction(typed, _instruction_node(session, args, row))
        except AssemblyError as error:
            raise UsageError(f"proc {row.name}: {error.reason}") from None
        session.extra[_CURRENT] = Procedure(instructions=(*procedure.instructions, entry))

    return run


def _instruction_node(session: Session, args: Args, row: OpcodeRow) -> int:
    if row.opcode is Opcode.NOOP:
        return 0
    text = args.at if args.at is not None else args.node
    if text is None:
        return session.node
    # An instruction may name any 16-bit node, the shell itself only talks to real addresses.
    if text.isascii() and text.isdigit() and int(text) <= MAX_NODE:
        return int(text)
    return session.resolve_node(text)


_WORDS: dict[str, str] = {
    "first": "param",
    "second": "param",
    "result": "parameter for the result",
    "value": "text of the value",
    "slot": "slot to call",
}


def _instruction_command(row: OpcodeRow) -> Command:
    kinds = {field.attribute: field.kind for field in row.fields}
    operators = " ".join(operator.text for operator in row.operators)
    places: list[Positional] = []
    for attribute in row.typed:
        is_name = kinds[attribute] is FieldKind.NAME
        text = f"one of {operators}" if attribute == "operator" else _WORDS[attribute]
        places.append(
            Positional(name=attribute, help=text, complete=parameters if is_name else None)
        )
    extra = Positional(name="at", help="ignored", many=True, optional=True)
    places.append(extra if row.opcode is Opcode.NOOP else _NODE)
    return Command(
        path=("proc", row.name),
        summary=f"Append a {row.name} instruction to the current procedure.",
        run=_append(row),
        options=NODE_OPTIONS,
        positionals=tuple(places),
    )


def _remote(
    name: str,
    summary: str,
    run: Callable[[Session, Args], Coroutine[Any, Any, None]],
    *places: Positional,
) -> Command:
    return Command(
        path=("proc", name),
        summary=summary,
        run=run,
        options=NODE_OPTIONS,
        positionals=(*places, _NODE),
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError(text)
    return value


_INDEX = Positional(name="index", convert=int, help="default: the last", optional=True)
_FORCE = Option(short="-f", long="--force", help="push it even if it cannot work")
_SECONDS = Positional(
    name="seconds", convert=_seconds, help="patience", optional=True, default=60.0
)

COMMANDS: tuple[Command, ...] = (
    Command(path=("proc", "new"), summary="Start an empty procedure.", run=_new),
    Command(
        path=("proc", "pop"), summary="Remove an instruction.", run=_pop, positionals=(_INDEX,)
    ),
    Command(path=("proc", "size"), summary="Show the encoded size in bytes.", run=_size),
    Command(path=("proc", "list"), summary="Show the current procedure.", run=_list),
    _remote("del", "Empty a slot.", _delete, _SLOT),
    _remote("pull", "Make a stored procedure the current one.", _pull, _SLOT),
    Command(
        path=("proc", "push"),
        summary="Check the current procedure and store it in a free slot.",
        run=_push,
        options=(*NODE_OPTIONS, _FORCE, KEY_OPTION),
        positionals=(_SLOT, _NODE),
        details="Names and types are checked against the lists that were downloaded (`list`).",
    ),
    _remote("slots", "List the occupied slots.", _slots),
    _remote("run", "Start a stored procedure.", _run, _SLOT),
    _remote("status", "Show what is running and how the last run ended.", _status),
    Command(
        path=("proc", "wait"),
        summary="Wait until a procedure has ended; fail if it failed.",
        run=_wait,
        options=NODE_OPTIONS,
        positionals=(_SLOT, _SECONDS, _NODE),
    ),
    *(
        _remote(
            verb.name.lower(),
            f"{verb.name.capitalize()} the running procedures of a slot.",
            _control(verb),
            _ANY_SLOT,
        )
        for verb in (Verb.STOP, Verb.PAUSE, Verb.RESUME, Verb.STEP)
    ),
    *map(_instruction_command, OPCODES),
)
