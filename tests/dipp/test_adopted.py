"""What a killed forge leaves, for an ordinary user without namespaces: adopted and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Not the user of other tests, which count its processes.
ANYBODY = 65532
STRAY = """
import ctypes, os, time
def run(batch, params):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            # By their environment strays are found.
            entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), 'environ')
            index = 0
            while entries[index]:
                ctypes.memset(entries[index], 0, len(ctypes.string_at(entries[index])))
                index += 1
            with open('ready.new', 'w') as file:
                file.write(str(os.getpid()))
            os.rename('ready.new', 'ready')
            time.sleep(600)
        os._exit(0)
    time.sleep(600)
"""
# Starts what `dipp serve` starts; a line on standard input kills the forge.
NODE = """
import os, signal, sys
from pathlib import Path
from dipp.batch import encode_batch
from dipp.runner.executor import Limits
from dipp.testing import Harness, make_chain, sample_image, segment
place, adopts = Path(sys.argv[1]), sys.argv[2] == 'True'
harness = Harness(
    Limits(skipped_rungs=('landlock', 'seccomp')), str(place), namespaces=False, adopts=adopts
)
data = encode_batch([sample_image()])
with segment(data) as fd:
    chain = make_chain(place / 'stray.py', timeout_s=600)
    promise = harness.executor.submit(harness.job(chain, fd, data, 1))
    while not (found := list(place.glob('dipp-forge-*/host*/stage-*/ready'))):
        harness.loop.tick(0.05)
    print(os.geteuid(), found[0].read_text(), flush=True)
    sys.stdin.readline()
    os.kill(harness.forge_pid, signal.SIGKILL)
    harness.loop.run_until(promise, 60)
    while harness.executor.stats.forge_restarts == 0:
        harness.loop.tick(0.05)
print('restarted', flush=True)
sys.stdin.readline()
harness.close()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "stray.py").write_text(STRAY)
        if os.geteuid() == 0:
            os.chown(name, ANYBODY, ANYBODY)
        yield Path(name)


def as_anybody() -> list[str]:
    """Return what makes a command run as an ordinary user, who may read what Python is made of."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv to become an ordinary user with")
    user, read = str(ANYBODY), "-all,+dac_read_search"
    return [
        setpriv, "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps", read,
        "--ambient-caps", "+dac_read_search", "--bounding-set", read,
    ]  # fmt: skip


@contextlib.contextmanager
def node(place: Path, *, adopts: bool) -> Iterator[subprocess.Popen[str]]:
    command = [*as_anybody(), sys.executable, "-c", NODE, str(place), str(adopts)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    try:
        yield process
        process.communicate("\n", timeout=30)
    finally:
        process.kill()
        process.wait()


def kill_forge(process: subprocess.Popen[str]) -> int:
    """Wait for the stray, let the node kill its forge and start another; return the stray."""
    assert process.stdin is not None
    assert process.stdout is not None
    user, stray = process.stdout.readline().split()
    assert int(user) != 0
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "restarted\n"
    return int(stray)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stray_without_environment_does_not_outlive_its_forge(place: Path) -> None:
    with node(place, adopts=True) as process:
        stray = kill_forge(process)
        assert not is_alive(stray)


def test_without_adoption_it_would(place: Path) -> None:
    with node(place, adopts=False) as process:
        stray = kill_forge(process)
        assert is_alive(stray)
        pidfd = os.pidfd_open(stray)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


OTHERS = """
import os, signal, subprocess, sys, time
from pathlib import Path
from dipp.testing import Harness
harness = Harness(namespaces=False, adopts=True)
os.kill(harness.forge_pid, signal.SIGKILL)
while harness.executor.stats.forge_restarts == 0:
    harness.loop.tick(0.05)
print('restarted', flush=True)
sys.stdin.readline()
harness.close()
"""


def test_children_that_were_there_before_and_their_orphans_are_left_alone() -> None:
    # A shell starts something, and something whose parent ends, and becomes the node.
    script = 'sleep 600 & echo $!; (sleep 600 >/dev/null & echo $!); exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", sys.executable, "-c", OTHERS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())}, process_group=0,
    )  # fmt: skip
    assert process.stdout is not None
    others = [int(process.stdout.readline()) for _ in range(2)]
    try:
        assert process.stdout.readline() == "restarted\n"
        assert all(map(is_alive, others))
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            process.communicate("\n", timeout=30)
        process.wait(30)
