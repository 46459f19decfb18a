"""The soak: its invariants find what is wrong, and a short one of a real node passes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from random import Random

import pytest

from dipp import cli
from dipp.hostile import FAULTS
from dipp.records import Totals
from dipp.soak import field, run
from dipp.soak.field import GOOD, GOOD_PIPELINE, Field
from dipp.soak.history import History, growth_problem, ledger_problems
from dipp.soak.page import picture
from dipp.soak.run import Goal, run_soak
from dipp.soak.samples import Sample
from dipp.soak.strikes import STRIKES


@pytest.fixture
def working(tmp_path):
    """A node at work."""
    with Field(tmp_path) as running:
        running.start()
        yield running


@pytest.fixture
def small(monkeypatch):
    """Short measurements, and patience with a machine that does other things too."""
    monkeypatch.setattr(run, "_NOMINAL_BATCHES", 20)
    monkeypatch.setattr(run, "_MEASURES", 1)
    monkeypatch.setattr(run, "_RESTORED", 0.05)
    monkeypatch.setattr(field, "_PING_S", 10.0)


def fate(batch, t, kind="delivered"):
    return {"t": t, "event": "fate", "batch": batch, "fate": kind}


def test_a_history_in_order_is_fine():
    history = History()
    history.take([{"t": 1.0, "event": "start", "batch": 1}, fate(1, 1.5), fate(2, 1.5)])
    assert (history.problems, history.started) == ([], 1)


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([fate(1, 1.0), fate(1, 2.0, "quarantined")], "batch 1 was delivered, then quarantined"),
        ([fate(1, 1.0), fate(1, 2.0)], "batch 1 was delivered, then delivered"),
        ([fate(1, 2.0), fate(2, 1.0)], "the clock went back from 2.0 to 1.0"),
    ],
)
def test_two_fates_and_a_clock_that_goes_back_are_found(events, problem):
    history = History()
    history.take(events[:1])
    history.take(events[1:])
    assert history.problems == [problem]


@pytest.mark.parametrize(
    ("totals", "sent", "stored", "kept", "found"),
    [
        (Totals(taken=3, delivered=2, quarantined=1, images=2), 3, 2, 1, 0),
        (Totals(taken=3, delivered=2, images=2), 3, 2, 0, 1),
        (Totals(taken=3, delivered=3, images=3), 4, 3, 0, 1),
        (Totals(taken=3, delivered=3, images=3), 3, 4, 0, 1),
        (Totals(taken=3, delivered=3, images=3), 3, 3, 1, 1),
    ],
)
def test_the_ledger_is_compared_with_what_lies_there(totals, sent, stored, kept, found):
    assert len(list(ledger_problems(totals, sent, stored, kept))) == found


def test_growth_is_found_and_a_wobble_is_not():
    wobble = [50 + n % 3 for n in range(200)]
    assert growth_problem("x", wobble, 4) == ""
    assert growth_problem("x", [50 + n / 10 for n in range(200)], 4).startswith("x grew from")
    # Warming up is no growth.
    assert growth_problem("x", [10, 20, 30, *[50] * 100], 4) == ""
    assert growth_problem("x", [], 4) == ""


def test_a_segment_that_stays_is_found_once_and_counted_for_ever(working, monkeypatch):
    monkeypatch.setattr(field, "_REMOVAL_S", 0.1)
    name, _ = working.daemon.camera.make(b"never announced")
    working.expect(name)
    working.drain()
    assert working.problems == [f"1 segments left: {name}"]
    working.shoot(Random(1), GOOD_PIPELINE)
    working.drain()
    working.look()
    assert (len(working.problems), working.samples[-1].segments) == (1, 1)


def test_a_segment_whose_batch_is_still_being_cleaned_up_is_waited_for(working):
    camera = working.daemon.camera
    name, _ = camera.make(b"its batch has a fate, its thumbnail is being made")
    working.expect(name)
    working.daemon.loop.scheduler.call_later(0.5, lambda: camera.remove(name))
    working.drain()
    working.look()
    assert (working.problems, working.samples[-1].segments) == ([], 0)


def test_a_killed_node_is_started_again_to_take_parameters(working):
    working.daemon.kill()
    working.configure(GOOD_PIPELINE, GOOD)
    assert (working.problems, working.restarts) == ([], 1)


def test_a_node_that_ends_by_itself_is_a_problem(working):
    working.daemon.terminate()
    working.revive()
    assert working.problems == ["the node ended by itself with 0 (start)"]


def test_good_batches_that_fail_are_no_throughput(working):
    working.install(GOOD, "def run(batch, params):\n    raise ValueError\n")
    working.configure(GOOD_PIPELINE, GOOD)
    working.measure(Random(1), 3)
    assert working.problems == ["3 of 3 good batches failed (start)"]


def test_every_hostile_module_of_the_table_exists():
    assert all(bool(strike.module) != bool(strike.act) for strike in STRIKES)
    names = {fault.name for fault in FAULTS if fault.python}
    assert {strike.name for strike in STRIKES if strike.module} <= names


def test_a_short_soak_passes_and_everything_is_restored(tmp_path, small):
    shares = []
    result = run_soak(
        tmp_path, Goal(seed=3, minutes=0.02), lambda state: shares.append(state.share)
    )
    assert result.problems == ()
    assert result.rounds
    assert result.passed
    assert sum(result.fates) == result.batches
    assert result.healed > 0
    assert shares[-1] == 1.0
    ElementTree.fromstring(picture(result.samples))


def test_the_command_writes_its_reports(tmp_path, capsys, small):
    assert cli.main(["soak", "--batches", "100", "--json", "--out", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["fates"][0] == report["batches"] >= 100
    assert json.loads((tmp_path / "soak.json").read_text()) == report
    assert "<h1>Soak</h1>" in (tmp_path / "soak.html").read_text()
    assert (tmp_path / "soak.svg").read_text().startswith("<svg")


def test_a_picture_of_one_sample_is_empty_but_a_picture():
    sample = Sample(
        t_s=0, batches=0, node_mb=1, forge_mb=1, host_mb=1, hosts_mb=1, node_fds=1, forge_fds=1,
        host_fds=1,        processes=1, segments=0, phase="start",
    )  # fmt: skip
    assert ElementTree.fromstring(picture([sample])).tag.endswith("svg")


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--minutes", "nan"], ["--batches", "-1"]])
def test_wrong_use_is_2(words):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["soak", *words])
    assert exit_info.value.code == 2
