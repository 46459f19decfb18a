"""The journal: folding, damage at every byte, kills in the middle of a compaction."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipp.errors import ContentError, MisuseError
from dipp.journal import Journal
from dipp.records import (
    FILE_MAGIC,
    Fate,
    Kind,
    Record,
    State,
    Totals,
    decode_record,
    encode_record,
    scan,
)

RECORDS = [
    Record(kind=Kind.TAKEN, batch=1, message=b"hello"),
    Record(kind=Kind.STARTED, batch=1, device=7, inode=2**40),
    Record(kind=Kind.DELIVERING, batch=1, head_before=499_999, head_after=1, images=2),
    Record(kind=Kind.FATE, batch=1, fate=Fate.DELIVERED, images=2),
    Record(kind=Kind.CLEANED, batch=1),
    Record(kind=Kind.TAKEN, batch=2, message=b"\0" * 128),
    Record(kind=Kind.STARTED, batch=2),
    Record(kind=Kind.FATE, batch=2, fate=Fate.QUARANTINED, status=600102),
    Record(kind=Kind.TAKEN, batch=3, message=b""),
    Record(kind=Kind.EVICTED, batch=2),
]
TOTALS = Record(
    kind=Kind.TOTALS,
    batch=9,
    totals=Totals(taken=6, delivered=3, quarantined=2, dropped=1, images=2**40, evicted_through=4),
)


def fold(records: list[Record]) -> State:
    state = State()
    for record in records:
        state.apply(record)
    return state


@pytest.mark.parametrize("record", [*RECORDS, TOTALS], ids=lambda r: r.kind.name)
def test_records_round_trip_and_every_damage_is_noticed(record: Record) -> None:
    data = encode_record(record)
    assert decode_record(b"xx" + data + b"yy", 2) == (record, 2 + len(data))
    damaged = [data[:n] for n in range(len(data))]
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for bad in damaged:
        with pytest.raises(ContentError):
            decode_record(bad, 0)


@given(st.binary(max_size=64))
def test_garbage_is_never_more_than_skipped(data: bytes) -> None:
    records, _, _ = scan(FILE_MAGIC + data)
    assert records == [] or data.startswith(b"\xd1\xb5")


def test_the_totals_always_add_up() -> None:
    state = State()
    for record in RECORDS:
        state.apply(record)
        totals = state.totals
        unfinished = sum(batch.fate is None for batch in state.open.values())
        ended = totals.delivered + totals.quarantined + totals.dropped
        assert totals.taken == ended + unfinished
    assert (state.totals.delivered, state.totals.quarantined, state.totals.dropped) == (1, 0, 1)
    assert list(state.open) == [2, 3]


@pytest.mark.parametrize(
    "record",
    [
        Record(kind=Kind.FATE, batch=2, fate=Fate.DELIVERED),
        Record(kind=Kind.STARTED, batch=2),
        Record(kind=Kind.FATE, batch=1, fate=Fate.DROPPED),
        Record(kind=Kind.CLEANED, batch=1),
        Record(kind=Kind.TAKEN, batch=3),
        Record(kind=Kind.TAKEN, batch=1),
    ],
    ids=["second fate", "start after fate", "fate of closed", "cleaned twice", "same", "older"],
)
def test_a_record_that_cannot_follow_is_refused(record: Record) -> None:
    with pytest.raises(MisuseError):
        fold(RECORDS).apply(record)


def test_an_eviction_counts_once() -> None:
    state = fold(RECORDS)
    before = state.totals
    state.apply(Record(kind=Kind.EVICTED, batch=2))
    assert state.totals == before


@pytest.mark.parametrize("count", range(len(RECORDS) + 1))
def test_a_snapshot_folds_to_the_same_state(count: int) -> None:
    state = fold(RECORDS[:count])
    assert fold(list(state.snapshot())) == state


def test_reopening_at_every_length_gives_a_prefix_and_appends_go_on(tmp_path: Path) -> None:
    whole = FILE_MAGIC + b"".join(map(encode_record, RECORDS))
    ends = [len(FILE_MAGIC)]
    for record in RECORDS:
        ends.append(ends[-1] + len(encode_record(record)))
    for length in range(0, len(whole) + 1, 3):
        path = tmp_path / "journal"
        path.write_bytes(whole[:length])
        complete = max(sum(end <= length for end in ends) - 1, 0)
        journal = Journal(path, durable=False)
        assert journal.state == fold(RECORDS[:complete])
        journal.append(Record(kind=Kind.TAKEN, batch=100))
        journal.close()
        journal = Journal(path, durable=False)
        assert 100 in journal.state.open
        journal.close()


def test_a_flipped_bit_in_the_middle_loses_one_record_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    parts = [FILE_MAGIC, *map(encode_record, RECORDS)]
    parts[5] = b"\xff" * len(parts[5])
    path.write_bytes(b"".join(parts))
    journal = Journal(path)
    assert journal.damaged_bytes == len(parts[5])
    assert journal.state.last_batch == 3
    assert journal.state.totals == fold(RECORDS).totals
    journal.close()


@pytest.mark.parametrize("content", [b"", b"DIPP", b"something else entirely" * 100])
def test_a_file_without_a_journal_in_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    journal = Journal(path)
    journal.append(RECORDS[0])
    journal.close()
    assert Journal(path).state == fold(RECORDS[:1])


def test_compaction_keeps_the_state_and_bounds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, durable=False, compact_bytes=2000)
    for batch in range(1, 201):
        journal.append(Record(kind=Kind.TAKEN, batch=batch, message=b"m" * 88))
        journal.append(Record(kind=Kind.STARTED, batch=batch))
        journal.append(Record(kind=Kind.FATE, batch=batch, fate=Fate.DELIVERED, images=3))
        journal.append(Record(kind=Kind.CLEANED, batch=batch))
    state = journal.state
    journal.close()
    assert path.stat().st_size < 4000
    assert state.totals == Totals(taken=200, delivered=200, images=600)
    again = Journal(path, durable=False)
    assert again.state == state
    again.close()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_compaction_that_fails_changes_nothing(data: st.DataObject) -> None:
    import tempfile
    from unittest import mock

    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory) / "journal", durable=False, compact_bytes=64)
        failing = data.draw(st.sampled_from(["replace", "fsync", "open"]))
        with mock.patch.object(os, failing, side_effect=OSError(28, "No space left on device")):
            for record in RECORDS:
                journal.append(record)
        assert journal.compact_failures > 0
        state = journal.state
        journal.close()
        assert Journal(Path(directory) / "journal", durable=False).state == state


def test_a_record_that_could_not_be_written_is_not_applied(tmp_path: Path) -> None:
    from unittest import mock

    journal = Journal(tmp_path / "journal")
    with (
        mock.patch.object(os, "pwrite", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        journal.append(RECORDS[0])
    assert journal.state == State()
    journal.append(RECORDS[0])
    journal.close()


def test_the_journal_has_its_room_in_advance(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", compact_bytes=100_000)
    assert (tmp_path / "journal").stat().st_blocks * 512 >= 100_000
    journal.close()
