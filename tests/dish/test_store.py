"""Slots of both store kinds, the file they are kept in, and its damage."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from csp.statelock import StateInUse
from dish.asm import assemble_one
from dish.errors import DecodeError, MisuseError, StoreError
from dish.profile import PROFILES, Profile
from dish.program import NOOP, Procedure
from dish.storage import ProcedureFile
from dish.store import Store, decode_image, encode_image

ONE = Procedure(instructions=(NOOP,))
EMPTY = Procedure()


def test_dynamic_store():
    store = Store(PROFILES["default"])
    store.push(0, EMPTY)
    store.push(255, ONE)
    assert store.occupied() == [0, 255]
    assert store.fetch(0) == EMPTY
    with pytest.raises(StoreError):
        store.push(0, ONE)
    with pytest.raises(StoreError):
        store.pull(7)
    assert store.fetch(7) is None
    assert store.delete(255) is True
    assert store.delete(255) is False
    assert store.delete(4000) is False
    assert store.occupied() == [0]


def test_static_store():
    store = Store(PROFILES["m7"], natives=(3,))
    store.push(25, ONE)
    store.push(50, ONE)
    assert store.occupied() == [3, 25, 50]
    store.push(26, EMPTY)
    assert store.occupied() == [3, 25, 50]
    assert store.fetch(26) is None
    assert store.pull(30) == EMPTY
    store.push(26, ONE)
    for slot in (24, 51, 3, -1):
        with pytest.raises(StoreError):
            store.push(slot, ONE)
        with pytest.raises(StoreError):
            store.pull(slot)
    with pytest.raises(StoreError):
        store.push(27, Procedure(instructions=(NOOP,) * 51))


def test_natives_live_in_reserved_slots():
    with pytest.raises(StoreError):
        Store(PROFILES["m7"], natives=(25,))
    with pytest.raises(StoreError):
        Store(PROFILES["default"], natives=(0,))


def test_a_push_that_is_not_admitted_or_not_durable_changes_nothing():
    def refuse(*_):
        raise StoreError("no")

    for store in (
        Store(PROFILES["default"], admit=refuse),
        Store(PROFILES["default"], persist=refuse),
    ):
        with pytest.raises(StoreError):
            store.push(1, ONE)
        assert store.occupied() == []


def test_a_delete_that_is_not_durable_is_tried_again():
    disk = []
    broken = [True]

    def persist(procedures):
        if broken[0]:
            raise StoreError("disk full")
        disk.append(procedures)

    store = Store(PROFILES["default"], persist=persist)
    store.load({1: ONE})
    assert store.delete(1)
    assert (store.occupied(), store.unsaved) == ([], True)
    store.save()
    broken[0] = False
    store.save()
    store.save()
    assert (disk, store.unsaved) == ([{}], False)


def test_loading_refuses_what_the_profile_does_not_allow():
    store = Store(PROFILES["m7"])
    long = Procedure(instructions=(NOOP,) * 51)
    assert store.load({24: ONE, 25: ONE, 51: ONE, 30: long}) == [24, 51, 30]
    assert store.occupied() == [25]


def test_profiles_are_checked():
    for bad in ({"max_slot": 256}, {"reserved": -1}, {"max_instructions": 0}, {"max_runs": 0}):
        with pytest.raises(MisuseError):
            Profile(name="x", **bad)


PROCEDURES = {25: assemble_one("set a 1\nblock a == b 9"), 30: EMPTY, 31: ONE}


def test_image_round_trip_and_every_damage_is_noticed():
    image = encode_image(PROCEDURES)
    assert decode_image(image) == PROCEDURES
    for length in range(len(image)):
        with pytest.raises(DecodeError):
            decode_image(image[:length])
    for bit in range(8 * len(image)):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            decode_image(bytes(damaged))


def test_file_falls_back_to_the_previous_copy(tmp_path):
    file = ProcedureFile(tmp_path / "deep" / "procedures")
    assert file.load().procedures == {}
    file.save({25: ONE})
    file.save(PROCEDURES)
    assert file.load().procedures == PROCEDURES
    path = tmp_path / "deep" / "procedures"
    path.write_bytes(path.read_bytes()[:-1])
    loaded = file.load()
    assert loaded.procedures == {25: ONE}
    assert "procedures" in loaded.problem
    # A damaged file must not replace the good previous copy.
    file.save({26: ONE})
    path.write_bytes(b"junk")
    assert file.load().procedures == {25: ONE}


_WRITER = """
import sys
from pathlib import Path
from dish.program import NOOP, Procedure
from dish.storage import ProcedureFile
file = ProcedureFile(Path(sys.argv[1]))
print("go", flush=True)
turn = 0
while True:
    turn += 1
    file.save({slot: Procedure(instructions=(NOOP,) * (turn % 40)) for slot in range(25, 50)})
"""


def test_a_kill_during_a_save_leaves_a_complete_set(tmp_path):
    path = tmp_path / "procedures"
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        process.stdout.readline()
        # Some saves later: how many depends on the machine, and any instant must do.
        while not path.exists():
            pass
        for _ in range(3000 * turn):
            pass
        process.kill()
        process.wait()
        process.stdout.close()
        loaded = ProcedureFile(path).load()
        lengths = {len(procedure) for procedure in loaded.procedures.values()}
        assert (len(loaded.procedures), len(lengths)) == (25, 1)
        assert loaded.problem == ""


def test_a_file_belongs_to_one_node_until_it_is_closed(tmp_path):
    first, second = ProcedureFile(tmp_path / "procedures"), ProcedureFile(tmp_path / "procedures")
    first.claim()
    first.claim()
    with pytest.raises(StateInUse, match=rf"in use by another node \(process {os.getpid()}\)"):
        second.claim()
    first.close()
    first.close()
    second.claim()
    second.close()
