"""Batches under way: never more than allowed, never more memory than the budget, none forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.sched import Promise, Scheduler
from dipp.inflight import MEMORY_PER_BYTE, InFlight


class World:
    def __init__(self, limit=2, budget_bytes=1 << 30):
        self.scheduler = Scheduler()
        self.limit, self.budget_bytes = limit, budget_bytes
        self.running: dict[int, Promise[None]] = {}
        self.in_flight = InFlight(
            self.scheduler,
            self.process,
            limit=lambda: self.limit,
            budget_bytes=lambda: self.budget_bytes,
        )

    async def process(self, number):
        self.running[number] = Promise()
        try:
            await self.running[number]
        finally:
            del self.running[number]

    def start(self, number, size_bytes=1):
        self.in_flight.start(number, size_bytes)
        self.scheduler.run_ready()

    def end(self, number):
        self.running[number].resolve(None)
        self.scheduler.run_ready()

    def waits(self, coro):
        task = self.scheduler.spawn(coro)
        self.scheduler.run_ready()
        return task


def test_as_many_as_allowed_and_then_one_has_to_end():
    world = World(limit=2)
    world.start(1)
    assert world.in_flight.has_room
    world.start(2)
    room = world.waits(world.in_flight.room())
    assert not room.done
    world.end(1)
    assert room.done
    assert sorted(world.running) == [2]


def test_the_budget_bounds_memory_but_not_a_single_batch():
    world = World(limit=9, budget_bytes=MEMORY_PER_BYTE * 100)
    world.start(1, 99)
    assert world.in_flight.has_room
    world.start(2, 1)
    assert not world.in_flight.has_room
    world.end(1)
    world.end(2)
    world.start(3, 10**9)
    assert not world.in_flight.has_room
    world.end(3)
    assert world.in_flight.has_room


def test_a_higher_limit_counts_at_once():
    world = World(limit=1)
    world.start(1)
    room = world.waits(world.in_flight.room())
    world.limit = 2
    world.in_flight.wake()
    world.scheduler.run_ready()
    assert room.done


def test_a_batch_that_fails_makes_room_and_is_reported():
    world = World(limit=1)
    world.start(1)
    world.running[1].fail(RuntimeError("ours"))
    world.scheduler.run_ready()
    assert world.in_flight.has_room
    assert [str(error) for _, error in world.scheduler.orphan_errors] == ["ours"]


def test_cancel_stops_all_and_is_no_fault():
    world = World(limit=3)
    for number in (1, 2, 3):
        world.start(number)
    drained = world.waits(world.in_flight.drained())
    world.in_flight.cancel()
    world.scheduler.run_ready()
    assert drained.done
    assert not world.running
    assert not world.scheduler.orphan_errors


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 500)), max_size=60), st.integers(1, 4))
def test_bounds_hold_whatever_begins_and_ends(steps, limit):
    world = World(limit=limit, budget_bytes=900)
    number = 0
    for begins, size in steps:
        if begins and world.in_flight.has_room:
            before = world.in_flight.memory_bytes
            number += 1
            world.start(number, size)
            assert len(world.in_flight) <= limit
            assert before < 900 or len(world.in_flight) == 1
        elif not begins and world.running:
            world.end(min(world.running))
        assert len(world.in_flight) == len(world.running)


@pytest.mark.parametrize("size", [0, -5])
def test_strange_sizes_count_as_nothing(size):
    world = World()
    world.start(1, size)
    assert world.in_flight.memory_bytes == 0
