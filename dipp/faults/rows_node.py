"""Rows of group H: the node is killed, stopped, started twice; clocks and numbers lie. Driver.

A real `dipp serve` wherever the node dies; its parts alone where every system call is a place to
die.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from csp.errors import PeerError
from csp.faultrow import Case, FaultRow, require
from dipp.errors import Code
from dipp.faults.daemon import Daemon, descendants, is_alive
from dipp.faults.sabotage import BROKEN, CHANGES, KILL, every_call
from dipp.intake import Intake
from dipp.rig import Camera, FakeRunner, Rig, unique
from dipp.runner import wait
from dipp.runner.executor import Failed
from dipp.testing import IDENTITY, SLEEP, Harness, make_chain

_KILLS = 6
_SLOW = "import time\ndef run(batch, params):\n    time.sleep(0.15)\n"
_CRASHES = "import os\ndef run(batch, params):\n    os.abort()\n"
# Executed by every Python that is started with this directory on its path.
_JUMPING_CLOCK = """\
import itertools, time
real = time.time
jumps = itertools.cycle((3600.0, -3600.0, 1e9, 0.0))
def jump():
    return max(0.0, real() + next(jumps))
time.time = jump
time.time_ns = lambda: int(jump() * 1e9)
"""
_LOOKS_AT_CLOCK = """\
import time
def run(batch, params):
    spread = [time.time() for _ in range(8)]
    batch.images[0].add_item('spread', max(spread) - min(spread))
