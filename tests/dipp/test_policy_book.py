"""When a module is quarantined, rests, and is free again: the books, without any process."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dipp.errors import Code
from dipp.supervisor.policy import (
    BACKOFF_MAX_S,
    BACKOFF_S,
    ModuleBook,
    ModuleKey,
    Tolerance,
    is_blamed,
    may_retry,
)

KEY = ModuleKey(pipeline=1, name="a", version="v1")


def fail(book: ModuleBook, *times: float, tolerance: Tolerance | None = None) -> list[bool]:
    return [book.failed(KEY, now, tolerance or Tolerance()) for now in times]


def test_the_third_failure_within_a_minute_quarantines() -> None:
    book = ModuleBook()
    assert fail(book, 0.0, 30.0, 59.9) == [False, False, True]
    assert not book.is_usable(KEY)
    assert fail(book, 60.0) == [False], "it is said once"


@pytest.mark.parametrize("third", [60.0, 60.1, 1e6])
def test_three_failures_over_more_than_a_minute_do_not(third: float) -> None:
    book = ModuleBook()
    assert fail(book, 0.0, 30.0, third) == [False, False, False]
    assert book.is_usable(KEY)


def test_a_quarantined_module_stays_so_until_it_is_rearmed() -> None:
    book = ModuleBook()
    fail(book, 0.0, 1.0, 2.0)
    assert not book.is_usable(KEY)
    assert book.rearm(2) == 0
    assert not book.is_usable(KEY)
    assert book.rearm(1) == 1
    assert book.is_usable(KEY)
    assert book.wait_s(KEY, 2.0) == 0.0
    assert fail(book, 3.0, 4.0, 5.0) == [False, False, True], "it starts from nothing"
    assert book.rearm() == 1


def test_another_version_or_setting_is_another_module() -> None:
    book = ModuleBook()
    fail(book, 0.0, 1.0, 2.0)
    assert book.is_usable(ModuleKey(pipeline=1, name="a", version="v2"))
    assert book.is_usable(ModuleKey(pipeline=2, name="a", version="v1"))


@pytest.mark.parametrize(("limit", "tripping"), [(0, None), (1, 0), (2, 1), (5, 4)])
def test_the_limit_is_the_operators(limit: int, tripping: int | None) -> None:
    told = fail(ModuleBook(), *range(10), tolerance=Tolerance(failures=limit))
    assert [i for i, tripped in enumerate(told) if tripped] == (
        [] if tripping is None else [tripping]
    )


def test_a_module_rests_longer_after_each_failure_in_a_row_up_to_a_cap() -> None:
    book, never = ModuleBook(), Tolerance(failures=0)
    waits = []
    for now in range(0, 800, 100):
        fail(book, float(now), tolerance=never)
        waits.append(book.wait_s(KEY, float(now)))
    assert waits[:3] == pytest.approx([BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S])
    assert waits[-1] == pytest.approx(BACKOFF_MAX_S)
    assert book.wait_s(KEY, 700.0 + BACKOFF_MAX_S) == 0.0
    book.succeeded(KEY)
    assert book.wait_s(KEY, 700.0) == 0.0
    fail(book, 900.0, tolerance=never)
    assert book.wait_s(KEY, 900.0) == pytest.approx(BACKOFF_S)


def test_a_success_does_not_hide_the_failures_around_it() -> None:
    book = ModuleBook()
    fail(book, 0.0, 1.0)
    book.succeeded(KEY)
    assert fail(book, 2.0) == [True]


@pytest.mark.parametrize(
    ("code", "blamed", "retried"),
    [
        (Code.SIGNAL, True, False),
        (Code.EXIT_WITHOUT_CODE, True, False),
        (Code.RESULT_INVALID, True, False),
        (708, True, False),
        (Code.TIMEOUT, True, True),
        (Code.MALLOC, True, True),
        (Code.PIPE_CREATE, False, True),
        (Code.OPERATOR_STOP, False, False),
        (Code.NODE_DIED, False, False),
        (Code.MODULE_QUARANTINED, False, False),
    ],
)
def test_what_a_code_says(code: int, blamed: bool, retried: bool) -> None:
    assert is_blamed(code, 1) is blamed
    assert not is_blamed(code, 0), "no module, no blame"
    assert may_retry(code, 0, Tolerance()) is retried
    assert not may_retry(code, 1, Tolerance()), "once"
    assert not may_retry(code, 0, Tolerance(retries=0))


@settings(max_examples=200)
@given(st.lists(st.floats(0, 50), max_size=30), st.integers(1, 5), st.floats(1, 100))
def test_it_trips_exactly_when_so_many_lie_within_the_period(
    gaps: list[float], limit: int, period_s: float
) -> None:
    """Against the definition, computed over the whole history."""
    book, times, now = ModuleBook(), [], 0.0
    tolerance = Tolerance(failures=limit, period_s=period_s)
    tripped = False
    for gap in gaps:
        now += gap
        times.append(now)
        told = book.failed(KEY, now, tolerance)
        due = sum(t > now - period_s for t in times) >= limit
        assert told == (due and not tripped)
        tripped = tripped or due
        assert book.is_usable(KEY) == (not tripped)


class Book(RuleBasedStateMachine):
    """Against a model that remembers everything."""

    keys = st.builds(
        ModuleKey, pipeline=st.integers(1, 3), name=st.sampled_from("ab"), version=st.just("v")
    )

    def __init__(self) -> None:
        super().__init__()
        self.book = ModuleBook()
        self.now = 0.0
        self.failures: dict[ModuleKey, list[float]] = {}
        self.out: set[ModuleKey] = set()

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=keys)
    def fail(self, key: ModuleKey) -> None:
        self.failures.setdefault(key, []).append(self.now)
        recent = [t for t in self.failures[key] if t > self.now - 60]
        told = self.book.failed(key, self.now, Tolerance())
        assert told == (len(recent) >= 3 and key not in self.out)
        if len(recent) >= 3:
            self.out.add(key)

    @rule(key=keys)
    def succeed(self, key: ModuleKey) -> None:
        self.book.succeeded(key)

    @rule(pipeline=st.one_of(st.none(), st.integers(1, 3)))
    def rearm(self, pipeline: int | None) -> None:
        freed = {key for key in self.out if pipeline in (None, key.pipeline)}
        assert self.book.rearm(pipeline) == len(freed)
        self.out -= freed
        for key in [key for key in self.failures if pipeline in (None, key.pipeline)]:
            del self.failures[key]

    @invariant()
    def usable_is_as_the_model_says(self) -> None:
        for key in self.failures:
            assert self.book.is_usable(key) == (key not in self.out)
            assert 0 <= self.book.wait_s(key, self.now) <= BACKOFF_MAX_S + 1e-6


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=40, stateful_step_count=30)


def test_the_book_is_bounded_and_keeps_the_quarantined() -> None:
    book = ModuleBook()
    fail(book, 0.0, 1.0, 2.0)
    for number in range(5000):
        book.failed(ModuleKey(pipeline=1, name=f"m{number}", version="v"), 3.0, Tolerance())
    assert not book.is_usable(KEY)
    assert book.rearm() == 1
