"""Rehearsals: the shipped plans fly for three days; faults show; the same flight is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dish.cli import main
from dish.plan.problems import PlanError
from sim import config
from sim.errors import ConfigError
from sim.rehearsal.faults import KINDS, Faults, parse_fault
from sim.rehearsal.page import render
from sim.rehearsal.run import rehearse

PLANS = Path(__file__).parents[2] / "configs" / "plans"
CONFIG = config.load()


def fly(name, **options):
    text = (PLANS / f"{name}.dish").read_text()
    return rehearse(text, CONFIG, name=name, **options)


@pytest.mark.parametrize(
    ("name", "hours", "pictures"),
    [("capture", 1, 1), ("geofence", 12, 4), ("photogrammetry", 13, 8), ("aurora", 11, 42)],
)
def test_shipped_plans_complete(name, hours, pictures):
    record = fly(name, hours=hours)
    assert (record.outcome, record.reason) == ("completed", "")
    assert record.figures["pictures"] == record.figures["batches"] == pictures
    assert record.figures["unserved_wh"] == 0


def test_a_day_of_the_campaign_takes_pictures_and_keeps_the_battery():
    record = fly("campaign", hours=14)
    assert record.outcome == "running"
    assert record.figures["pictures"] > 40
    assert record.figures["battery_lowest_percent"] > 60
    assert record.figures["passes"] > 3
    assert record.figures["downlinked_mb"] > 10


def test_capture_takes_its_picture_at_the_time_of_listing_1():
    record = fly("capture", hours=1)
    camera = [span for span in record.spans if span.lane == "camera"]
    assert len(camera) == 1
    start = fly("capture", hours=1, start_unix=CONFIG.mission.epoch_unix - 3600 * 10)
    assert start.outcome == "running"
    assert start.stands[0].source.startswith("line 12")
    assert record.shots[0][0] == pytest.approx(CAPTURE_S, abs=3)


# START of capture.dish in seconds after the epoch of payload.yaml.
CAPTURE_S = 1744407764 - CONFIG.mission.epoch_unix


def test_the_same_flight_gives_the_same_data_and_another_seed_does_not():
    one, two = fly("capture", hours=1), fly("capture", hours=1)
    assert one.to_json() == two.to_json()
    assert fly("capture", hours=1, seed=2).to_json()["timeline"] != one.to_json()["timeline"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("a53-stuck", "line 14, column 1: the wait took too long"),
        ("camera-dead", "node 163 does not answer"),
        ("dipp-hangs", "line 18, column 1: the wait took too long"),
    ],
)
def test_faults_end_the_capture_with_a_place_and_a_reason(fault, reason):
    text = (PLANS / "capture.dish").read_text().replace("wait until gnss_unix", SLEEP, 1)
    record = rehearse(text, CONFIG, hours=1, faults=[parse_fault(fault)])
    assert record.outcome == "failed"
    place = reason.split(",")[0]
    assert reason.split(": ")[-1] in record.reason
    if place.startswith("line"):
        line = int(place.split()[1]) + SLEEP.count("\n")
        assert record.reason.startswith(f"line {line},")


# Without it the A53 runs from the start and nothing has to wake.
SLEEP = "a53.suspend_a53 = 1\nwait until gnss_unix"


def test_a_slow_pipeline_is_survived_and_a_hang_that_ends_too():
    assert fly("capture", hours=1, faults=[parse_fault("dipp-slow")]).outcome == "completed"
    # The picture is taken within the first half hour; DIPP works again a little later.
    record = fly("capture", hours=1, faults=[parse_fault("dipp-hangs@0..0.02")])
    assert record.outcome == "completed"


def test_weak_batteries_go_lower():
    text = "wait for 1000 s"
    normal = rehearse(text, CONFIG, hours=2)
    weak = rehearse(text, CONFIG, hours=2, faults=[parse_fault("battery-weak")])
    assert weak.figures["battery_lowest_percent"] < normal.figures["battery_lowest_percent"] - 1


def test_a_lost_receiver_stops_the_clock_of_the_plan():
    record = fly("capture", hours=1, faults=[parse_fault("gnss-lost")])
    assert record.outcome in ("running", "failed")
    assert record.figures["pictures"] == 0


def test_a_plan_that_only_computes_is_ended():
    record = rehearse("var a = 1\nwhile a > 0 { a = a | 1 }", CONFIG, hours=1)
    assert record.outcome == "failed"
    assert "computes without ever waiting" in record.reason


@pytest.mark.parametrize("text", ["", "none", "a53-stuck@", "a53-stuck@x", "dipp-slow@3.."])
def test_unknown_faults_are_refused(text):
    with pytest.raises(ConfigError, match="a53-stuck"):
        parse_fault(text)


def test_faults_hold_in_their_hours():
    faults = Faults([parse_fault("dipp-slow@1..2")])
    assert [faults.holds("dipp-slow", t) for t in (0, 3599, 3600, 7199, 7200)] == [
        False, False, True, True, False,
    ]  # fmt: skip
    assert faults.edges() == [3600, 7200]


def test_the_page_holds_everything_and_escapes_the_plan():
    text = "# <script>\nwake_a53 = 1\nwait for 10 s\n"
    record = rehearse(text, CONFIG, name="<b>", hours=1)
    page = render(record, text)
    assert "<script>" not in page
    assert "<b>:" not in page
    for part in ("Where it blocked", "Ground track", "Battery", "line 3, column 1"):
        assert part in page
    json.dumps(record.to_json())


def test_limits():
    with pytest.raises(ConfigError, match="hours"):
        rehearse("wake_a53 = 1", CONFIG, hours=0)
    with pytest.raises(PlanError):
        rehearse("x = 1", CONFIG, hours=1)


def test_the_command(tmp_path, capsys):
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    words = ["rehearse", str(PLANS / "capture.dish"), "--hours", "1", "--start",
             "2025-04-11T21:40:00Z", "--html", str(page), "--json", str(data)]  # fmt: skip
    assert main(words) == 0
    assert "capture.dish: completed" in capsys.readouterr().out
    assert json.loads(data.read_text())["outcome"] == "completed"
    assert page.read_text().startswith("<!doctype html>")
    orbit = Path(__file__).parents[2] / "configs" / "orbits.tle"
    options = ["--orbit", str(orbit), "--satellite", "ISS-LIKE", "--json", "-"]
    assert main(["rehearse", str(PLANS / "capture.dish"), "--hours", "1", *options]) == 0
    assert json.loads(capsys.readouterr().out)["satellite"] == "ISS-LIKE"
    for bad in (["--fault", "x"], ["--start", "noon"], ["--hours", "-1"]):
        assert main(["rehearse", str(PLANS / "capture.dish"), *bad]) == 1
        assert capsys.readouterr().err.startswith("dish: ")


def test_every_fault_has_a_meaning():
    assert all(KINDS.values())
