"""What a module, a host, the forge or the node can do to the others: nothing that lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dipp.batch import encode_batch
from dipp.errors import Code
from dipp.runner import forgehandle
from dipp.runner.executor import Limits
from dipp.runner.wait import all_pids
from dipp.sandbox.namespaces import probe_namespaces
from dipp.sandbox.rungs import active_names
from dipp.sandbox.scratchspace import SCRATCH_BYTES
from dipp.supervisor.table import State
from dipp.testing import (
    IDENTITY,
    SLEEP,
    Harness,
    make_chain,
    no_leaks,
    parent_of,
    sample_image,
    segment,
)
from tests.dipp.descriptors import no_descriptors


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "namespaces"])
def namespaces(request):
    if request.param and not probe_namespaces():
        pytest.skip("PID namespaces are not allowed here")
    return request.param


@pytest.fixture(scope="module")
def harness(scratch, namespaces):
    limits = Limits(load_timeout_s=1.0, grace_s=0.5, max_hosts=2)
    with Harness(limits, str(scratch), namespaces=namespaces) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(harness, scratch):
    (root,) = scratch.iterdir()
    with no_leaks(root):
        yield
        harness.settle()


def test_descriptors_stay_constant_over_many_runs(harness, module):
    chain = make_chain(module("import os\ndef run(b, p): [os.dup(0) for _ in range(50)]"))
    harness.run_images(chain)
    family = [pid for pid in all_pids() if parent_of(pid) in (harness.forge_pid, os.getpid())]
    harness.prepare()
    before = [_count_fds(pid) for pid in family]
    for _ in range(20):
        harness.run_images(chain)
    harness.prepare()
    # A host closes its last ones just after it has answered.
    wait_until(lambda: all(_count_fds(pid) <= n for pid, n in zip(family, before, strict=True)))


def _count_fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


KILL_ALL = """
import os, signal
def run(batch, params):
    # Only if this certainly is a namespace of its own: outside it would be everybody.
    if os.getppid() != 1 or os.readlink('/proc/self') == str(os.getpid()):
        raise RuntimeError('not in a namespace')
    for target in (-1, os.getppid()):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            pass
