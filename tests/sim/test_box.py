"""Freezing real processes: the whole tree, nobody else, and nobody for ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim import box
from sim.box import ProcessBox

_TREE = """
import subprocess
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
child.wait()
"""


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _wait_for(pid: int, stopped: bool) -> None:
    deadline = time.monotonic() + 5.0
    while (_state(pid) == "T") != stopped:
        assert time.monotonic() < deadline, f"process {pid} is in state {_state(pid)}"
        os.sched_yield()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[tuple[Path, int, int]]:
    """A parent with a child; the file names the parent only."""
    with subprocess.Popen([sys.executable, "-c", _TREE], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        path = tmp_path / "box.json"
        path.write_text(json.dumps({"dipp": parent.pid}))
        yield path, parent.pid, child
        for pid in (child, parent.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_the_whole_tree_stops_and_goes_on(tree: tuple[Path, int, int]) -> None:
    path, parent, child = tree
    with ProcessBox(path) as frozen_box:
        frozen_box.freeze()
        _wait_for(parent, True)
        _wait_for(child, True)
        assert frozen_box.frozen == 2
        frozen_box.freeze()
        assert frozen_box.frozen == 2
        frozen_box.thaw()
        _wait_for(parent, False)
        _wait_for(child, False)
        assert (frozen_box.frozen, frozen_box.faults) == (0, 0)


def test_leaving_the_context_continues_everything(tree: tuple[Path, int, int]) -> None:
    path, parent, child = tree
    with ProcessBox(path) as frozen_box:
        frozen_box.freeze()
        _wait_for(child, True)
    _wait_for(parent, False)
    _wait_for(child, False)


def test_a_killed_node_leaves_nobody_stopped(tree: tuple[Path, int, int]) -> None:
    path, parent, child = tree
    node = os.fork()
    if node == 0:
        with ProcessBox(path) as frozen_box:
            frozen_box.freeze()
            signal.pause()
    _wait_for(parent, True)
    _wait_for(child, True)
    os.kill(node, signal.SIGKILL)
    os.waitpid(node, 0)
    _wait_for(parent, False)
    _wait_for(child, False)


def test_ended_processes_are_forgotten(tree: tuple[Path, int, int]) -> None:
    path, parent, child = tree
    with ProcessBox(path) as frozen_box:
        frozen_box.freeze()
        _wait_for(child, True)
        path.write_text("{}")
        os.kill(child, signal.SIGKILL)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        deadline = time.monotonic() + 5.0
        while frozen_box.frozen and time.monotonic() < deadline:
            frozen_box.freeze()
        assert frozen_box.frozen == 0


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", '{"a": 0}', '{"a": -1}', '{"a": 1}', '{"a": true}', '{"a": "7"}']
)
def test_a_file_of_nonsense_stops_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "box.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - json and ours are both ValueError
        box.read_pids(path)
    with ProcessBox(path) as frozen_box:
        frozen_box.freeze()
        assert (frozen_box.frozen, frozen_box.faults) == (0, 1)


def test_an_absent_file_is_an_empty_box(tmp_path: Path) -> None:
    with ProcessBox(tmp_path / "later.json") as frozen_box:
        frozen_box.freeze()
        assert (frozen_box.frozen, frozen_box.faults) == (0, 0)


def test_a_pid_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    path = tmp_path / "box.json"
    path.write_text(json.dumps({"gone": process.pid}))
    with ProcessBox(path) as frozen_box:
        frozen_box.freeze()
        assert frozen_box.frozen == 0
