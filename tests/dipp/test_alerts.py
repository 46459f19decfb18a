"""Alerts: what a child gets ahead of its order must never be mistaken for what comes with it."""

import os
import time

import pytest

from dipp.batch import encode_batch
from dipp.runner.arena import IN_USE
from dipp.runner.channel import close_fds
from dipp.runner.executor import Completed, Limits
from dipp.runner.hugefiles import make_files, mount_huge
from dipp.testing import Harness, make_chain, sample_image, segment

EDIT = "def run(batch, params):\n    batch.images[0].edit()[:] = 1\n"
# Longer than a host believes that a child still has what was announced to it.
LATE_S = 1.2


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "edit.py"
    path.write_text(EDIT)
    return make_chain(path, timeout_s=5)


# Which of two segments comes with each alert, None for none; then a batch in the other one.
@pytest.mark.parametrize("pattern", [(None, 0, None, 0), (0, None, 1) * 7, (None, None, 0)])
def test_an_alert_takes_no_descriptor_of_an_order(chain, pattern):
    data = encode_batch([sample_image()])
    with Harness(Limits(workers=1)) as harness, segment(data) as first, segment(data) as second:
        for _ in range(4):
            harness.run(chain).close()
            harness.prepare()
            for index in pattern:
                harness.executor.alert(1, -1 if index is None else (first, second)[index])
            last = first if pattern[-1] == 1 else second
            outcome = harness.loop.run_until(
                harness.executor.submit(harness.job(chain, last, data, 1)), 20
            )
            assert isinstance(outcome, Completed), outcome.code
            outcome.close()


def test_an_announced_batch_may_come_late(chain):
    data = encode_batch([sample_image()])
    with Harness(Limits(workers=1)) as harness, segment(data) as fd:
        harness.run(chain).close()
        harness.prepare()
        harness.executor.alert(1, fd)
        end = time.monotonic() + LATE_S
        while time.monotonic() < end:
            harness.loop.tick(0.1)
        outcome = harness.loop.run_until(
            harness.executor.submit(harness.job(chain, fd, data, 1)), 20
        )
        assert isinstance(outcome, Completed), outcome.code
        outcome.close()


def test_files_of_arenas_are_not_inherited_by_programs():
    mount_fd = mount_huge()
    files = make_files(mount_fd, IN_USE, 1 << 21)
    try:
        if not files:
            pytest.skip("no file system in huge pages can be had here")
        assert not any(os.get_inheritable(fd) for fd in files)
    finally:
        close_fds([*files, *([mount_fd] if mount_fd >= 0 else [])])
