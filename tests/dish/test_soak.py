"""A short soak: 300 runs that end in every way leave nothing behind. The long one is a tool."""

from __future__ import annotations

import pytest

from dipp.runner.wait import child_pids
from tools.soak_dish import WARM_UP_RUNS, Report, Sample, Soak


@pytest.mark.timeout(120)
def test_300_runs_leave_nothing_behind():
    children = set(child_pids())
    soak = Soak()
    try:
        report = soak.run(300, 50)
    finally:
        soak.close()
    assert report.problems == []
    assert [sample.runs for sample in report.samples] == [WARM_UP_RUNS, 250, 300]
    assert set(child_pids()) <= children


def test_growth_is_reported():
    first = Sample(runs=200, node_kb=1000, forges_kb=1000, fds=10, processes=3)
    last = Sample(runs=400, node_kb=90_000, forges_kb=1000, fds=11, processes=4)
    report = Report(runs=400, seconds=1.0, wrong=("run 7: lost",), samples=(first, last))
    assert report.problems == [
        "run 7: lost", "89000 more kB in the node", "1 more descriptors", "1 more processes",
    ]  # fmt: skip
