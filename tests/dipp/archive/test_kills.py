"""Whatever is killed, no file is lost and none has two results."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess

import archivekit as kit
import pytest

from dipp.errors import Code

pytestmark = pytest.mark.timeout(300)
FILES, CRASHES = 1000, 20


@pytest.mark.timeout(600)
def test_thousand_files_twenty_crash_and_a_runner_is_killed(folder):
    crashing = dict.fromkeys(range(7, FILES, FILES // CRASHES), kit.CRASH)
    inputs = kit.write_pictures(folder / "in", FILES, crashing)
    words = (folder / "chain/picky.yaml", inputs, "--out", folder / "out", "--workers", 2)
    process = kit.start(*words)
    assert kit.until(process, lambda: kit.count_results(folder / "out") > FILES // 4)
    victim, *others = kit.runners(process.pid)
    kit.kill(victim)
    assert others
    status, said = kit.finish(process)
    assert (status, said["done"], said["quarantined"], said["left"]) == (1, 980, 20, 0)
    # One that the victim had finished but not reported is found, not made again.
    assert said["new_done"] + said["new_quarantined"] in (FILES - 1, FILES)
    found = kit.records(said["store"])
    kit.assert_each_once(found, sorted(inputs.iterdir()))
    assert sum(record.crash is None for record in found) == 980
    assert [r.crash.signal for r in found if r.crash] == [signal.SIGSEGV] * CRASHES
    assert len({record.worker for record in found}) == 3
    before = kit.tree(folder / "out" / os.path.basename(said["store"]) / "results")
    status, said = kit.archive(*words)
    assert (said["new_done"], said["new_quarantined"], said["wall_s"]) == (0, 0, 0.0)
    assert (said["done"], said["quarantined"]) == (980, 20)
    assert kit.tree(folder / "out" / os.path.basename(said["store"]) / "results") == before


def test_killed_hosts_and_forges_cost_an_attempt_and_no_file(folder):
    inputs = kit.write_pictures(folder / "in", 8, dict.fromkeys(range(8), kit.SLOW))
    process = kit.start(
        folder / "chain/picky.yaml", inputs, "--out", folder / "out", "--workers", 1
    )
    for wanted, victim_of in ((1, "host"), (3, "forge")):
        assert kit.until(process, lambda w=wanted: kit.count_results(folder / "out") >= w)
        (runner,) = kit.runners(process.pid)
        (forge,) = kit.children(runner, "dipp.runner.forge")
        victims = kit.children(forge) if victim_of == "host" else [forge]
        assert victims
        for pid in victims:
            kit.kill(pid)
    status, said = kit.finish(process)
    assert (status, said["done"], said["new_done"]) == (0, 8, 8)
    kit.assert_each_once(kit.records(said["store"]), sorted(inputs.iterdir()))


def test_an_interrupted_command_ends_its_runners_and_tells_what_is_left(folder):
    inputs = kit.write_pictures(folder / "in", 4, dict.fromkeys(range(4), kit.SLOW))
    process = kit.start(
        folder / "chain/picky.yaml", inputs, "--out", folder / "out", "--workers", 1
    )
    assert kit.until(process, lambda: kit.count_results(folder / "out") >= 1)
    (runner,) = kit.runners(process.pid)
    process.send_signal(signal.SIGTERM)
    status, said = kit.finish(process)
    assert status == 1
    assert "interrupted" in said["problem"]
    assert said["left"] == 4 - said["done"] > 0
    # One may have been written and not reported yet; the next run finds it.
    assert len(kit.records(said["store"])) - said["done"] in (0, 1)
    assert not os.path.exists(f"/proc/{runner}")


def kill_all(process: subprocess.Popen) -> None:
    """Kill a command and see that all below it ends by itself."""
    below = kit.runners(process.pid)
    below += [pid for runner in below for pid in kit.children(runner)]
    pidfds = []
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            pidfds.append(os.pidfd_open(pid))
    process.kill()
    process.communicate()
    for pidfd in pidfds:
        kit.wait_gone(pidfd)
        os.close(pidfd)


def test_command_killed_at_random_points_goes_on_where_it_was(folder):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, count = random.Random(seed), 60
    inputs = kit.write_pictures(folder / "in", count, {5: kit.CRASH, 41: kit.CRASH})
    words = (folder / "chain/picky.yaml", inputs, "--out", folder / "out", "--workers", 2)
    for _ in range(3):
        process = kit.start(*words)
        goal = kit.count_results(folder / "out") + chance.randrange(1, 9)
        if kit.until(process, lambda goal=goal: kit.count_results(folder / "out") >= goal):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.random() * 0.1)
        kill_all(process)
        stores = list((folder / "out").iterdir())
        # What is there is whole, whenever the end came.
        kit.records(stores[0])
    before = kit.tree(stores[0] / "results")
    status, said = kit.archive(*words)
    assert (status, said["done"], said["quarantined"], said["left"]) == (1, 58, 2, 0)
    kit.assert_each_once(kit.records(said["store"]), sorted(inputs.iterdir()))
    after = kit.tree(stores[0] / "results")
    assert before.items() <= after.items()
    assert list((stores[0] / ".tmp").iterdir()) == []


def test_an_input_that_kills_every_runner_is_recorded_once(folder, monkeypatch):
    inputs = kit.write_pictures(folder / "in", 2)
    (inputs / "zz.png").write_bytes(b"poison")
    site = folder / "site"
    site.mkdir()
    # A decoder that dies on hostile bytes, in the process that has no sandbox.
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'dipp.archive.runner' in sys.orig_argv:\n"
        "    import dipp.inputs as inputs\n"
        "    load = inputs.load_images\n"
        "    def fatal(path, shape):\n"
        "        if path.read_bytes() == b'poison':\n"
        "            os.kill(os.getpid(), 11)\n"
        "        return load(path, shape)\n"
        "    inputs.load_images = fatal\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    words = (folder / "chain/picky.yaml", inputs, "--out", folder / "out")
    status, said = kit.archive(*words)
    assert (status, said["done"], said["quarantined"], said["left"]) == (1, 2, 1, 0)
    (record,) = [each for each in kit.records(said["store"]) if each.crash]
    assert (record.crash.code, record.crash.module) == (Code.NODE_DIED, 0)
    assert "3 attempts" in record.crash.last_log
    assert "signal 11" in record.crash.last_log
    assert kit.archive(*words)[1]["new_quarantined"] == 0
