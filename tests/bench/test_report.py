"""Figures, ratios, comparison, charts and texts of the benchmark."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import compare
from bench.figures import TARGETS, Chart, Figure, Run, Section, Table, Target, numbers, text_of
from bench.page import render, verdict_of
from bench.svg import Axis, Bar, Limit, Line, bytes_text, lines, stacked
from bench.text import change_lines, console_lines, markdown
from bench.timing import Ratio, Times, contest

REQUIRED = (
    "dipp.decomposed_over_merged", "dipp.latency_us_copy_1k", "dipp.latency_us_zero_copy",
    "dipp.latency_copy_7m_over_two_memcpy", "dipp.sustained_copy_7m_over_in_process",
    "dipp.workers2_over_1", "dipp.sandbox_us", "payload.idle_pss_mb", "payload.start_s",
)  # fmt: skip


def figure(key="dipp.latency_us_copy_1k", value=70.0, median=75.0):
    return Figure(key=key, value=value, median=median, unit="µs", what="a <figure>")


def run(*figures, **about):
    section = Section(
        name="one",
        title="Part & parcel",
        figures=figures,
        tables=(Table(title="T", head=("a", "b"), rows=(("x", "1"),)),),
        charts=(Chart(name="c", title="C", svg="<svg/>"),),
        notes=("a note",),
        wall_s=1.5,
        load=0.25,
    )
    known = {"commit": "abc", "load_before": [1.0, 1.0, 1.0], "load_after": [2.0, 1.0, 1.0]}
    return Run(about={**known, **about}, sections=(section,), failures={"two": "why"})


def test_every_required_figure_has_its_target():
    assert set(REQUIRED) <= TARGETS.keys()


@pytest.mark.parametrize(
    ("is_ceiling", "value", "holds"),
    [(True, 2.0, True), (True, 2.1, False), (False, 2.0, True), (False, 1.9, False)],
)
def test_limit_itself_is_kept(is_ceiling, value, holds):
    assert Target(limit=2.0, is_ceiling=is_ceiling).holds(value) is holds


@pytest.mark.parametrize(
    ("value", "median", "verdict"),
    [(70, 75, "met"), (70, None, "met"), (70, 90, "met by the best, not by the median"),
     (90, 95, "not met")],
)  # fmt: skip
def test_verdict_tells_best_from_median(value, median, verdict):
    [row] = [each for each in markdown(run(figure(value=value, median=median))).splitlines()
             if "latency" in each]  # fmt: skip
    assert row.endswith(f"| {verdict} |")


def test_json_has_the_figures_at_the_top_and_reads_back():
    before = run(figure(), figure("other.key", 3.0, None))
    data = json.loads(json.dumps(before.to_json()))
    assert numbers(data) == {
        "dipp.latency_us_copy_1k": 70.0,
        "dipp.latency_us_copy_1k_median": 75.0,
        "other.key": 3.0,
    }
    after = Run.from_json(data)
    assert after.to_json() == before.to_json()
    assert markdown(after) == markdown(before)


@pytest.mark.parametrize(
    "change",
    [{"schema": 1}, {"about": []}, {"sections": 3}, {"sections": [{}]}, {"sections": [None]},
     {"sections": [{"name": "x"}]}],
)  # fmt: skip
def test_file_of_another_shape_is_refused(change):
    with pytest.raises(ValueError, match=r"schema|about|section"):
        Run.from_json({**run(figure()).to_json(), **change})


def test_page_escapes_and_shows_failures():
    page = render(run(figure(), machine="<b>"))
    assert "a &lt;figure&gt;" in page
    assert "&lt;b&gt;" in page
    assert "Part &amp; parcel" in page
    assert "two" in page
    assert "why" in page
    assert "<svg/>" in page


def test_console_puts_required_figures_first_and_names_failures():
    text = "\n".join(console_lines(run(figure("other.key"), figure())))
    assert text.index("dipp.latency_us_copy_1k") < text.index("other.key")
    assert "not measured: two: why" in text


# -- comparing


@pytest.mark.parametrize(
    ("key", "old", "new", "words"),
    [
        ("dipp.latency_us_copy_1k", 70, 90, "worse"),
        ("dipp.latency_us_copy_1k", 90, 70, "better"),
        ("dipp.workers2_over_1", 1.5, 1.8, "better"),
        ("aurora.scenes_per_s", 10, 8, "worse"),
        ("dipp.latency_us_copy_1k", 70, 71, "within the control"),
        ("dipp.latency_us_copy_1k", 70, 70, "same"),
    ],
)
def test_change_is_judged_by_what_is_better(key, old, new, words):
    [change] = compare({key: new}, {key: old})
    assert change.words == words
    assert words in "\n".join(change_lines([change]))


def test_change_below_either_control_is_none():
    new = {"dipp.workers2_over_1": 1.2, "aa_control": 1.0}
    old = {"dipp.workers2_over_1": 1.0, "aa_control": 0.7}
    assert [each.words for each in compare(new, old)] == ["within the control"]


def test_controls_and_medians_are_not_compared():
    figures = {"aa_control": 1.0, "aa.dish": 1.0, "x_median": 2.0}
    assert compare(figures, dict.fromkeys(figures, 9.0)) == []


def test_old_figure_of_zero_is_compared():
    [change] = compare({"dipp.sandbox_us": 3.0}, {"dipp.sandbox_us": 0.0})
    assert change.words == "worse"


# -- timing


def test_contestants_alternate_and_each_round_begins_with_the_next():
    order = []

    def contestant(name):
        def work():
            order.append(name)
            return float(len(order))

        return work

    times = contest({name: contestant(name) for name in "abc"}, budget_s=60, most=3, warm_up=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert [len(each.seconds) for each in times.values()] == [3, 3, 3]
    assert times["a"].seconds == (4.0, 9.0, 11.0)


def test_contest_stops_at_most_rounds():
    assert len(contest({"a": lambda: 1.0}, budget_s=60, most=5)["a"].seconds) == 5


def test_difference_counts_only_beyond_the_control():
    control = Ratio.of(Times((1.0, 1.1)), Times((1.0, 1.0)))
    assert control.spread == pytest.approx(0.05)
    assert Ratio(best=1.06, median=1.2).differs(control)
    assert not Ratio(best=1.06, median=1.04).differs(control)
    assert Ratio(best=0.5, median=0.6).differs(control)


# -- charts

POSITIVE = st.floats(1e-3, 1e9, allow_nan=False)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=8), st.booleans())
def test_lines_are_wellformed_and_stay_inside(points, is_log):
    svg = lines(
        [Line(label="a <b>", points=tuple(points))],
        Axis(label="x", is_log=is_log),
        Axis(label="y", is_log=is_log, starts_at_zero=True),
        "t & t",
        Limit(value=2.0, label="limit"),
    )
    tree = ET.fromstring(svg)
    circles = [each for each in tree.iter() if each.tag.endswith("circle")]
    assert len(circles) == len(points)
    for circle in circles:
        assert 60 <= float(circle.get("cx")) <= 850
        assert 0 <= float(circle.get("cy")) <= 330


def test_chart_of_nothing_says_so():
    assert "nothing was measured" in lines([], Axis(label="x"), Axis(label="y"), "t")


@given(st.lists(st.lists(st.floats(0, 1e6), max_size=4), max_size=4))
def test_bars_are_wellformed_and_fit(values):
    bars = [
        Bar(label=f"row {row}", parts=tuple((f"part {i}", value) for i, value in enumerate(parts)))
        for row, parts in enumerate(values)
    ]
    tree = ET.fromstring(stacked(bars, "ms", "t"))
    rects = [each for each in tree.iter() if each.tag.endswith("rect")][1:]
    assert len(rects) == sum(map(len, values))
    assert all(float(each.get("x")) + float(each.get("width")) <= 862 for each in rects)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.4, "1,234"),
     (-969.2, "-969")],
)  # fmt: skip
def test_numbers_have_the_digits_that_mean_something(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(("size", "text"), [(12, "12 B"), (1e3, "1 kB"), (7.25e6, "7.25 MB")])
def test_sizes_are_short(size, text):
    assert bytes_text(size) == text


def test_limit_within_the_control_is_in_doubt():
    calm = Figure(key="dipp.sandbox_us", value=9.0, unit="µs", what="", median=9.0, spread=0.5)
    wide = Figure(key="dipp.sandbox_us", value=-90.0, unit="µs", what="", median=9.0, spread=200.0)
    assert verdict_of(calm) == ("ok", "met")
    assert verdict_of(wide) == ("near", "met, but the control is ±200")


def test_contest_on_a_slow_machine_ends_after_one_round():
    assert contest({"a": lambda: 1.0}, budget_s=0.0, least=3)["a"].seconds == (1.0,)
