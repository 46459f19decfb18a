"""The operator's commands about failures: obs quarantine, ippc rearm, crash."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from csp.shell.command import (
    JSON_OPTION,
    NODE_OPTIONS,
    Args,
    Command,
    Positional,
    UsageError,
    unsigned,
)
from csp.shell.session import CommandFailed, Session
from dipp.config.definition import PIPELINE_COUNT
from dipp.errors import ContentError, split_status
from dipp.params import CRASH_COUNT, crash_name
from dipp.policy.report import crash_lines
from dipp.policy.settings import (
    BATCHES,
    DEGRADED,
    DISCARD,
    MODULE_REARM,
    PAGE,
    PAGE_ENTRIES,
    QUARANTINED,
    REARM_ALL,
    REPLAY,
    SIZES,
    STATE,
    STATUSES,
    TIMES,
)
from dipp.runner.values import CrashRecord

_ALL = "all"
_COLUMNS = (BATCHES, STATUSES, SIZES, TIMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A quarantined batch as the node shows it."""

    batch: int
    status: int
    size_bytes: int
    time_unix: int

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.time_unix, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return f"{self.batch:8}  {when}  {self.size_bytes:>10}  {split_status(self.status)}"

    def as_json(self) -> dict[str, int]:
        """Return it for programs."""
        status = split_status(self.status)
        return {
            "batch": self.batch, "code": status.code, "pipeline": status.pipeline,
            "module": status.module, "bytes": self.size_bytes, "time_unix": self.time_unix,
        }  # fmt: skip


async def _rows(session: Session, node: int) -> AsyncIterator[_Row]:
    """Yield what the quarantine of a node has, page after page."""
    page = 0
    while True:
        await session.remote.set(node, PAGE, page)
        columns = await session.remote.get_many(node, [(name, None) for name in _COLUMNS])
        lists = [column if isinstance(column, list) else [] for column in columns]
        rows = [_Row(batch=int(b), status=int(s), size_bytes=int(z), time_unix=int(t))
                for b, s, z, t in zip(*lists, strict=True) if b]  # fmt: skip
        for row in rows:
            yield row
        if len(rows) < PAGE_ENTRIES:
            return
        page += 1


async def _list(session: Session, args: Args) -> None:
    node = session.node_of(args)
    rows = [row async for row in _rows(session, node)]
    used, limit = await session.remote.get_many(
        node, [("quarantine_bytes", None), ("quarantine_limit", None)]
    )
    if args.json:
        listed = [row.as_json() for row in rows]
        text = {"node": node, "bytes": used, "limit_bytes": limit, "batches": listed}
        session.out(json.dumps(text))
        return
    session.out(
        f"{len(rows)} batches in the quarantine of node {node}, {used!r} of {limit!r} bytes; "
        "when it is full the oldest goes"
    )
    if rows:
        session.out(f"{'batch':>8}  {'UTC':<19}  {'bytes':>10}  why")
    for row in rows:
        session.out(str(row))


async def _replay(session: Session, args: Args) -> None:
    await _order(session, args, REPLAY, "runs again under a new number")


async def _discard(session: Session, args: Args) -> None:
    await _order(session, args, DISCARD, "is deleted")


async def _order(session: Session, args: Args, name: str, what: str) -> None:
    node = session.node_of(args)
    known = [row.batch async for row in _rows(session, node)]
    wanted = known if args.batches == [_ALL] else [_number(text) for text in args.batches]
    missing = [number for number in wanted if number not in known]
    if missing:
        raise CommandFailed(
            f"node {node} has no batch {', '.join(map(str, missing))} in its quarantine; "
            "`obs quarantine list` shows them"
        )
    for number in wanted:
        await session.remote.set(node, name, number)
        session.out(f"batch {number} {what}")
    if not wanted:
        session.out(f"the quarantine of node {node} is empty")


def _number(text: str) -> int:
    try:
        return unsigned(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number of a batch; numbers, or the word {_ALL}") from None


async def _rearm(session: Session, args: Args) -> None:
    node, pipeline = session.node_of(args), args.pipeline
    if pipeline is not None and not 1 <= pipeline <= PIPELINE_COUNT:
        raise UsageError(f"Pipeline index is invalid. Range is 1-{PIPELINE_COUNT}")
    before, state = await session.remote.get_many(node, [(QUARANTINED, None), (STATE, None)])
    await session.remote.set(node, MODULE_REARM, REARM_ALL if pipeline is None else pipeline)
    after, degraded = await session.remote.get_many(node, [(QUARANTINED, None), (DEGRADED, None)])
    listed = f" ({state})" if isinstance(state, str) and state else ""
    session.out(f"{before!r} modules were quarantined{listed}, "
                f"{after!r} are now; {_pipelines(degraded)}")  # fmt: skip


def _pipelines(mask: object) -> str:
    bits = mask if isinstance(mask, int) else 0
    found = [str(n) for n in range(1, PIPELINE_COUNT + 1) if bits >> (n - 1) & 1]
    return f"degraded: {', '.join(found)}" if found else "no pipeline is degraded"


async def _crash(session: Session, args: Args) -> None:
    if args.number is not None and not 1 <= args.number <= CRASH_COUNT:
        raise UsageError(f"Number is invalid. Range is 1-{CRASH_COUNT}, 1 is the newest")
    node = session.node_of(args)
    numbers = range(1, CRASH_COUNT + 1) if args.number is None else [args.number]
    shown = 0
    for number in numbers:
        # One at a time: a record fills a packet.
        value = await session.remote.get(node, crash_name(number))
        if not isinstance(value, bytes) or not any(value):
            continue
        try:
            lines = list(crash_lines(CrashRecord.decode(value)))
        except ContentError as error:
            lines = [f"not readable: {error}"]
        session.out(f"record {number}{', the newest' if number == 1 else ''}")
        for line in lines:
            session.out(f"  {line}")
        shown += 1
    if not shown:
        session.out(f"node {node} has no crash record{'s' if args.number is None else ' there'}")


_BATCHES = Positional(name="batches", many=True, help="numbers as listed, or the word all")

COMMANDS = (
    Command(
        path=("obs", "quarantine", "list"),
        summary="list the batches whose processing failed",
        run=_list,
        options=(*NODE_OPTIONS, JSON_OPTION),
    ),
    Command(
        path=("obs", "quarantine", "replay"),
        summary="run quarantined batches again, as their pipelines are configured now",
        run=_replay,
        options=NODE_OPTIONS,
        positionals=(_BATCHES,),
        details="Each becomes a new batch. It stays on disk until that one has its fate.",
    ),
    Command(
        path=("obs", "quarantine", "discard"),
        summary="delete quarantined batches",
        run=_discard,
        options=NODE_OPTIONS,
        positionals=(_BATCHES,),
    ),
    Command(
        path=("ippc", "rearm"),
        summary="let modules run again that failed too often",
        run=_rearm,
        options=NODE_OPTIONS,
        positionals=(
            Positional(name="pipeline", convert=unsigned, optional=True, help="1..6; default all"),
        ),
    ),
    Command(
        path=("crash",),
        summary="report of the last failures: what, where, how, with its last words",
        run=_crash,
        options=NODE_OPTIONS,
        positionals=(
            Positional(
                name="number", convert=unsigned, optional=True, help="1 is the newest; default all"
            ),
        ),
    ),
)
