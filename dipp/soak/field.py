"""The node under load: batches go in, fates are counted, everything is looked at. Driver."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import posix_ipc

from csp.errors import PeerError
from csp.param.errors import ParamError
from dipp.faults.daemon import NODE, Daemon
from dipp.policy.settings import MODULE_REARM, REARM_ALL
from dipp.ringindex import RingGeometry
from dipp.soak.history import History
from dipp.soak.samples import Sample, monotonic_s, take_sample

GOOD = "identity"
GOOD_PIPELINE, FIRST_BAD_PIPELINE = 1, 2
_MODULES = {
    GOOD: "def run(batch, params):\n    pass\n",
    "negate": "def run(batch, params):\n    for image in batch.images:\n"
    "        pixels = image.edit()\n        pixels[:] = 255 - pixels\n",
}
_GEOMETRY = RingGeometry(entries=512, data_bytes=1 << 20)
_WAIT_ALL = 4
_DRAIN_S = 120.0
# From its fate to the end of its segment a batch may still have thumbnails made of it.
_REMOVAL_S = 60.0
_SAMPLE_EVERY_S = 1.0
_PING_S = 1.0
_FATES = ("batches_delivered", "batches_quarantined", "batches_dropped")


class Field:
    """A daemon, its load and what was seen of it; a context manager."""

    def __init__(self, root: Path) -> None:
        self.daemon = Daemon(root, geometry=_GEOMETRY, options=("--quarantine-size", str(4 << 20)))
        for name, source in _MODULES.items():
            self.install(name, source)
        self.history = History()
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self.sent = self.done = self.delivered = self.restarts = 0
        self.longest_ping_s = 0.0
        self.phase = "start"
        self._began_s = monotonic_s()
        self._next_sample_s = 0.0
        self._log_offset, self._log_inode = 0, 0
        self._live: list[str] = []
        self._left: list[str] = []

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *exc: object) -> None:
        self.daemon.close()

    def install(self, name: str, source: str) -> None:
        """Put a module where the node finds it."""
        (self.daemon.modules / f"{name}.py").write_text(source)

    # -- the node

    def start(self) -> None:
        """Start the node, or start it again, and let it work. Raises TimeoutError."""
        self.daemon.start()
        self.set("module_timeout", 1)
        self.configure(GOOD_PIPELINE, GOOD)
        self.serve()

    def serve(self) -> None:
        """Make the node take whatever comes."""
        self.set("pipeline_run", _WAIT_ALL)

    def revive(self) -> None:
        """Start the node if it is dead; what was left open goes first. Raises TimeoutError.

        Records a problem if nobody has killed it.
        """
        process = self.daemon.process
        status = process.poll() if process is not None else None
        if status is None:
            return
        if status != -signal.SIGKILL:
            # Strikes kill it; nothing they do may be a reason to end by itself.
            self.problems.append(f"the node ended by itself with {status} ({self.phase})")
        self.restarts += 1
        self.start()

    def set(self, name: str, value: int | bytes) -> None:
        """Push a value until it is stored; a loaded node may need a second try."""
        self._try(lambda: self.daemon.set(name, value))

    def configure(self, pipeline: int, *modules: str) -> None:
        """Set a pipeline."""
        self._try(lambda: self.daemon.configure(*modules, pipeline=pipeline))

    def rearm(self) -> None:
        """Let everything run again that has failed too often, as an operator does."""
        self.set(MODULE_REARM, REARM_ALL)

    def _try(self, action: Callable[[], None], attempts: int = 5) -> None:
        for _ in range(attempts):
            # A strike may have killed it just now, and nobody else looks while this waits.
            self.revive()
            with contextlib.suppress(PeerError, ParamError):
                action()
                return
        self.problems.append("the node does not take parameters")

    # -- load

    def shoot(self, random: Random, pipeline: int, size: int = 16) -> None:
        """Announce one batch, when there is room for it."""
        pixels = random.randbytes(size)
        while True:
            name, data = self.daemon.camera.make(pixels, obid=self.sent)
            try:
                self.daemon.camera.announce(name, data, 1, pipeline)
            except (posix_ipc.BusyError, posix_ipc.ExistentialError):
                self.daemon.camera.remove(name)
                self.breathe()
                continue
            break
        self.sent += 1
        self.expect(name)

    def expect(self, name: str) -> None:
        """Look for a segment until it is gone."""
        self._live.append(name)

    def breathe(self) -> None:
        """Serve the ground, look at the node now and then, keep it alive."""
        self.daemon.loop.tick(0.002)
        now = monotonic_s()
        if now >= self._next_sample_s:
            self._next_sample_s = now + _SAMPLE_EVERY_S
            self.revive()
            self.count()
            self.look()

    def count(self) -> None:
        """Ask the node how many batches have their fate, and time a ping."""
        began_s = monotonic_s()
        alive = self.daemon.ping(_PING_S)
        took_s = monotonic_s() - began_s
        if alive:
            self.longest_ping_s = max(self.longest_ping_s, took_s)
        elif self.daemon.process is not None and self.daemon.process.poll() is None:
            self.problems.append(f"no answer to a ping within {_PING_S:g} s ({self.phase})")
        with contextlib.suppress(PeerError, ParamError):
            wanted = [(name, None) for name in _FATES]
            values = self.daemon.do(self.daemon.remote.get_many(NODE, wanted))
            fates = [value for value in values if isinstance(value, int)]
            self.done, self.delivered = sum(fates), fates[0]

    def look(self) -> None:
        """Take a sample; read what is new in the event log."""
        self.daemon.camera.segments[:] = [*self._left, *self._existing()]
        now = monotonic_s() - self._began_s
        self.samples.append(take_sample(self.daemon, now, self.done, self.phase))
        self.history.take(self._events())

    def _existing(self) -> list[str]:
        """Return the segments that may still be in use and are there."""
        self._live = [name for name in self._live if self.daemon.camera.exists(name)]
        return self._live

    def drain(self) -> None:
        """Wait until every announced batch has its fate and its segment is gone.

        Records a problem if that never is, for each segment once.
        """
        end = monotonic_s() + _DRAIN_S
        while monotonic_s() < end:
            self.breathe()
            if self.done >= self.sent:
                self._await_removal()
                return
            with contextlib.suppress(PeerError, ParamError):
                if self.daemon.get("pipeline_run") == 0:
                    self.serve()
            self.count()
        self.problems.append(f"{self.sent - self.done} of {self.sent} batches without a fate")

    def _await_removal(self) -> None:
        end = monotonic_s() + _REMOVAL_S
        while self._existing() and monotonic_s() < end:
            self.breathe()
        if self._live:
            names = ", ".join(self._live)
            self.problems.append(f"{len(self._live)} segments left: {names}")
            self._left += self._live
            self._live = []

    def measure(self, random: Random, batches: int) -> float:
        """Bring good batches through; return how many a second.

        Records a problem if one is not delivered: to refuse batches is no throughput.
        """
        self.drain()
        delivered = self.delivered
        began_s = monotonic_s()
        for _ in range(batches):
            self.shoot(random, GOOD_PIPELINE)
        self.drain()
        rate = round(batches / (monotonic_s() - began_s), 1)
        failed = batches - (self.delivered - delivered)
        if failed:
            self.problems.append(f"{failed} of {batches} good batches failed ({self.phase})")
        self.look()
        return rate

    # -- the event log

    def _events(self) -> Iterator[dict[str, object]]:
        log = self.daemon.state / "log"
        try:
            inode = log.stat().st_ino
        except OSError:
            return
        if self._log_inode not in (0, inode):
            yield from self._read(log.with_suffix(".1"))
            self._log_offset = 0
        self._log_inode = inode
        yield from self._read(log)

    def _read(self, path: Path) -> Iterator[dict[str, object]]:
        try:
            with path.open("rb") as file:
                file.seek(self._log_offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._log_offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event
