"""The mirror against a model ring: each element once, whatever happens to DIPP or the radio."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.crc import crc32c
from csp.errors import DecodeError, NoResponse
from csp.sched import Scheduler
from sim.mirror import LOOK_BYTES, Bounds, Look, Mirror, MirrorState, Progress

_ENTRIES = 64


class _ModelRing:
    """A ring in memory that behaves as DIPP's: slots go round, old elements go."""

    def __init__(self, capacity: int = 10) -> None:
        self.capacity = capacity
        self.tail = self.head = 0
        self.at: dict[int, tuple[int, bytes]] = {}
        self.end = 0
        self.away = False
        self.evict_during_download = 0
        self.damage = 0
        self.asked = 0

    def append(self, element: bytes) -> None:
        self.at[self.head] = (self.end, element)
        self.end = (self.end + len(element)) % 100_000
        self.head = (self.head + 1) % _ENTRIES
        while (self.head - self.tail) % _ENTRIES > self.capacity:
            self.evict()

    def evict(self) -> None:
        self.tail = (self.tail + 1) % _ENTRIES

    def _answer(self) -> None:
        self.asked += 1
        if self.away:
            raise NoResponse("away")

    async def bounds(self) -> Bounds:
        self._answer()
        return Bounds(tail=self.tail, head=self.head, entries=_ENTRIES)

    async def look(self, slot: int) -> Look:
        self._answer()
        start, element = self.at.get(slot, (0, b""))
        first = element[:LOOK_BYTES]
        return Look(
            start=start,
            end=(start + len(element)) % 100_000,
            first_bytes=len(first),
            first_crc=crc32c(first),
        )

    async def download(self, position: int) -> bytes:
        self._answer()
        element = self.at[(self.tail + position) % _ENTRIES][1]
        if self.evict_during_download:
            self.evict_during_download -= 1
            self.evict()
        if self.damage:
            self.damage -= 1
            return b"\xff" + element[1:]
        return element


class _ModelStore:
    """Elements and progress, committed together; survives the mirror."""

    def __init__(self) -> None:
        self.elements: list[bytes] = []
        self.progress: Progress | None = None
        self.limit = 10_000

    def append(self, element: bytes, progress: Progress) -> None:
        self.elements.append(element)
        self.progress = progress

    def note(self, progress: Progress) -> None:
        self.progress = progress

    def holds(self, element: bytes) -> bool:
        return element in self.elements

    def fits(self, size: int) -> bool:
        return len(self.elements) < self.limit


def _check(element: bytes) -> None:
    if not element.startswith(b"picture"):
        raise DecodeError("not a picture")


def _element(number: int, size: int = 400) -> bytes:
    return (f"picture {number} ".encode() * size)[:size]


class _Rig:
    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.ring, self.store = _ModelRing(), _ModelStore()
        self.mirror = self._start()

    def _start(self) -> Mirror:
        return Mirror(self.scheduler, self.ring, self.store, 1.0, _check)

    def wait(self, duration_s: float = 5.0) -> None:
        self.scheduler.advance(self.scheduler.now)
        end = self.scheduler.now + duration_s
        while (deadline := self.scheduler.next_deadline()) is not None and deadline <= end:
            self.scheduler.advance(deadline)
        self.scheduler.advance(end)

    def restart_radio(self) -> None:
        self.mirror.stop()
        self.mirror = self._start()

    def new_ring(self) -> None:
        old, self.ring = self.ring, _ModelRing()
        self.mirror._source = self.ring
        assert old is not self.ring


def test_new_elements_are_copied_in_order_and_once() -> None:
    rig = _Rig()
    for number in range(25):
        rig.ring.append(_element(number))
        rig.wait(1.5)
    assert rig.store.elements == [_element(n) for n in range(25)]
    assert rig.mirror.state is MirrorState.IDLE
    assert rig.mirror.counters.missed == 0


def test_slots_go_round() -> None:
    rig = _Rig()
    for number in range(3 * _ENTRIES):
        rig.ring.append(_element(number))
        rig.wait(1.0)
    assert rig.store.elements == [_element(n) for n in range(3 * _ENTRIES)]


def test_a_restart_of_the_radio_repeats_and_loses_nothing() -> None:
    rig = _Rig()
    for number in range(12):
        rig.ring.append(_element(number))
        rig.wait(0.7)
        rig.restart_radio()
    rig.wait()
    assert rig.store.elements == [_element(n) for n in range(12)]


def test_dipp_may_be_away_and_comes_back_with_the_same_ring() -> None:
    rig = _Rig()
    rig.ring.append(_element(0))
    rig.wait()
    rig.ring.away = True
    rig.wait(30.0)
    assert rig.mirror.state is MirrorState.AWAY
    asked = rig.ring.asked
    rig.wait(30.0)
    assert rig.ring.asked - asked <= 11
    rig.ring.away = False
    rig.ring.append(_element(1))
    rig.wait(10.0)
    assert rig.store.elements == [_element(0), _element(1)]
    assert rig.mirror.counters.resyncs == 0


def test_what_went_before_it_could_be_copied_is_counted() -> None:
    rig = _Rig()
    rig.ring.append(_element(0))
    rig.wait()
    rig.ring.away = True
    for number in range(1, 16):
        rig.ring.append(_element(number))
    rig.wait()
    rig.ring.away = False
    rig.wait(10.0)
    assert rig.store.elements == [_element(0), *(_element(n) for n in range(6, 16))]
    assert rig.mirror.counters.missed == 5


