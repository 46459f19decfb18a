"""What is known about a finished unit, and what engine and runner say to each other, as JSON.

Theory of operation: a record lies beside the files of a result and is what makes it one. All values
that come back from a store or a process are checked, because a store may be damaged and a process
may be killed in the middle of a word. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TypeVar

from dipp.archive.keys import Input, Unit
from dipp.errors import ContentError

RECORD_VERSION = 1
# Far above what modules write; keeps a foreign file out of memory.
RECORD_LIMIT_BYTES = 8 << 20
Scalar = bool | int | float | str
T = TypeVar("T")


class State(Enum):
    """What became of a unit."""

    DONE = "done"
    FAILED = "failed"
    # The input could not be read, so there is no key; tried again next time.
    UNREADABLE = "unreadable"
    # Not the file's fault: the host died, or the runner.
    DIED = "died"
    # Nothing can go on: the chain does not load, or the results cannot be written.
    CHAIN = "chain"
    STORE = "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """An input file with the hash of its content."""

    uri: str
    size_bytes: int
    stamp: str
    sha256: str

    @property
    def listed(self) -> Input:
        """Return it as it was listed."""
        return Input(uri=self.uri, size_bytes=self.size_bytes, stamp=self.stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A written picture; `name` is relative to the result, its metadata lies in a .json beside."""

    name: str
    size_bytes: int
    width: int
    height: int
    channels: int
    items: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """Why there is no result. `module` is the 1-based position, 0 if no module is at fault."""

    code: int
    module: int = 0
    name: str = ""
    signal: int = 0
    exit_status: int = 0
    exception: str = ""
    line: int = 0
    last_log: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one module cost."""

    name: str
    wall_s: float
    cpu_s: float
    peak_rss_kb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished unit: `state` is DONE or FAILED, `crash` is there in the second case.

    `thumbnail` is a JPEG in base64, empty if there is none. `worker` is host and process.
    """

    key: str
    chain: str
    state: State
    inputs: tuple[Hashed, ...]
    outputs: tuple[Output, ...] = ()
    stages: tuple[Stage, ...] = ()
    crash: Crash | None = None
    wall_s: float = 0.0
    attempts: int = 1
    worker: str = ""
    finished_unix: int = 0
    thumbnail: str = ""

    def encode(self) -> bytes:
        """Return the record as JSON."""
        fields = {**asdict(self), "state": self.state.value, "version": RECORD_VERSION}
        return json.dumps(fields, indent=1).encode("ascii") + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Parse what `encode` made. Raises ContentError."""
        return _guarded("record", lambda: _record(_object(data)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a runner shall do. `bury` is set when the unit has killed its runners: only record it.

    `redo` runs a unit again that has failed before.
    """

    unit: Unit
    redo: bool = False
    bury: Crash | None = None

    def encode(self) -> bytes:
        """Return one message."""
        inputs = [asdict(each) for each in self.unit.inputs]
        bury = asdict(self.bury) if self.bury else None
        return json.dumps({"inputs": inputs, "redo": self.redo, "bury": bury}).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Order:
        """Parse a message. Raises ContentError."""
        return _guarded("order", lambda: _order(_object(data)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a runner says of a unit. `is_new` is False if the result was there already.

    `record` belongs to DONE and FAILED; `reason` and `code` to the others.
    """

    state: State
    record: Record | None = None
    is_new: bool = False
    reason: str = ""
    code: int = 0

    def encode(self) -> bytes:
        """Return one message."""
        record = self.record.encode().decode("ascii") if self.record else ""
        fields = {
            "state": self.state.value,
            "record": record,
            "is_new": self.is_new,
            "reason": self.reason,
            "code": self.code,
        }
        return json.dumps(fields).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Report:
        """Parse a message. Raises ContentError."""
        return _guarded("report", lambda: _report(_object(data)))


def decode_inputs(rows: object) -> tuple[Hashed, ...]:
    """Parse a list of hashed inputs. Raises ContentError."""
    return _guarded("inputs", lambda: _hashed_list(rows))


# -- checked access to parsed JSON; raises ValueError, TypeError or KeyError


def _guarded(what: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ContentError(f"damaged {what}: {error}") from error


def _object(data: bytes) -> dict[str, object]:
    if len(data) > RECORD_LIMIT_BYTES:
        raise ValueError(f"{len(data)} bytes")
    parsed = json.loads(data)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _get(fields: Mapping[str, object], key: str, kind: type[T]) -> T:
    value = fields[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{key} is {value!r}")
    return value


def _list(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("wanted a list of objects")
    return value


def _record(fields: dict[str, object]) -> Record:
    if fields["version"] != RECORD_VERSION:
        raise ValueError(f"version {fields['version']!r}")
    state, crash = State(fields["state"]), fields["crash"]
    if state not in (State.DONE, State.FAILED) or (state is State.FAILED) != (crash is not None):
        raise ValueError(f"state {state.value} and crash {crash is not None}")
    return Record(
        key=_get(fields, "key", str),
        chain=_get(fields, "chain", str),
        state=state,
        inputs=_hashed_list(fields["inputs"]),
        outputs=tuple(_output(each) for each in _list(fields["outputs"])),
        stages=tuple(_stage(each) for each in _list(fields["stages"])),
        crash=_crash(crash),
        wall_s=_get(fields, "wall_s", float),
        attempts=_get(fields, "attempts", int),
        worker=_get(fields, "worker", str),
        finished_unix=_get(fields, "finished_unix", int),
        thumbnail=_get(fields, "thumbnail", str),
    )


def _hashed_list(rows: object) -> tuple[Hashed, ...]:
    found = tuple(
        Hashed(
            uri=_get(each, "uri", str),
            size_bytes=_get(each, "size_bytes", int),
            stamp=_get(each, "stamp", str),
            sha256=_get(each, "sha256", str),
        )
        for each in _list(rows)
    )
    if not found:
        raise ValueError("no inputs")
    return found


def _output(fields: dict[str, object]) -> Output:
    items = fields["items"]
    if not isinstance(items, dict):
        raise ValueError(f"items is {items!r}")
    for value in items.values():
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"item {value!r}")
    return Output(
        name=_get(fields, "name", str),
        size_bytes=_get(fields, "size_bytes", int),
        width=_get(fields, "width", int),
        height=_get(fields, "height", int),
        channels=_get(fields, "channels", int),
        items=items,
    )


def _stage(fields: dict[str, object]) -> Stage:
    return Stage(
        name=_get(fields, "name", str),
        wall_s=_get(fields, "wall_s", float),
        cpu_s=_get(fields, "cpu_s", float),
        peak_rss_kb=_get(fields, "peak_rss_kb", int),
    )


def _crash(fields: object) -> Crash | None:
    if fields is None:
        return None
    (row,) = _list([fields])
    return Crash(
        code=_get(row, "code", int),
        module=_get(row, "module", int),
        name=_get(row, "name", str),
        signal=_get(row, "signal", int),
        exit_status=_get(row, "exit_status", int),
        exception=_get(row, "exception", str),
        line=_get(row, "line", int),
        last_log=_get(row, "last_log", str),
        log=_get(row, "log", str),
    )


def _order(fields: dict[str, object]) -> Order:
    inputs = tuple(
        Input(
            uri=_get(each, "uri", str),
            size_bytes=_get(each, "size_bytes", int),
            stamp=_get(each, "stamp", str),
        )
        for each in _list(fields["inputs"])
    )
    if not inputs:
        raise ValueError("no inputs")
    return Order(
        unit=Unit(inputs=inputs), redo=_get(fields, "redo", bool), bury=_crash(fields["bury"])
    )


def _report(fields: dict[str, object]) -> Report:
    record = _get(fields, "record", str)
    return Report(
        state=State(fields["state"]),
        record=Record.decode(record.encode("ascii")) if record else None,
        is_new=_get(fields, "is_new", bool),
        reason=_get(fields, "reason", str),
        code=_get(fields, "code", int),
    )