"""


def test_a_module_in_a_namespace_can_kill_nobody(harness, module, namespaces):
    if not namespaces:
        pytest.skip("only a namespace stops it")
    harness.run_images(make_chain(module(KILL_ALL)))
    assert harness.executor.stats.forge_restarts == 0


def test_missing_namespaces_are_reported(harness, module, namespaces):
    harness.run_images(make_chain(module(IDENTITY)))
    missing = harness.executor.stats.missing_rungs
    assert any(text.startswith("namespaces") for text in missing) is not namespaces


def submit_hanging(harness, module):
    data = encode_batch([sample_image()])
    with segment(data) as fd:
        chain = make_chain(module(SLEEP, "sleeper"), timeout_s=30)
        promise = harness.executor.submit(harness.job(chain, fd, data, 1))
    while not any(position for _, position in harness.executor.current):
        harness.loop.tick(0.05)
    return promise


def test_operator_stop_ends_the_running_batch_with_606(harness, module):
    promise = submit_hanging(harness, module)
    assert harness.executor.stop_current() == 1
    outcome = harness.loop.run_until(promise, 5)
    assert (outcome.code, outcome.module_index) == (Code.OPERATOR_STOP, 1)


def test_killed_host_is_605_and_its_child_dies(harness, module):
    promise = submit_hanging(harness, module)
    (host,) = [pid for pid in all_pids() if parent_of(pid) == harness.forge_pid]
    children = [pid for pid in all_pids() if parent_of(pid) == host]
    os.kill(host, signal.SIGKILL)
    outcome = harness.loop.run_until(promise, 5)
    assert (outcome.code, outcome.crash.name) == (Code.HOST_DIED, "sleeper")
    assert not any(Path(f"/proc/{pid}").exists() for pid in [host, *children])


def test_stopped_host_is_killed_at_the_outer_deadline(harness, module):
    chain = make_chain(module(SLEEP), timeout_s=0.3)
    data = encode_batch([sample_image()])
    with segment(data) as fd:
        promise = harness.executor.submit(harness.job(chain, fd, data, 1))
    while not any(position for _, position in harness.executor.current):
        harness.loop.tick(0.05)
    (host,) = [pid for pid in all_pids() if parent_of(pid) == harness.forge_pid]
    os.kill(host, signal.SIGSTOP)
    outcome = harness.loop.run_until(promise, 5)
    assert outcome.code == Code.HOST_DIED
    harness.run_images(make_chain(module(IDENTITY)))


def test_killed_forge_is_replaced(scratch, module, namespaces):
    with Harness(Limits(grace_s=0.5), str(scratch), namespaces=namespaces) as harness:
        promise = submit_hanging(harness, module)
        old = harness.forge_pid
        os.kill(old, signal.SIGKILL)
        assert harness.loop.run_until(promise, 5).code == Code.HOST_DIED
        harness.run_images(make_chain(module(IDENTITY)))
        assert harness.executor.stats.forge_restarts == 1
        assert harness.forge_pid != old


def test_without_descriptors_a_host_is_refused_and_nothing_else_ends(harness, module):
    data = encode_batch([sample_image()])
    chain = make_chain(module(IDENTITY))
    with segment(data) as fd:
        promise = harness.executor.submit(harness.job(chain, fd, data, 1))
        with no_descriptors():
            outcome = harness.loop.run_until(promise, 5)
    assert outcome.code == Code.PIPE_CREATE
    harness.run_images(chain)


def test_a_forge_that_dies_without_descriptors_is_replaced_later(scratch, module, namespaces):
    with Harness(Limits(grace_s=0.5), str(scratch), namespaces=namespaces) as harness:
        promise = submit_hanging(harness, module)
        old = harness.forge_pid
        with no_descriptors():
            os.kill(old, signal.SIGKILL)
            assert harness.loop.run_until(promise, 5).code == Code.HOST_DIED
            assert harness.executor.stats.forge_restarts == 0
            assert "no forge" in harness.executor.stats.last_fault
        while harness.executor.stats.forge_restarts == 0:
            harness.loop.tick(0.1)
        harness.run_images(make_chain(module(IDENTITY)))
        assert harness.forge_pid != old


NODE = """
import sys, time
from dipp.batch import encode_batch
from dipp.sandbox.namespaces import probe_namespaces
from dipp.testing import Harness, make_chain, sample_image, segment
from dipp.runner.executor import Limits
# The module writes a file to say that it runs.
limits = Limits(skipped_rungs=('landlock', 'environment'))
harness = Harness(limits, sys.argv[2], namespaces=sys.argv[3] == 'True')
data = encode_batch([sample_image()])
with segment(data) as fd:
    chain = make_chain(sys.argv[1], timeout_s=60)
    promise = harness.executor.submit(harness.job(chain, fd, data, 1))
    harness.loop.run_until(promise, 60)
"""
DAEMON = """
import os, time
def run(batch, params):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(os.environ['READY'], 'w').write(os.readlink('/proc/self'))
            time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.parametrize("victims", ["node", "node and forge"])
def test_nothing_survives_the_death_of_the_node(tmp_path, scratch, module, victims, namespaces):
    ready = tmp_path / "ready"
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(module(DAEMON)), str(scratch), str(namespaces)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "READY": str(ready)},
    )
    try:
        wait_until(lambda: ready.exists() and ready.read_text())
        family = descendants(node.pid)
        daemon = int(ready.read_text())
        (forge,) = [pid for pid in family if parent_of(pid) == node.pid]
        if victims == "node and forge":
            os.kill(forge, signal.SIGSTOP)
    finally:
        node.kill()
        node.wait()
    if victims == "node and forge":
        os.kill(forge, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{forge}").exists())
        # Hosts and children are tied to their parents; a daemon is found by the next start.
        with Harness(scratch_dir=str(scratch)):
            pass
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in {*family, daemon}))
    wait_until(lambda: len(list(scratch.iterdir())) == 1)


