"""The store on disk: what a kill at any write leaves behind, and damage to its files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from csp.crc import crc32c
from csp.statelock import StateInUse
from dipp.errors import DippError, MisuseError
from sim.mirror import Look, Progress
from sim.store import NOTE_FILE, RING_FILE, ObservationStore

_LOOK = Look(start=0, end=10, first_bytes=10, first_crc=1)


def _progress(slot: int) -> Progress:
    return Progress(next_slot=slot, look=_LOOK)


def _open(path: Path) -> ObservationStore:
    return ObservationStore(path, 1000, durable=False)


def test_elements_and_progress_survive(tmp_path: Path) -> None:
    store = _open(tmp_path)
    assert store.progress is None
    store.append(b"a" * 100, _progress(1))
    store.append(b"b" * 100, _progress(2))
    store.note(_progress(5))
    store.close()
    again = _open(tmp_path)
    assert again.progress == _progress(5)
    assert (again.ring.count, again.free_bytes) == (2, 800)
    assert again.holds(b"a" * 100)
    assert not again.holds(b"c" * 100)


class _KilledError(Exception):
    """Stands for a kill: nothing after it happens."""


def test_a_kill_at_any_write_leaves_old_or_new_state_together(tmp_path: Path) -> None:
    outcomes = set()
    for writes in range(12):
        directory = tmp_path / str(writes)
        store = _open(directory)
        store.append(b"a" * 100, _progress(1))
        left = [writes]
        file = store.ring._file
        plain = type(file).write

        def write(offset: int, data: bytes, left=left, file=file, plain=plain) -> None:  # type: ignore[no-untyped-def]
            if not left[0]:
                raise _KilledError
            left[0] -= 1
            plain(file, offset, data)

        file.write = write  # type: ignore[method-assign]
        with contextlib.suppress(_KilledError):
            store.append(b"b" * 100, _progress(2))
        # The descriptors of a dead process go with it, and so does its lock.
        store.close()
        again = _open(directory)
        outcome = (again.ring.count, again.progress)
        assert outcome in ((1, _progress(1)), (2, _progress(2)))
        outcomes.add(outcome)
    assert len(outcomes) == 2


def test_a_kill_before_the_ring_is_touched_repeats_the_element(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.append(b"a" * 100, _progress(1))
    store._write_note(_progress(2), store.ring.head, store.ring.head + 1)
    store.close()
    assert _open(tmp_path).progress == _progress(1)


@pytest.mark.parametrize("damage", ["", "garbage", "00000000 {}", "\x00"])
def test_a_damaged_note_makes_the_mirror_compare(tmp_path: Path, damage: str) -> None:
    store = _open(tmp_path)
    store.append(b"a" * 100, _progress(1))
    store.close()
    (tmp_path / NOTE_FILE).write_text(damage)
    again = _open(tmp_path)
    assert again.progress is None
    assert again.holds(b"a" * 100)


def test_a_note_of_another_version_makes_the_mirror_compare(tmp_path: Path) -> None:
    _open(tmp_path).close()
    for text in ("{}", '{"head_after": 0, "after": {"slot": 1}}', "[]"):
        (tmp_path / NOTE_FILE).write_text(f"{crc32c(text.encode()):08x} {text}\n")
        store = _open(tmp_path)
        assert store.progress is None
        store.close()
        store.close()


def test_a_flipped_bit_of_the_note_is_noticed(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.append(b"a" * 100, _progress(1))
    note = (tmp_path / NOTE_FILE).read_bytes()
    for bit in range(0, len(note) * 8 - 8, 11):
        damaged = bytearray(note)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / NOTE_FILE).write_bytes(damaged)
        assert store._load() is None


def test_a_damaged_ring_is_put_aside_and_everything_is_copied_again(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.append(b"a" * 100, _progress(1))
    store.close()
    with (tmp_path / RING_FILE).open("r+b") as file:
        file.write(b"\xff" * 8)
    again = _open(tmp_path)
    assert again.was_damaged
    assert (again.ring.count, again.progress) == (0, None)


def test_a_store_of_another_size_is_refused(tmp_path: Path) -> None:
    _open(tmp_path).close()
    with pytest.raises(MisuseError, match="the ring is set to"):
        ObservationStore(tmp_path, 2000)


def test_drop_policies(tmp_path: Path) -> None:
    store = _open(tmp_path)
    for number in range(12):
        store.append(bytes([number]) * 100, _progress(number))
    assert (store.ring.count, store.evicted) == (10, 2)
    assert store.fits(100)
    store.keep_oldest = True
    assert not store.fits(100)
    assert store.newest() is None


def test_a_store_belongs_to_one_radio_until_it_is_closed(tmp_path: Path) -> None:
    first = ObservationStore(tmp_path / "radio", 1000)
    with pytest.raises(StateInUse, match=f"in use by another radio \\(process {os.getpid()}\\)"):
        ObservationStore(tmp_path / "radio", 1000)
    first.close()
    first.close()
    with pytest.raises(DippError):
        ObservationStore(tmp_path / "radio", 2000)
    ObservationStore(tmp_path / "radio", 1000).close()
