"""The quarantine: bounded, oldest first, readable after a kill."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from dipp.errors import ContentError
from dipp.quarantine import PIECE_BYTES, Quarantine, Verdict, decode_header, encode_header


def verdict(batch: int = 1) -> Verdict:
    return Verdict(
        batch=batch,
        status=600102,
        attempts=1,
        time_unix=1e9,
        message=b"m" * 88,
        reason="died by SIGSEGV",
    )


class Box:
    """A quarantine and what it reported as evicted."""

    def __init__(self, directory: Path, limit: int = 10_000, evicted_through: int = 0) -> None:
        self.evicted: list[int] = []
        self.quarantine = Quarantine(
            directory,
            limit_bytes=limit,
            on_evict=self.evicted.append,
            evicted_through=evicted_through,
            durable=False,
        )

    def store(self, batch: int, payload: bytes) -> int:
        read = lambda offset, size: payload[offset : offset + size]  # noqa: E731
        return sum(1 for _ in self.quarantine.store(verdict(batch), len(payload), read))

    @property
    def batches(self) -> list[int]:
        return [entry.verdict.batch for entry in self.quarantine.entries()]


def test_header_round_trip_and_damage() -> None:
    header = encode_header(verdict(), 12345)
    assert decode_header(header + b"payload") == (verdict(), len(header), 12345)
    for length in range(len(header)):
        with pytest.raises(ContentError):
            decode_header(header[:length])
    for bit in range(len(header) * 8):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ContentError):
            decode_header(bytes(flipped))


def test_the_original_bytes_are_kept(tmp_path: Path) -> None:
    box = Box(tmp_path / "q", limit=PIECE_BYTES * 3)
    payload = os.urandom(PIECE_BYTES + 5)
    assert box.store(1, payload) == 2
    (entry,) = box.quarantine.entries()
    assert entry.verdict == verdict()
    data = entry.path.read_bytes()
    assert data[entry.payload_offset :] == payload
    assert entry.payload_bytes == len(payload)
    assert box.quarantine.bytes_used == len(data)
    assert entry.path.stat().st_mode & 0o777 == 0o600


def test_a_batch_without_segment_is_kept_as_its_message(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.store(4, b"") == 0
    assert box.batches == [4]


def test_bytes_that_vanished_meanwhile_are_zeros(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for _ in box.quarantine.store(verdict(), 10, lambda offset, size: b"abc"):
        pass
    assert next(box.quarantine.entries()).path.read_bytes().endswith(b"abc" + bytes(7))


def test_the_oldest_go_first_and_are_reported(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for batch in range(1, 6):
        box.store(batch, bytes(3000))
    assert box.batches == [3, 4, 5]
    assert box.evicted == [1, 2]
    assert box.quarantine.bytes_used <= 10_000


def test_what_is_larger_than_all_room_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.store(1, b"x")
    with pytest.raises(ContentError):
        box.store(2, bytes(10_000))
    assert box.batches == [1]


def test_leftovers_of_a_kill_are_swept_and_the_rest_is_found_again(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.store(1, b"one")
    box.store(2, b"two")
    writing = box.quarantine.store(verdict(3), 3, lambda offset, size: b"333")
    next(writing)
    (tmp_path / "notes.txt").write_text("the operator's own")
    again = Box(tmp_path)
    assert again.batches == [1, 2]
    assert again.quarantine.count == 2
    assert not list(tmp_path.glob("*.part"))
    assert (tmp_path / "notes.txt").exists()


def test_a_file_whose_eviction_was_already_counted_goes_on_opening(tmp_path: Path) -> None:
    Box(tmp_path).store(1, b"one")
    Box(tmp_path).store(2, b"two")
    box = Box(tmp_path, evicted_through=1)
    assert box.batches == [2]
    assert box.evicted == []


def test_a_full_disk_evicts_then_gives_up_cleanly(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.store(1, b"one")
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch.object(os, "write", side_effect=full), pytest.raises(ContentError):
        box.store(2, b"two")
    assert box.evicted == [1]
    assert list(tmp_path.iterdir()) == []
    box.store(3, b"three")
    assert box.batches == [3]


def test_a_damaged_file_is_left_out_not_fatal(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.store(1, b"one")
    box.store(2, b"two")
    path = next(box.quarantine.entries()).path
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    assert box.batches == [2]