@pytest.mark.parametrize("count", [1, 3, 8])
def test_another_ring_is_noticed_and_known_elements_are_left_out(count: int) -> None:
    rig = _Rig()
    for number in range(5):
        rig.ring.append(_element(number))
    rig.wait()
    rig.ring.away = True
    rig.wait()
    rig.new_ring()
    # The same element as before, then new ones: fewer, as many, and more than were there.
    for number in [4, *range(20, 20 + count)]:
        rig.ring.append(_element(number))
    rig.wait(10.0)
    assert rig.store.elements == [
        *(_element(n) for n in range(5)),
        *(_element(n) for n in range(20, 20 + count)),
    ]
    assert rig.mirror.counters.resyncs == 1
    assert rig.mirror.counters.duplicates == 1
    rig.ring.append(_element(4))
    rig.wait()
    assert rig.store.elements[-1] == _element(4), "after the resync all is new again"


def test_a_kill_during_a_resync_goes_on_comparing() -> None:
    rig = _Rig()
    for number in range(3):
        rig.ring.append(_element(number))
    rig.wait()
    rig.store.progress = None
    rig.ring.download = _fail_after(rig.ring, 2)  # type: ignore[method-assign]
    rig.restart_radio()
    rig.wait(0.5)
    assert rig.mirror.counters.duplicates == 2
    del rig.ring.download
    rig.restart_radio()
    rig.wait()
    assert rig.store.elements == [_element(n) for n in range(3)]


def _fail_after(ring: _ModelRing, count: int):  # type: ignore[no-untyped-def]
    plain, left = type(ring).download, [count]

    async def download(position: int) -> bytes:
        if not left[0]:
            raise NoResponse("gone")
        left[0] -= 1
        return await plain(ring, position)

    return download


def test_eviction_during_the_download_is_noticed() -> None:
    rig = _Rig()
    for number in range(5):
        rig.ring.append(_element(number))
    rig.ring.evict_during_download = 2
    rig.wait()
    # The first download saw its own element go, the second that of the next one's predecessor.
    assert rig.store.elements == [_element(n) for n in range(2, 5)]
    assert rig.mirror.counters.missed == 2


def test_bytes_damaged_on_the_bus_are_fetched_again() -> None:
    rig = _Rig()
    rig.ring.append(_element(0))
    rig.ring.damage = 2
    rig.wait()
    assert rig.store.elements == [_element(0)]
    assert rig.mirror.counters.broken == 0


def test_what_is_no_picture_is_left_out_and_does_not_block() -> None:
    rig = _Rig()
    rig.ring.append(b"garbage" * 100)
    rig.ring.append(_element(1))
    rig.wait()
    assert rig.store.elements == [_element(1)]
    assert rig.mirror.counters.broken == 1


def test_a_full_store_waits_and_goes_on() -> None:
    rig = _Rig()
    rig.store.limit = 1
    for number in range(3):
        rig.ring.append(_element(number))
    rig.wait()
    assert rig.mirror.state is MirrorState.FULL
    assert rig.mirror.counters.waiting == 2
    rig.store.limit = 10
    rig.wait()
    assert rig.store.elements == [_element(n) for n in range(3)]
    assert rig.mirror.counters.waiting == 0


def test_a_disk_that_fails_is_told_apart_and_tried_again() -> None:
    rig = _Rig()
    plain = rig.store.append

    def full(element: bytes, progress: Progress) -> None:
        raise OSError(28, "No space left on device")

    rig.store.append = full  # type: ignore[method-assign]
    rig.ring.append(_element(0))
    rig.wait()
    assert rig.mirror.state is MirrorState.STORE_FAULT
    assert rig.mirror.counters.store_faults >= 1
    rig.store.append = plain  # type: ignore[method-assign]
    rig.wait()
    assert rig.store.elements == [_element(0)]


def test_switched_off_it_stays_off_the_bus() -> None:
    rig = _Rig()
    rig.mirror.enabled = False
    rig.wait()
    asked = rig.ring.asked
    rig.ring.append(_element(0))
    rig.wait(20.0)
    assert (rig.ring.asked, rig.mirror.state) == (asked, MirrorState.OFF)
    rig.mirror.enabled = True
    rig.wait()
    assert rig.store.elements == [_element(0)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_history_gives_every_element_at_most_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    rig, number = _Rig(), 0
    for _ in range(60):
        action = rng.choice(("append", "append", "wait", "restart", "away", "race"))
        if action == "append":
            for _ in range(rng.randrange(1, 5)):
                rig.ring.append(_element(number, rng.choice((400, 400, 700))))
                number += 1
        elif action == "restart":
            rig.restart_radio()
        elif action == "away":
            rig.ring.away = not rig.ring.away
        elif action == "race":
            rig.ring.evict_during_download = min(1, rig.ring.capacity)
        rig.wait(rng.choice((0.1, 1.0, 4.0)))
    rig.ring.away, rig.ring.evict_during_download = False, 0
    rig.wait(10.0)
    numbers = [int(e.split()[1]) for e in rig.store.elements]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + rig.mirror.counters.missed <= number
    held = {e for _, e in (rig.ring.at[s % _ENTRIES] for s in _slots(rig.ring))}
    assert held <= set(rig.store.elements)


def _slots(ring: _ModelRing) -> range:
    return range(ring.tail, ring.tail + (ring.head - ring.tail) % _ENTRIES)