def wait_until(condition, deadline_s=10.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "not within the deadline"
        os.sched_yield()


def descendants(root):
    found = {root}
    while True:
        more = {pid for pid in all_pids() if parent_of(pid) in found} - found
        if not more:
            return found - {root}
        found |= more


def test_close_fails_what_is_not_done(scratch, module, namespaces):
    with Harness(Limits(grace_s=0.5), str(scratch), namespaces=namespaces) as harness:
        promise = submit_hanging(harness, module)
    assert promise.result().code == Code.OPERATOR_STOP


def test_scratch_of_the_living_is_kept_and_of_the_dead_removed(tmp_path):
    dead = tmp_path / "dipp-forge-dead"
    (dead / "host1").mkdir(parents=True)
    with Harness(scratch_dir=str(tmp_path)) as first:
        assert not dead.exists()
        (living,) = tmp_path.iterdir()
        with Harness(scratch_dir=str(tmp_path)):
            assert living.exists()
            assert len(list(tmp_path.iterdir())) == 2
        assert first.executor.stats.forge_restarts == 0
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_a_sweep_takes_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    made = []
    real = forgehandle.tempfile.mkdtemp

    def swept(**wanted):
        path = real(**wanted)
        if not made:
            # What a node that starts in this instant does: nobody holds the lock yet.
            forgehandle.remove_stale_scratch(str(tmp_path))
        made.append(path)
        return path

    monkeypatch.setattr(forgehandle.tempfile, "mkdtemp", swept)
    with Harness(scratch_dir=str(tmp_path)) as harness:
        assert len(made) == 2
        assert [str(path) for path in tmp_path.iterdir()] == [made[1]]
        assert harness.executor.stats.forge_restarts == 0


FILLER = """
import errno
def run(batch, params):
    written = 0
    try:
        for number in range(1000):
            with open(f'{number}.bin', 'wb') as file:
                for _ in range(16):
                    written += file.write(bytes(1 << 20))
    except OSError as error:
        batch.images[0].add_item('errno', errno.errorcode[error.errno])
    batch.images[0].add_item('written', written)
"""
ENTRIES = """
import errno, os
def run(batch, params):
    try:
        for number in range(100_000):
            os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        batch.images[0].add_item('errno', errno.errorcode[error.errno])
"""


def test_all_modules_together_write_no_more_than_a_bound(harness, module, namespaces):
    if "scratch" not in active_names(wait_for_rungs(harness)):
        # As an ordinary user, or without the right to mount.
        assert not namespaces or os.geteuid() != 0
        pytest.skip("only a file system of its own bounds it")
    for source in (FILLER, ENTRIES):
        path = module(source, "filler")
        ((meta, _),) = harness.run_images(make_chain(path, timeout_s=30))
        assert meta.item("errno") == "ENOSPC"
        if source is FILLER:
            assert 0 < int(meta.item("written")) <= SCRATCH_BYTES
        # It is all gone with the module, so the next one has the same room.
        ((meta, _),) = harness.run_images(make_chain(path, timeout_s=30))
        assert meta.item("errno") == "ENOSPC"


def wait_for_rungs(harness):
    wait_until(lambda: harness.loop.tick(0.05) or harness.executor.stats.missing_rungs is not None)
    return harness.executor.stats.missing_rungs


LOADS_FOR_EVER = "import time\nwhile True:\n    time.sleep(1)\ndef run(b, p): pass\n"


def test_a_host_killed_while_it_loads_has_a_code_of_its_own(module, namespaces, tmp_path):
    limits = Limits(load_timeout_s=60, grace_s=0.5)
    with Harness(limits, str(tmp_path), namespaces=namespaces) as own:
        data = encode_batch([sample_image()])
        with segment(data) as fd:
            chain = make_chain(module(LOADS_FOR_EVER, "slow"))
            promise = own.executor.submit(own.job(chain, fd, data, 1))

            def is_loading():
                own.loop.tick(0.02)
                return [each.state for each in own.executor._hosts.values()] == [State.LOADING]

            wait_until(is_loading)
            (host,) = [pid for pid in all_pids() if parent_of(pid) == own.forge_pid]
            os.kill(host, signal.SIGKILL)
            outcome = own.loop.run_until(promise, 20)
        assert outcome.code == Code.LOAD_KILLED == 609
        assert own.executor.stats.forge_restarts == 0
        own.run_images(make_chain(module(IDENTITY), pipeline_id=2))
