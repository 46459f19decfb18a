"""Trials of uploaded files: who proves itself, who goes, what is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.errors import ContentError
from dipp.policy.trials import Trials, Trust, Version


def trust(trials: Trials, name: str, sha256: str) -> Trust | None:
    known = trials.get(name, sha256)
    return None if known is None else known.trust


def test_a_fresh_version_fails_after_so_many_batches() -> None:
    trials = Trials()
    assert trials.activated("a.py", "one")
    assert not trials.activated("a.py", "one"), "it is on trial already"
    assert not trials.failed("a.py", "one", 2)
    assert trials.failed("a.py", "one", 2)
    assert trust(trials, "a.py", "one") is Trust.FAILED
    assert not trials.failed("a.py", "one", 2), "once"


def test_one_success_ends_the_trial_for_good() -> None:
    trials = Trials()
    trials.activated("a.py", "one")
    trials.failed("a.py", "one", 2)
    assert trials.succeeded("a.py", "one")
    assert not trials.succeeded("a.py", "one")
    assert not any(trials.failed("a.py", "one", 2) for _ in range(5))
    assert not trials.activated("a.py", "one"), "also when it comes back by a rollback"
    assert list(trials.on_trial()) == []


def test_a_failed_version_put_in_place_again_gets_a_new_trial() -> None:
    trials = Trials()
    trials.activated("a.py", "one")
    trials.failed("a.py", "one", 1)
    assert trials.activated("a.py", "one")
    assert trials.get("a.py", "one") == Version(name="a.py", sha256="one")


def test_a_limit_of_zero_lets_everything_fail() -> None:
    trials = Trials()
    trials.activated("a.py", "one")
    assert not any(trials.failed("a.py", "one", 0) for _ in range(300))


def test_what_nobody_put_on_trial_is_not_judged() -> None:
    trials = Trials()
    assert not trials.failed("a.py", "one", 1)
    assert not trials.succeeded("a.py", "one")


def test_memory_is_bounded() -> None:
    trials = Trials()
    for number in range(1000):
        trials.activated("a.py", f"version{number}")
        trials.activated(f"b{number}.py", "one")
    assert len(list(trials.on_trial())) <= 260
    assert trials.get("a.py", "version999") is not None


_operations = st.lists(
    st.tuples(
        st.sampled_from(["activated", "succeeded", "failed"]),
        st.sampled_from(["a.py", "b.tflite"]),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=30,
)


@given(_operations)
def test_the_record_round_trips(operations: list[tuple[str, str, str]]) -> None:
    trials = Trials()
    for what, name, sha256 in operations:
        arguments = (name, sha256, 2) if what == "failed" else (name, sha256)
        getattr(trials, what)(*arguments)
    again = Trials.decode(trials.encode())
    assert again.encode() == trials.encode()
    assert list(again.on_trial()) == list(trials.on_trial())


def test_every_truncation_and_bit_flip_is_a_record_or_a_named_error() -> None:
    trials = Trials()
    trials.activated("a.py", "one")
    data = trials.encode()
    damaged = [data[:end] for end in range(len(data))]
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    refused = 0
    for each in damaged:
        try:
            Trials.decode(each)
        except ContentError:
            refused += 1
    assert refused > len(data), "every truncation at least"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"versions": 3}',
        b'{"versions": [[1, 2, "trial", 0]]}',
        b'{"versions": [["a", "b", "loved", 0]]}',
    ],
)
def test_other_content_is_a_named_error(data: bytes) -> None:
    with pytest.raises(ContentError):
        Trials.decode(data)
