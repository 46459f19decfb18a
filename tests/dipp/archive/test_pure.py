"""The deciding parts of the archive: keys, records, dispatch, ledger, patterns."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.archive.dispatch import MAX_ATTEMPTS, Dispatcher
from dipp.archive.keys import (
    Input,
    Unit,
    key_of_place,
    record_place,
    result_key,
    result_place,
    safe_stem,
)
from dipp.archive.patterns import fixed_part, matcher, without_results
from dipp.archive.places import make_units
from dipp.archive.plan import Ledger, accept_record
from dipp.archive.records import (
    Crash,
    Hashed,
    Order,
    Output,
    Record,
    Report,
    Stage,
    State,
)
from dipp.errors import Code, ContentError

TEXT = st.text(st.characters(), max_size=20)
SCALARS = st.booleans() | st.integers(-(2**31), 2**31) | st.floats(allow_nan=False) | TEXT


def entry(name: str, stamp: str = "1") -> Input:
    return Input(uri=f"/in/{name}", size_bytes=3, stamp=stamp)


def unit(*names: str) -> Unit:
    return Unit(inputs=tuple(entry(name) for name in names))


def record_of(one: Unit, chain: str = "c", state: State = State.DONE, salt: str = "") -> Record:
    hashed = tuple(
        Hashed(uri=each.uri, size_bytes=each.size_bytes, stamp=each.stamp, sha256=each.name + salt)
        for each in one.inputs
    )
    key = result_key(chain, "", [(each.listed.name, each.sha256) for each in hashed])
    crash = Crash(code=600) if state is State.FAILED else None
    return Record(key=key, chain=chain, state=state, inputs=hashed, crash=crash)


# -- keys


def test_keys_depend_on_chain_names_and_contents_and_on_the_shape_of_raw_frames_only():
    base = [("a.png", "11"), ("b.png", "22")]
    key = result_key("chain", "8x8", base)
    others = [
        result_key("chain2", "8x8", base),
        result_key("chain", "8x8", [("a.png", "11"), ("c.png", "22")]),
        result_key("chain", "8x8", [("a.png", "11"), ("b.png", "23")]),
        result_key("chain", "8x8", base[::-1]),
        result_key("chain", "8x8", base[:1]),
    ]
    assert len({key, *others}) == 6
    assert result_key("chain", "9x9", base) == key
    raw = [("a.raw", "11")]
    assert result_key("chain", "9x9", raw) != result_key("chain", "8x8", raw)


@given(st.text(st.characters(codec=None), max_size=200))
def test_stems_are_harmless(name):
    stem = safe_stem(name)
    assert stem
    assert stem not in ("record", ".", "..")
    assert len(stem.encode()) <= 121
    assert not set(stem) & set("/\\\0\n\"'<>&*?[] ")
    assert stem[0] not in ".-"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a b.png", "a_b"),
        ("x.fits.gz", "x"),
        ("record.png", "record_"),
        (".png", "png"),
        ("é.x", "é"),
    ],
)
def test_stems_keep_what_they_can(name, stem):
    assert safe_stem(name) == stem


def test_places_of_results_lead_back_to_their_keys():
    key = "ab" * 32
    assert key_of_place(record_place(key)) == key
    assert record_place(key) == f"{result_place(key)}/record.json"
    assert key_of_place("results/ab") == key_of_place("other/ab/cd/ef") == ""


# -- records

INPUTS = st.builds(Hashed, uri=TEXT, size_bytes=st.integers(0), stamp=TEXT, sha256=TEXT)
CRASHES = st.builds(Crash, code=st.integers(0, 9999), name=TEXT, last_log=TEXT, log=TEXT)
RECORDS = st.builds(
    Record,
    key=TEXT,
    chain=TEXT,
    state=st.just(State.DONE),
    inputs=st.lists(INPUTS, min_size=1, max_size=3).map(tuple),
    outputs=st.lists(
        st.builds(
            Output,
            name=TEXT,
            size_bytes=st.integers(0),
            width=st.integers(0),
            height=st.integers(0),
            channels=st.integers(0),
            items=st.dictionaries(TEXT, SCALARS, max_size=3),
        ),
        max_size=2,
    ).map(tuple),
    stages=st.lists(
        st.builds(
            Stage,
            name=TEXT,
            wall_s=st.floats(0, 9),
            cpu_s=st.floats(0, 9),
            peak_rss_kb=st.integers(0),
        ),
        max_size=2,
    ).map(tuple),
    wall_s=st.floats(0, 1e6),
    worker=TEXT,
    thumbnail=TEXT,
)


@given(RECORDS, CRASHES)
def test_records_and_reports_come_back_as_they_were(record, crash):
    failed = replace(record, state=State.FAILED, crash=crash)
    for each in (record, failed):
        assert Record.decode(each.encode()) == each
        report = Report(state=each.state, record=each, is_new=True)
        assert Report.decode(report.encode()) == report


@given(st.lists(INPUTS, min_size=1, max_size=3), st.none() | CRASHES, st.booleans())
def test_orders_come_back_as_they_were(inputs, crash, redo):
    order = Order(unit=Unit(inputs=tuple(i.listed for i in inputs)), redo=redo, bury=crash)
    assert Order.decode(order.encode()) == order


SAMPLE = replace(
    record_of(unit("a.png"), state=State.FAILED),
    outputs=(Output(name="a.png", size_bytes=1, width=2, height=3, channels=1, items={"k": 1.5}),),
    stages=(Stage(name="m", wall_s=0.1, cpu_s=0.1, peak_rss_kb=5),),
)


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (Record.decode, SAMPLE.encode().strip()),
        (Report.decode, Report(state=State.FAILED, record=SAMPLE).encode()),
        (Order.decode, Order(unit=unit("a.png"), bury=Crash(code=605)).encode()),
    ],
)
def test_every_truncation_and_flipped_bit_is_a_value_or_named(decode, data):
    for end in range(len(data)):
        with pytest.raises(ContentError):
            decode(data[:end])
    for at in range(len(data)):
        for bit in (1, 16, 128):
            changed = bytearray(data)
            changed[at] ^= bit
            try:
                decode(bytes(changed))
            except ContentError:
                continue


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"state": "unreadable"},
        {"crash": None},
        {"inputs": []},
        {"key": 5},
        {"outputs": [{}]},
        {"wall_s": "1"},
        {"attempts": 1.5},
        {"stages": {}},
    ],
)
def test_records_with_wrong_fields_are_refused(change):
    fields = {**json.loads(SAMPLE.encode()), **change}
    with pytest.raises(ContentError):
        Record.decode(json.dumps(fields).encode())


def test_a_record_counts_only_with_all_its_files_and_its_chain():
    sizes = {f"{result_place(SAMPLE.key)}/a.png": 1}
    assert accept_record(SAMPLE.encode(), "c", sizes) == SAMPLE
    assert accept_record(SAMPLE.encode(), "d", sizes) is None
    assert accept_record(SAMPLE.encode(), "c", {}) is None
    assert accept_record(SAMPLE.encode(), "c", dict.fromkeys(sizes, 2)) is None
    assert accept_record(SAMPLE.encode()[:-9], "c", sizes) is None
    assert accept_record(None, "c", sizes) is None


# -- dispatch


def done(one: Unit) -> Report:
    return Report(state=State.DONE, record=record_of(one), is_new=True)


def test_a_unit_that_kills_three_times_is_buried_and_the_others_go_first():
    bad, good = unit("bad.png"), unit("good.png")
    work = Dispatcher([bad, good])
    seen = []
    while (order := work.next()) is not None:
        seen.append((order.unit.name, order.bury is not None))
        if order.bury is not None:
            assert "3 attempts" in order.bury.last_log
            assert "signal 11" in order.bury.last_log
            finished = work.answered(order, Report(state=State.FAILED, is_new=True))
        elif order.unit is bad:
            finished = work.died(order, "by signal 11")
        else:
            finished = work.answered(order, done(good))
    assert seen == [("bad.png", False), ("good.png", False)] + [("bad.png", False)] * 2 + [
        ("bad.png", True)
    ]
    assert finished is not None
    assert work.is_done


def test_a_unit_that_even_cannot_be_buried_ends_as_unreadable():
    work = Dispatcher([unit("bad.png")])
    finished, orders = None, 0
    while (order := work.next()) is not None:
        orders += 1
        finished = work.died(order, "gone")
    assert orders == 2 * MAX_ATTEMPTS
    assert finished is not None
    assert finished.report.state is State.UNREADABLE


@pytest.mark.parametrize("state", [State.CHAIN, State.STORE])
def test_what_concerns_all_stops_all(state):
    work = Dispatcher([unit("a.png"), unit("b.png")])
    order = work.next()
    assert work.answered(order, Report(state=state, reason="why")) is None
    assert (work.next(), work.is_done, work.problem) == (None, True, "why")


def test_a_host_that_dies_while_it_loads_three_times_stops_all():
    work = Dispatcher([unit("a.png"), unit("b.png")])
    died = Report(state=State.DIED, code=Code.LOAD_CRASHED, reason="module 1 m: ")
    for _ in range(2 * MAX_ATTEMPTS - 1):
        assert work.answered(work.next(), died) is None
    assert "does not load" in work.problem


@given(st.integers(1, 8), st.data())
def test_every_unit_finishes_exactly_once_whatever_dies(count, data):
    units = [unit(f"{number}.png") for number in range(count)]
    work, under_way, finished = Dispatcher(units), [], []
    while not work.is_done:
        order = work.next() if len(under_way) < 3 else None
        if order is not None:
            under_way.append(order)
            continue
        order = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        if data.draw(st.booleans()):
            result = work.died(order, "killed")
        else:
            result = work.answered(order, done(order.unit))
        if result is not None:
            finished.append(result.unit)
    assert sorted(each.name for each in finished) == sorted(each.name for each in units)
    assert not under_way


# -- ledger


def ledger(*records: Record, index: bytes | None = None) -> Ledger:
    return Ledger("c", "", records, index)


def test_what_is_known_and_unchanged_is_not_left():
    a, b = unit("a.png"), unit("b.png")
    book = ledger(record_of(a), record_of(b, state=State.FAILED))
    assert book.left([a, b, unit("c.png")]) == [unit("c.png")]
    assert book.left([a, b], redo_failed=True) == [b]
    touched = Unit(inputs=(entry("a.png", stamp="2"),))
    assert book.left([touched]) == [touched]


def test_a_ledger_survives_its_index_and_does_without_it():
    a, twin = unit("x/a.png"), Unit(inputs=(Input(uri="/y/a.png", size_bytes=3, stamp="9"),))
    book = ledger(record_of(a))
    book.note(twin, Report(state=State.DONE, record=record_of(a)))
    book.note(unit("bad.png"), Report(state=State.UNREADABLE, reason="why"))
    again = ledger(record_of(a), index=book.encode())
    assert again.rows() == book.rows()
    assert [row.state for row in again.rows()] == [State.UNREADABLE, State.DONE, State.DONE]
    assert again.left([a, twin, unit("bad.png")]) == [unit("bad.png")]
    for damaged in (b"", b"[]", b"{}", b'{"version":1}', book.encode()[:-5], b"\xff"):
        assert [row.uris for row in ledger(record_of(a), index=damaged).rows()] == [a.uris]
    # An index that knows of results which are gone does not bring them back.
    assert ledger(index=book.encode()).left([a, twin]) == [a, twin]


def test_a_larger_group_takes_the_place_of_a_smaller_one():
    book = ledger(record_of(unit("1.fits")))
    both = unit("1.fits", "2.fits")
    assert book.left([both]) == [both]
    book.note(both, Report(state=State.DONE, record=record_of(both)))
    assert [row.uris for row in book.rows()] == [both.uris]


def test_of_two_contents_of_a_file_the_later_one_counts():
    old = replace(record_of(unit("a.png")), finished_unix=5)
    new = replace(record_of(unit("a.png"), salt="new"), finished_unix=9)
    for order in ([old, new], [new, old]):
        assert [row.record for row in ledger(*order).rows()] == [new]


# -- patterns and groups


@given(
    st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", ".", "]"]), max_size=6),
    st.text("ab.]", max_size=6),
)
def test_patterns_mean_what_they_mean_in_a_shell(parts, name):
    pattern = "".join(parts)
    assert bool(matcher(pattern).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("a/*.png", "a/b/c.png", False),
        ("a/**/c.png", "a/c.png", True),
        ("a/**/c.png", "a/b/d/c.png", True),
        ("a/**", "a/b/c", True),
        ("a/?", "a//", False),
        ("[", "[", True),
        ("a\nb*", "a\nbc", True),
    ],
)
def test_patterns_know_slashes(pattern, name, does):
    assert bool(matcher(pattern).fullmatch(name)) is does
    assert name.startswith(fixed_part(pattern)) or not does


def test_results_are_left_out_wherever_they_lie():
    names = ["a.png", "out/p-1/dipp-chain.json", "out/p-1/results/x/y/a.png", "out/b.png"]
    assert without_results(names) == ["a.png", "out/b.png"]
    assert without_results(["dipp-chain.json", "a/b.png"]) == []
    assert without_results(["xdipp-chain.json", "a.png"]) == ["xdipp-chain.json", "a.png"]


def test_swaths_are_grouped_as_dipp_run_does_wherever_they_lie():
    name = "emm_emu_l2b_20210601t000000_0042_osr_sw{}of2_f_v01-00.fits.gz"
    places = [
        ("b", name.format(2)), ("b", "plain.png"), ("b", "odd.fits"), ("a", "odd.fits"),
        ("a", name.format(1)), ("c", name.format(1)), ("a", name.format(1)),
    ]  # fmt: skip
    entries = [Input(uri=f"s3://b//{p}/{file}", size_bytes=1, stamp="") for p, file in places]
    found = {
        tuple(uri.removeprefix("s3://b//") for uri in each.uris) for each in make_units(entries)
    }
    first, second = (name.format(number) for number in (1, 2))
    assert found == {
        ("a/odd.fits",), ("b/odd.fits",), ("b/plain.png",), (f"a/{first}", f"b/{second}"),
        (f"c/{first}",),
    }  # fmt: skip