"""


def _kill_at_every_call(case: Case) -> str:
    camera = Camera(unique())
    case.cleanup.callback(camera.clean)
    intake = Intake(camera.queue, case.directory / "unused")
    case.cleanup.callback(intake.close)
    kills = 0
    for kind, behave in (("delivered", None), ("quarantined", FakeRunner.failing())):
        number = 0

        def prepare(kind: str = kind, behave: object = behave) -> Callable[[], None]:
            nonlocal number
            number += 1
            intake.ensure()
            camera.shoot(b"first", b"second")
            state = case.directory / f"{kind} {number}"

            def operation() -> None:
                rig = Rig(state, camera.queue)
                if behave is not None:
                    rig.runner.behaviour = behave  # type: ignore[assignment]
                rig.boot()
                rig.run(2)
                rig.close()

            return operation

        for ending in every_call(prepare, CHANGES, KILL):
            what = (
                f"{kind}, killed at {ending.struck.name if ending.struck else 'no call'} {number}"
            )
            require(ending.status != BROKEN, f"{what}: an unexpected exception")
            rig = Rig(case.directory / f"{kind} {number}", camera.queue)
            if behave is not None:
                rig.runner.behaviour = behave
            rig.boot()
            rig.run(2)
            taken, delivered, quarantined, dropped = rig.fates
            require(
                (taken, delivered + quarantined + dropped) == (1, 1), f"{what}: fates {rig.fates}"
            )
            require(len(rig.images) == 2 * delivered, f"{what}: {len(rig.images)} images")
            require(rig.quarantine.count == quarantined, f"{what}: {rig.quarantine.count} kept")
            require(not any(map(camera.exists, camera.segments)), f"{what}: a segment is left")
            rig.close()
            kills += ending.was_killed
    require(kills > 40, f"only {kills} places to die")
    return f"{kills} kills, one before each call that changes something: one fate each"


def _kill_at_random_times(case: Case) -> str:
    with Daemon(case.directory) as daemon:
        (daemon.modules / "slow.py").write_text(_SLOW)
        (daemon.modules / "crashes.py").write_text(_CRASHES)
        daemon.start()
        daemon.configure("slow")
        daemon.configure("slow", "crashes", pipeline=2)
        shot = 0
        for _ in range(_KILLS):
            for _ in range(2):
                daemon.camera.shoot(b"x", pipeline=case.random.choice((1, 1, 2)))
                shot += 1
            with contextlib.suppress(PeerError):
                daemon.set("pipeline_run", 2)
            daemon.serve_for(case.random.uniform(0.0, 0.5))
            daemon.kill()
            daemon.start()
            daemon.until_idle()
        daemon.set("pipeline_run", 2)
        daemon.until_idle()
        replays = daemon.get("batch_replays")
        left = [name for name in daemon.camera.segments if daemon.camera.exists(name)]
        require(daemon.terminate() == 0, "the node did not end by itself")
        totals = daemon.totals()
        fates = totals.delivered + totals.quarantined + totals.dropped
        require((totals.taken, fates) == (shot, shot), f"{shot} batches sent, {totals}")
        # A failed image may be there as a thumbnail.
        thumbnails = daemon.stored() - totals.images
        require(0 <= thumbnails <= totals.quarantined, f"{thumbnails} thumbnails, {totals}")
        require(daemon.quarantined() == totals.quarantined, f"quarantine and journal: {totals}")
        require(not left, f"segments left: {left}")
    return f"{_KILLS} kills, {shot} batches: {totals}, {replays} replays after the last start"


def _drain(case: Case) -> str:
    with Daemon(case.directory) as daemon:
        (daemon.modules / "slow.py").write_text(_SLOW)
        daemon.start()
        daemon.configure("slow", "slow", "slow")
        for _ in range(2):
            daemon.camera.shoot(b"x")
        daemon.set("pipeline_run", 4)
        daemon.until_module_runs()
        below = descendants(daemon.pid)
        require(daemon.terminate() == 0, "exit status is not 0")
        require(not any(map(is_alive, below)), "a process is left")
        first = daemon.totals()
        require(first.delivered == first.taken >= 1, f"after SIGTERM: {first}")
        daemon.start()
        daemon.set("pipeline_run", 2)
        daemon.until_idle()
        require(daemon.get("batches_delivered") == 2, "what was queued was lost")
    return f"{first.delivered} ended, {2 - first.delivered} stayed queued and ran after the restart"


def _restart_intensity(case: Case) -> str:
    path = case.directory / "identity.py"
    path.write_text(IDENTITY)
    with Harness() as harness:
        harness.run_images(make_chain(path))
        deaths = 0
        while deaths < 5:
            deaths += 1
            os.kill(harness.forge_pid, signal.SIGKILL)
            end = time.monotonic() + 1.0
            restarts = harness.executor.stats.forge_restarts
            while harness.executor.stats.forge_restarts == restarts and time.monotonic() < end:
                harness.loop.tick(0.05)
            if harness.executor.stats.forge_restarts == restarts:
                break
        restarts = harness.executor.stats.forge_restarts
        require(restarts <= 3, f"{restarts} restarts within a minute, at most 3 are allowed")
        outcome = harness.run(make_chain(path, generation=2))
        require(isinstance(outcome, Failed), "a batch passed although no forge may be started")
        code = int(outcome.code) if isinstance(outcome, Failed) else 0
        harness.executor.rearm()
        harness.run_images(make_chain(path, generation=3))
    return (
        f"gave up after {restarts} restarts of {deaths} deaths, batches fail with {code};"
        " re-armed, it works again"
    )


def _two_nodes(case: Case) -> str:
    with Daemon(case.directory) as daemon:
        daemon.start()
        for state, text in (
            (daemon.state, "in use by another node"),
            (case.directory / "other", "queue"),
        ):
            second = daemon.run_second(state)
            require(second.returncode == 1, f"{state.name}: exit status {second.returncode}")
            require(text in second.stderr, f"{state.name}: {second.stderr.strip()!r}")
            require(f"process {daemon.pid}" in second.stderr, "the owner is not named")
        require(daemon.ping(1.0), "the first one no longer answers")
        (daemon.modules / "good.py").write_text(IDENTITY)
        daemon.configure("good")
        daemon.camera.shoot(b"x")
        daemon.set("pipeline_run", 2)
        daemon.until_idle()
        require(daemon.get("batches_delivered") == 1, "the first one no longer works")
    return f"both refused: {second.stderr.strip()}"


def _clock_jumps(case: Case) -> str:
    site = case.directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_JUMPING_CLOCK)
    paths = {}
    for name, source in (("clock", _LOOKS_AT_CLOCK), ("good", IDENTITY), ("hangs", SLEEP)):
        paths[name] = case.directory / f"{name}.py"
        paths[name].write_text(source)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), before or ""]).rstrip(os.pathsep)
    try:
        harness = Harness()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    with harness:
        ((metadata, _),) = harness.run_images(make_chain(paths["clock"]))
        spread_s = float(metadata.item("spread") or 0)
        require(spread_s > 3600, "the module saw no jump: nothing was injected")
        outcome = harness.run(make_chain(paths["hangs"], timeout_s=0.3))
        require(isinstance(outcome, Failed) and outcome.code == Code.TIMEOUT, "no timeout")
        wall_s = outcome.stages[0].wall_s
        require(0.3 <= wall_s < 0.8, f"timeout of 0.3 s after {wall_s:.3f} s")
        harness.run_images(make_chain(paths["good"]))
    return f"clock jumps of {spread_s:.0f} s; a timeout of 0.3 s came after {wall_s:.2f} s"


def _number_used_again(case: Case) -> str:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = subprocess.Popen(command, start_new_session=True)
    case.cleanup.callback(child.wait)
    case.cleanup.callback(child.kill)
    pidfd, own = os.pidfd_open(child.pid), os.pidfd_open(os.getpid())
    try:
        for pid, fd in ((os.getpid(), own), (child.pid, own), (os.getpid(), pidfd), (1, pidfd),
                        (0, pidfd), (-1, pidfd)):  # fmt: skip
            wait.kill_group(pid, fd)
            require(child.poll() is None, f"number {pid} with another descriptor was signalled")
        child.kill()
        child.wait()
        # The number is free now; the descriptor still means the process that it meant.
        wait.kill_group(child.pid, pidfd)
    finally:
        os.close(pidfd)
        os.close(own)
    return "number and descriptor of different processes, 1, 0, -1, a reaped one: no signal sent"


ROWS: tuple[FaultRow, ...] = (
    FaultRow(
        id=67, name="killed-at-every-call", inject=_kill_at_every_call,
        injected="SIGKILL before each system call that changes a store, queue or segment; restart",
        expected="one fate, images once, quarantine and journal agree, no segment left",
    ),
    FaultRow(
        id=67, name="killed-at-random-times", inject=_kill_at_random_times,
        injected=f"{_KILLS} SIGKILLs of `dipp serve` at random moments, restarts",
        expected="everything below it dies; each batch one fate; ring, quarantine, journal agree",
    ),
    FaultRow(
        id=68, name="sigterm-in-mid-batch", inject=_drain,
        injected="SIGTERM while a module runs and another batch waits",
        expected="exit 0, the batch ends, no process left, the rest runs after a restart",
    ),
    FaultRow(
        id=69, name="forge-dies-too-often", inject=_restart_intensity,
        injected="SIGKILL of the forge until it is not started again",
        expected="at most 3 restarts in a minute, batches fail with a code, re-arming works",
    ),
    FaultRow(
        id=70, name="second-node", inject=_two_nodes,
        injected="another `dipp serve` on the same state, and on the same queue with another state",
        expected="exit 1, says what is in use and by which process; the first one goes on",
    ),
    FaultRow(
        id=71, name="clock-jumps", inject=_clock_jumps,
        injected="the wall clock of forge, host and module jumps by hours and to 1970 at each look",
        expected="a timeout comes on time, a good module passes",
    ),
    FaultRow(
        id=72, name="process-number-used-again", inject=_number_used_again,
        injected="asks to kill with a number and a descriptor that belong to different processes",
        expected="no signal to anybody",
    ),
)  # fmt: skip
