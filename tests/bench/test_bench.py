"""The command: it measures what it is asked for, writes report and JSON, and compares runs.

Nothing here asserts how long anything took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABOUT = ("commit", "date_utc", "huge_arena", "load_after", "load_before", "machine", "quick")


def bench(*words, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, words)],
        capture_output=True, text=True, timeout=170, cwd=cwd, env=environment, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """A run of the cheap sections: one through the process tree, one without."""
    out = tmp_path_factory.mktemp("bench")
    done = bench("--quick", "--only", "sandbox", "--only", "uplink", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


@pytest.mark.timeout(180)
def test_keys_of_the_sections_are_numbers_at_the_top_level(quick_run):
    data = json.loads((quick_run[0] / "bench.json").read_text())
    for key in ("dipp.sandbox_us", "dipp.sandbox_us_median", "uplink.whole_over_module"):
        assert isinstance(data[key], float), key
    assert [section["name"] for section in data["sections"]] == ["sandbox", "uplink"]
    assert data["failures"] == {}
    assert data["about"].keys() >= set(ABOUT)
    assert data["about"]["quick"] is True


@pytest.mark.timeout(180)
def test_report_stands_alone_and_shows_targets(quick_run):
    page = (quick_run[0] / "report.html").read_text()
    assert "dipp.sandbox_us" in page
    assert "≤ 10" in page
    assert "src=" not in page
    assert "<script" not in page


@pytest.mark.timeout(180)
def test_console_names_figures_and_report(quick_run):
    out, done = quick_run
    assert "uplink.module_delta_bytes" in done.stdout
    assert str(out / "report.html") in done.stdout
    assert "sandbox: with and without" in done.stderr


@pytest.mark.timeout(180)
def test_markdown_of_a_run_lists_its_figures(quick_run):
    done = bench("--markdown", quick_run[0] / "bench.json")
    assert done.returncode == 0, done.stderr
    assert "| `dipp.sandbox_us` |" in done.stdout
    assert "too short to mean much" in done.stdout


@pytest.mark.timeout(180)
def test_run_is_compared_with_an_older_one(quick_run, tmp_path):
    old = quick_run[0] / "bench.json"
    done = bench("--quick", "--only", "uplink", "--out", tmp_path, "--against", old)
    assert done.returncode == 0, done.stderr
    assert "against the other run" in done.stdout
    assert "Against the other run" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("words", [("--only", "nothing"), ("--fast",)])
def test_wrong_use_is_2(words):
    assert bench(*words).returncode == 2


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1}', '{"schema": 2, "about": {}}'])
def test_bad_file_is_1_and_says_why(tmp_path, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    done = bench("--markdown", path)
    assert done.returncode == 1
    assert done.stderr.startswith("bench: ")
    assert not done.stdout


def test_missing_file_is_1(tmp_path):
    done = bench("--against", tmp_path / "none.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.json" in done.stderr


@pytest.mark.timeout(180)
def test_bare_processes_are_measured(tmp_path):
    done = bench("--quick", "--only", "floor", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "bench.json").read_text())
    for key in ("floor.exchange_us_m1", "floor.exchange_us_m16", "floor.life_us"):
        assert 0 < data[key] <= data[f"{key}_median"], key
