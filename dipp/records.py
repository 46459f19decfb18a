"""The records of the journal and the state that follows from them.

Theory of operation: every batch has a number, given before it is taken from the queue. Its life is
a few records: TAKEN (with the queue message), STARTED (once per attempt), DELIVERING (ring head
before and after), FATE, CLEANED (input segment removed). A quarantined batch that is run again, or
deleted by order, becomes a new one by REPLAY instead of TAKEN, and leaves the count of the
quarantined with it. RAW records follow the thumbnails of a batch that failed, after its FATE.
`State.apply` folds records into what is open and what was counted; a TOTALS record stands for
everything a compaction removed. Exactly one FATE counts per batch: a second one is refused. A
record on disk is marker, length, CRC32C, payload. Source: design.md 3 (fate rule).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

from csp.crc import crc32c
from dipp.errors import ContentError, MisuseError

FILE_MAGIC = b"DIPPJ1\r\n"
_FRAME = struct.Struct("<HHI")
_MARKER = 0xB5D1
_HEAD = struct.Struct("<BQ")
_DELIVERING = struct.Struct("<III")
_STARTED = struct.Struct("<QQ")
_FATE = struct.Struct("<BII")
_REPLAY = struct.Struct("<QB")
_RAW = struct.Struct("<BIII")
_TOTALS = struct.Struct("<QQQQQQ")
RECORD_HEAD_BYTES = _FRAME.size
PAYLOAD_MAX_BYTES = 256
_TOTALS_FIELDS = ("taken", "delivered", "quarantined", "dropped", "images", "evicted_through")


class Kind(IntEnum):
    """What a record says."""

    TOTALS = 0
    TAKEN = 1
    STARTED = 2
    DELIVERING = 3
    FATE = 4
    CLEANED = 5
    EVICTED = 6
    REPLAY = 7
    RAW = 8


class Raw(IntEnum):
    """How far the thumbnails of a failed batch are."""

    NONE = 0
    STARTED = 1
    PLANNED = 2
    DONE = 3


class Fate(IntEnum):
    """How a batch ended."""

    DELIVERED = 1
    QUARANTINED = 2
    DROPPED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over the whole life of the journal: taken = the three fates + what is open.

    Up to `evicted_through` quarantined batches were dropped again to make room, oldest first.
    """

    taken: int = 0
    delivered: int = 0
    quarantined: int = 0
    dropped: int = 0
    images: int = 0
    evicted_through: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. Only the fields that belong to its kind have a meaning.

    `device` and `inode` tell the input segment from a later one of the same name. `source` is the
    batch that a replay runs again.
    """

    kind: Kind
    batch: int = 0
    message: bytes = b""
    device: int = 0
    inode: int = 0
    head_before: int = 0
    head_after: int = 0
    images: int = 0
    fate: Fate = Fate.DROPPED
    status: int = 0
    totals: Totals = Totals()
    source: int = 0
    is_discard: bool = False
    raw: Raw = Raw.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """A batch without a fate, or with an input segment that may still be there.

    `source` is the quarantined batch it was before, 0 if it came from the queue; `is_discard` says
    that the operator wants it deleted. `raw_plan` is like `delivering`, for its thumbnails.
    """

    batch: int
    message: bytes
    attempts: int = 0
    device: int = 0
    inode: int = 0
    delivering: tuple[int, int, int] | None = None
    fate: Fate | None = None
    status: int = 0
    source: int = 0
    is_discard: bool = False
    raw: Raw = Raw.NONE
    raw_attempts: int = 0
    raw_plan: tuple[int, int, int] | None = None


@dataclass(slots=True)
class State:
    """What the records add up to."""

    totals: Totals = Totals()
    last_batch: int = 0
    open: dict[int, OpenBatch] = field(default_factory=dict)

    @property
    def replays(self) -> dict[int, int]:
        """The open batches that were quarantined before: number to the one they had."""
        return {each.batch: each.source for each in self.open.values() if each.source}

    def apply(self, record: Record) -> None:
        """Take one record into account. Raises MisuseError if it cannot follow the others."""
        if record.kind is Kind.TOTALS:
            self.totals, self.last_batch = record.totals, max(self.last_batch, record.batch)
        elif record.kind in (Kind.TAKEN, Kind.REPLAY):
            self._take(record)
        elif record.kind is Kind.EVICTED:
            self._evict(record.batch)
        else:
            self._advance(record)

    def _take(self, record: Record) -> None:
        if record.batch <= self.last_batch:
            raise MisuseError(f"batch {record.batch} was already taken")
        self.last_batch = record.batch
        self.open[record.batch] = OpenBatch(
            batch=record.batch,
            message=record.message,
            source=record.source,
            is_discard=record.is_discard,
        )
        if record.kind is Kind.REPLAY:
            self._count(quarantined=-1)
        else:
            self._count(taken=1)

    def _advance(self, record: Record) -> None:
        batch = self.open.get(record.batch)
        if batch is None:
            raise MisuseError(f"{record.kind.name} of batch {record.batch}, which is not open")
        if record.kind is Kind.CLEANED:
            del self.open[record.batch]
            return
        if record.kind is Kind.RAW:
            self.open[record.batch] = self._drawn(batch, record)
            return
        if batch.fate is not None:
            raise MisuseError(f"batch {record.batch} already has the fate {batch.fate.name}")
        self.open[record.batch] = self._changed(batch, record)

    def _changed(self, batch: OpenBatch, record: Record) -> OpenBatch:
        if record.kind is Kind.STARTED:
            # A new attempt: what an earlier one was about to deliver is settled by then.
            return replace(
                batch,
                attempts=batch.attempts + 1,
                device=record.device,
                inode=record.inode,
                delivering=None,
            )
        if record.kind is Kind.DELIVERING:
            plan = (record.head_before, record.head_after, record.images)
            return replace(batch, delivering=plan)
        self._count(
            delivered=int(record.fate is Fate.DELIVERED),
            quarantined=int(record.fate is Fate.QUARANTINED),
            dropped=int(record.fate is Fate.DROPPED),
            images=record.images if record.fate is Fate.DELIVERED else 0,
        )
        return replace(batch, fate=record.fate, status=record.status)

    def _drawn(self, batch: OpenBatch, record: Record) -> OpenBatch:
        if batch.fate is None or batch.raw is Raw.DONE:
            raise MisuseError(f"RAW of batch {record.batch}, which is not waiting for it")
        plan = (record.head_before, record.head_after, record.images)
        return replace(
            batch,
            raw=record.raw,
            raw_attempts=batch.raw_attempts + int(record.raw is Raw.STARTED),
            raw_plan=plan if record.raw is Raw.PLANNED else None,
        )

    def _evict(self, batch: int) -> None:
        if batch > self.totals.evicted_through:
            self._count(quarantined=-1, dropped=1)
            self.totals = replace(self.totals, evicted_through=batch)

    def _count(self, **changes: int) -> None:
        # Never below zero: a record may be missing from a damaged journal.
        values = {
            name: max(0, getattr(self.totals, name) + change) for name, change in changes.items()
        }
        self.totals = replace(self.totals, **values)

    def snapshot(self) -> Iterator[Record]:
        """Yield records that fold to this state again: what a compaction writes."""
        for batch in self.open.values():
            yield from _history(batch)
        yield Record(kind=Kind.TOTALS, batch=self.last_batch, totals=self.totals)


def _history(batch: OpenBatch) -> Iterator[Record]:
    """Yield the records that make an open batch what it is."""
    number = batch.batch
    yield Record(
        kind=Kind.REPLAY if batch.source else Kind.TAKEN,
        batch=number,
        message=batch.message,
        source=batch.source,
        is_discard=batch.is_discard,
    )
    for _ in range(batch.attempts):
        yield Record(kind=Kind.STARTED, batch=number, device=batch.device, inode=batch.inode)
    if batch.delivering is not None:
        before, after, images = batch.delivering
        yield Record(
            kind=Kind.DELIVERING,
            batch=number,
            head_before=before,
            head_after=after,
            images=images,
        )
    if batch.fate is None:
        return
    images = batch.delivering[2] if batch.delivering else 0
    yield Record(kind=Kind.FATE, batch=number, fate=batch.fate, images=images, status=batch.status)
    for _ in range(batch.raw_attempts):
        yield Record(kind=Kind.RAW, batch=number, raw=Raw.STARTED)
    before, after, images = batch.raw_plan or (0, 0, 0)
    if batch.raw_attempts and batch.raw is not Raw.STARTED:
        yield Record(
            kind=Kind.RAW,
            batch=number,
            raw=batch.raw,
            head_before=before,
            head_after=after,
            images=images,
        )


def encode_record(record: Record) -> bytes:
    """Return the bytes of a record. Raises MisuseError if it is too long."""
    body = b""
    if record.kind is Kind.TAKEN:
        body = record.message
    elif record.kind is Kind.REPLAY:
        body = _REPLAY.pack(record.source, record.is_discard) + record.message
    elif record.kind is Kind.RAW:
        body = _RAW.pack(record.raw, record.head_before, record.head_after, record.images)
    elif record.kind is Kind.STARTED:
        body = _STARTED.pack(record.device, record.inode)
    elif record.kind is Kind.DELIVERING:
        body = _DELIVERING.pack(record.head_before, record.head_after, record.images)
    elif record.kind is Kind.FATE:
        body = _FATE.pack(record.fate, record.status, record.images)
    elif record.kind is Kind.TOTALS:
        body = _TOTALS.pack(*(getattr(record.totals, name) for name in _TOTALS_FIELDS))
    payload = _HEAD.pack(record.kind, record.batch) + body
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise MisuseError(f"journal record of {len(payload)} bytes")
    return _FRAME.pack(_MARKER, len(payload), crc32c(payload)) + payload


def decode_record(data: bytes | memoryview, offset: int) -> tuple[Record, int]:
    """Parse the record at `offset`; return it and the offset after it. Raises ContentError."""
    start = offset + _FRAME.size
    if start > len(data):
        raise ContentError(f"journal ends at {offset}")
    marker, length, checksum = _FRAME.unpack_from(data, offset)
    payload = bytes(data[start : start + length])
    if marker != _MARKER or length > PAYLOAD_MAX_BYTES or len(payload) < length:
        raise ContentError(f"no journal record at {offset}")
    if crc32c(payload) != checksum:
        raise ContentError(f"checksum of the journal record at {offset}")
    try:
        return _decode_payload(payload), start + length
    except (struct.error, ValueError) as error:
        raise ContentError(f"journal record at {offset}: {error}") from error


def _decode_payload(payload: bytes) -> Record:
    number, batch = _HEAD.unpack_from(payload)
    kind, body = Kind(number), payload[_HEAD.size :]
    if kind is Kind.TAKEN:
        return Record(kind=kind, batch=batch, message=body)
    if kind is Kind.REPLAY:
        source, is_discard = _REPLAY.unpack_from(body)
        return Record(
            kind=kind,
            batch=batch,
            message=body[_REPLAY.size :],
            source=source,
            is_discard=bool(is_discard),
        )
    if kind is Kind.RAW:
        step, before, after, images = _RAW.unpack(body)
        return Record(
            kind=kind,
            batch=batch,
            raw=Raw(step),
            head_before=before,
            head_after=after,
            images=images,
        )
    if kind is Kind.STARTED:
        device, inode = _STARTED.unpack(body)
        return Record(kind=kind, batch=batch, device=device, inode=inode)
    if kind is Kind.DELIVERING:
        before, after, images = _DELIVERING.unpack(body)
        return Record(kind=kind, batch=batch, head_before=before, head_after=after, images=images)
    if kind is Kind.FATE:
        fate, status, images = _FATE.unpack(body)
        return Record(kind=kind, batch=batch, fate=Fate(fate), status=status, images=images)
    if kind is Kind.TOTALS:
        totals = Totals(**dict(zip(_TOTALS_FIELDS, _TOTALS.unpack(body), strict=True)))
        return Record(kind=kind, batch=batch, totals=totals)
    return Record(kind=kind, batch=batch)


def scan(data: bytes) -> tuple[list[Record], int, int]:
    """Return the records of a journal, the offset after the last one, and the bytes skipped.

    A damaged record in the middle is skipped to the next marker that starts a valid one; what
    follows the last valid record is a torn tail.
    """
    records: list[Record] = []
    offset = end = len(FILE_MAGIC)
    skipped = 0
    marker = _MARKER.to_bytes(2, "little")
    while offset < len(data):
        try:
            record, after = decode_record(data, offset)
        except ContentError:
            offset = data.find(marker, offset + 1)
            if offset < 0:
                break
            continue
        skipped += offset - end
        records.append(record)
        offset = end = after
    return records, end, skipped
