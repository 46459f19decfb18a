"""Wall clocks that jump change no deadline (fault 71), in the node as in all processes below."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from dipp.errors import Code
from dipp.testing import IDENTITY, SLEEP, Harness, make_chain

# Executed by every Python that is started with this directory on its path.
SITE = """
import itertools, time
real = time.time
jumps = itertools.cycle((3600.0, -3600.0, 1e9, 0.0))
def jump():
    return max(0.0, real() + next(jumps))
time.time = jump
time.time_ns = lambda: int(jump() * 1e9)
"""
CLOCK = """
import time
def run(batch, params):
    spread = [time.time() for _ in range(8)]
    batch.images[0].add_item('spread', max(spread) - min(spread))
"""


@pytest.fixture
def jumping(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    real, jumps = time.time, itertools.cycle((3600.0, -3600.0, -1.7e9, 0.0))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


def test_deadlines_hold_while_the_wall_clock_jumps(jumping, tmp_path):
    for name, source in (("clock", CLOCK), ("good", IDENTITY), ("hangs", SLEEP)):
        (tmp_path / f"{name}.py").write_text(source)
    with Harness() as harness:
        ((metadata, _),) = harness.run_images(make_chain(tmp_path / "clock.py"))
        # The injection has reached the module child.
        assert float(metadata.item("spread")) > 3600
        outcome = harness.run(make_chain(tmp_path / "hangs.py", timeout_s=0.3))
        assert outcome.code == Code.TIMEOUT
        assert 0.3 <= outcome.stages[0].wall_s < 0.8
        harness.run_images(make_chain(tmp_path / "good.py", timeout_s=0.5))
        assert harness.executor.stats.forge_restarts == 0
