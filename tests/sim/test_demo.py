"""The demo mission as a user runs it, and what its parts make of their input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dipp.journal import Journal
from sim.payload.demo import problems
from sim.payload.mission import instructions_of, slot_sizes, spans_of_samples
from sim.payload.record import BatchFate, MissionRecord

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(150)
def test_the_mission_flies_crashes_recovers_and_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = subprocess.run(
        [
            sys.executable, "-m", "sim.payload.cli", "demo", "--captures", "2", "--auroras", "2",
            "--json", "--out", str(tmp_path / "out"), "--state", str(state),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=140, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["batches"], summary["images"]) == (4, 8)
    assert (summary["delivered"], summary["quarantined"], summary["dropped"]) == (3, 1, 0)
    assert (summary["crashes_injected"], summary["plan_outcome"]) == (1, "completed")
    # Two pictures of the Earth; of Mars twice the mask and the disc, the second one with an aurora.
    assert (summary["pictures_received"], summary["auroras"]) == (6, 1)
    assert summary["downlink_bytes"] > 100_000 > summary["uplink_bytes"] > 1000
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "600103" in page
    assert "Aurora on Mars" in page
    assert '<b class="aurora">aurora</b>' in page
    assert len(list((state / "dipp" / "quarantine").iterdir())) == 1
    assert Journal(state / "dipp" / "journal").state.open == {}, "an input segment was not removed"
    assert not still_running(state)


def still_running(state: Path) -> list[str]:
    """Command lines that name the state directory and so belong to the mission."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(state) in line:
                found.append(line)
    return found


def test_a_port_of_the_plan_is_found_for_every_sample() -> None:
    plan = instructions_of(
        "# c\nproc new\nproc set a 1\nproc call 41\nproc push 40\nproc new\nproc noop\nproc push 41"
    )
    assert plan == {40: ["set a 1", "call 41"], 41: ["noop"]}
    samples = [
        (0.0, {"a53_status": 0.0, "proc_running": 1.0, "proc_run_at": 40.0, "proc_run_index": 1.0}),
        (1.0, {"a53_status": 1.0, "proc_running": 1.0, "proc_run_at": 40.0, "proc_run_index": 1.0}),
        (2.0, {"a53_status": 1.0, "proc_running": 1.0, "proc_run_at": 99.0}),
        (3.0, {"a53_status": 1.0, "proc_running": 0.0}),
    ]
    spans = [
        (each.lane, each.start_s, each.end_s, each.label)
        for each in spans_of_samples(samples, plan)
    ]
    assert spans == [
        ("A53", 0.0, 1.0, "asleep"),
        ("A53", 1.0, 3.0, "awake"),
        ("Plan", 0.0, 2.0, "call 41"),
        ("Plan", 2.0, 3.0, "slot 99"),
    ]
    assert spans_of_samples([], plan) == []


def test_uplink_sizes_are_those_of_the_slots() -> None:
    configs = ROOT / "configs"
    [pipeline] = slot_sizes("ippc pipeline -n 162 1 $(CONFIGS)/pipelines/earth.yaml\n", configs)
    assert pipeline.sent_bytes == 188
    assert 10 < pipeline.packed_bytes < 188 < pipeline.text_bytes


def fate(batch: int, fate_name: str = "delivered") -> BatchFate:
    return BatchFate(
        batch_id=batch, obid=batch, pipeline_id=1, images=1, fate=fate_name, status_word=0,
        reason="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fates", "outcome", "message"),
    [
        ([fate(1)], "completed", "2 captures, but 1 batches"),
        ([fate(1), fate(1)], "completed", "more than one fate"),
        ([fate(1), fate(2)], "failed", "flight plan failed"),
        ([fate(1), fate(2)], "completed", "3 images delivered, 0 on the ground"),
    ],
)
def test_a_mission_that_lost_something_is_not_ok(
    fates: list[BatchFate], outcome: str, message: str
) -> None:
    record = MissionRecord(
        fates=fates, plan_outcome=outcome, counters={"dipp": {"images_delivered": 3}}
    )
    assert any(message in problem for problem in problems(record, 2))


def test_a_wrong_configuration_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "payload.yaml"
    bad.write_text("nodes: {dish: 4, eps: 4}\n")
    done = subprocess.run(
        [sys.executable, "-m", "sim.payload.cli", "up", "--config", str(bad)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has the number 4 too" in done.stderr
