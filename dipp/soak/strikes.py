"""What strikes during a soak: kills, stops, shortages, noise, and modules that misbehave. Driver.

One row a strike. A hostile module gets a pipeline of its own for the length of a round; everything
else happens once, at a random moment of the round.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import posix_ipc

from csp.errors import PeerError
from csp.param.errors import ParamError
from dipp.config.codec import encode_slot
from dipp.hostile import FAULTS
from dipp.soak.field import GOOD, GOOD_PIPELINE, Field
from dipp.soak.samples import descriptors

_PAUSE_TICKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One row. `module` is the source of a hostile module, `act` what happens otherwise."""

    name: str
    module: str = ""
    act: Callable[[Field, Random], None] | None = None


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    if pid > 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_node(field: Field, random: Random) -> None:
    _kill(field.daemon.pid)


def _kill_forge(field: Field, random: Random) -> None:
    _kill(field.daemon.forge_pid)


def _kill_host(field: Field, random: Random) -> None:
    hosts = field.daemon.host_pids()
    if hosts:
        _kill(random.choice(hosts))


def _kill_module(field: Field, random: Random) -> None:
    children = field.daemon.module_pids()
    if children:
        _kill(random.choice(children))


def _stop_host(field: Field, random: Random) -> None:
    hosts = field.daemon.host_pids()
    if hosts:
        pid = random.choice(hosts)
        _kill(pid, signal.SIGSTOP)
        for _ in range(_PAUSE_TICKS):
            field.breathe()
        _kill(pid, signal.SIGCONT)


def _noise_on_queue(field: Field, random: Random) -> None:
    with contextlib.suppress(posix_ipc.BusyError, posix_ipc.ExistentialError):
        for _ in range(random.randrange(1, 8)):
            field.daemon.camera.send(random.randbytes(random.choice((0, 4, 40, 128))))


def _bad_configuration(field: Field, random: Random) -> None:
    with contextlib.suppress(PeerError, ParamError):
        value = random.choice((encode_slot(b"\xff\xff"), bytes([80]) + random.randbytes(100)))
        field.daemon.set(f"pipeline_config_{GOOD_PIPELINE}", value.ljust(188, b"\0"))


def _update(field: Field, random: Random) -> None:
    field.configure(GOOD_PIPELINE, random.choice((GOOD, "negate")))


def _abort(field: Field, random: Random) -> None:
    with contextlib.suppress(PeerError, ParamError):
        field.daemon.set("batch_abort", 1)


def _no_descriptors(field: Field, random: Random) -> None:
    pid = field.daemon.pid
    held = descriptors(pid)
    if not held:
        return
    with contextlib.suppress(ProcessLookupError):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, hard))
        try:
            for _ in range(_PAUSE_TICKS):
                field.daemon.loop.tick(0.002)
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def _flip_in_segment(field: Field, random: Random) -> None:
    name, data = field.daemon.camera.make(random.randbytes(32), obid=field.sent)
    segment = posix_ipc.SharedMemory(name)
    bit = random.randrange(8 * len(data))
    with open(segment.fd, "r+b") as file:
        file.seek(bit // 8)
        file.write(bytes([data[bit // 8] ^ 1 << bit % 8]))
    try:
        field.daemon.camera.announce(name, data, 1, GOOD_PIPELINE)
    except (posix_ipc.BusyError, posix_ipc.ExistentialError):
        field.daemon.camera.remove(name)
    else:
        field.sent += 1
        field.expect(name)


_HOSTILE = (
    "exits-1", "exits-0", "kills-itself", "raises-ValueError", "raises-MemoryError", "python-abort",
    "recursion", "busy-loop", "blocks-all-signals", "stops-itself", "floods-the-log",
    "closes-everything", "daemon", "daemon-and-crash", "leaks-descriptors", "too-large-a-file",
    "too-much-memory", "opens-a-socket", "kills-its-parent", "writes-outside-its-scratch",
    "metadata-garbage", "other-pipeline", "range-beyond-segment", "two-results", "import-crashes",
)  # fmt: skip

STRIKES: tuple[Strike, ...] = (
    *(Strike(name=fault.name, module=fault.python) for fault in FAULTS if fault.name in _HOSTILE),
    Strike(name="node-killed", act=_kill_node),
    Strike(name="forge-killed", act=_kill_forge),
    Strike(name="host-killed", act=_kill_host),
    Strike(name="module-killed", act=_kill_module),
    Strike(name="host-stopped", act=_stop_host),
    Strike(name="foreign-messages", act=_noise_on_queue),
    Strike(name="bad-configuration", act=_bad_configuration),
    Strike(name="pipeline-updated", act=_update),
    Strike(name="batch-aborted", act=_abort),
    Strike(name="no-descriptors-left", act=_no_descriptors),
    Strike(name="bit-flipped-in-segment", act=_flip_in_segment),
)
