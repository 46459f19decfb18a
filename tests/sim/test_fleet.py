"""The payload's init process: starts, reports and ends real processes."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

import pytest

from csp.loop import REBOOT_STATUS
from sim.payload.fleet import Fleet, NodeSpec


def wait_exit(fleet: Fleet, name: str, deadline_s: float = 10.0) -> int:
    end = time.monotonic() + deadline_s
    while fleet.nodes[name].exit_status is None:
        assert time.monotonic() < end, f"{name} did not end"
        signal.sigtimedwait({signal.SIGUSR2}, 0.01)
        fleet.poll()
    return fleet.nodes[name].exit_status


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def entry_ends(argv: list[str]) -> int:
    print("hello from", argv[0])
    return int(argv[1])


def entry_raises(argv: list[str]) -> int:
    raise ValueError("broken node")


def entry_waits(argv: list[str]) -> int:
    signal.pause()
    return 0


def entry_ignores_term(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


@pytest.fixture
def fleet(tmp_path: Path):
    with Fleet(tmp_path) as running:
        yield running


def spec(name: str, function, *argv: str) -> NodeSpec:
    return NodeSpec(name=name, entry=f"{__name__}:{function.__name__}", argv=argv)


def test_exit_status_and_output_are_kept(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start(spec("node", entry_ends, "x", "3"))
    assert wait_exit(fleet, "node") == 3
    assert "hello from x" in (tmp_path / "node.log").read_text()


def test_a_node_that_raises_leaves_its_traceback_and_others_run(
    fleet: Fleet, tmp_path: Path
) -> None:
    other = fleet.start(spec("other", entry_waits))
    fleet.start(spec("bad", entry_raises))
    assert wait_exit(fleet, "bad") == 1
    assert "broken node" in (tmp_path / "bad.log").read_text()
    assert not gone(other.pid)


def test_a_killed_node_can_be_started_again(fleet: Fleet) -> None:
    first = fleet.start(spec("node", entry_waits))
    fleet.signal("node", signal.SIGKILL)
    assert wait_exit(fleet, "node") == -signal.SIGKILL
    second = fleet.start(spec("node", entry_waits))
    assert second.pid != first.pid


def entry_reboots_once(argv: list[str]) -> int:
    seen = Path(argv[0])
    if seen.exists():
        signal.pause()
    seen.write_text("")
    return REBOOT_STATUS


def test_a_node_that_reboots_is_started_again_and_known_by_its_new_pid(
    fleet: Fleet, tmp_path: Path
) -> None:
    first = fleet.start(spec("node", entry_reboots_once, str(tmp_path / "seen"))).pid
    end = time.monotonic() + 10.0
    while fleet.nodes["node"].pid == first:
        assert time.monotonic() < end
        signal.sigtimedwait({signal.SIGUSR2}, 0.01)
        assert fleet.poll() == []
    assert fleet.nodes["node"].exit_status is None
    assert not gone(fleet.nodes["node"].pid)


def test_a_node_that_reboots_while_everything_ends_stays_off(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        pid = fleet.start(spec("node", entry_reboots_on_term)).pid
    assert gone(pid)


def entry_reboots_on_term(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pause()
    return REBOOT_STATUS


def test_stop_ends_waiting_and_frozen_nodes(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        pids = [fleet.start(spec("a", entry_waits)).pid, fleet.start(spec("b", entry_waits)).pid]
        fleet.signal("b", signal.SIGSTOP)
    assert all(gone(pid) for pid in pids)


def test_stop_kills_a_node_that_ignores_term(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sim.payload.fleet._STOP_GRACE_S", 0.2)
    with Fleet(tmp_path) as fleet:
        pid = fleet.start(spec("deaf", entry_ignores_term)).pid
    assert gone(pid)


def test_nodes_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        with Fleet(tmp_path) as fleet:
            pid = fleet.start(spec("node", entry_waits)).pid
            os.write(write_end, str(pid).encode())
            signal.pause()
        os._exit(0)
    os.close(write_end)
    node_pid = int(os.read(read_end, 32))
    os.close(read_end)
    descriptor = os.pidfd_open(node_pid)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert select.select([descriptor], [], [], 10.0)[0], "the node outlived its launcher"
    os.close(descriptor)
