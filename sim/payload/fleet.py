"""Start, watch and end the node processes of an emulated payload.

Theory of operation: the launcher forks one *fleet* process before it opens any socket. The fleet
is single-threaded and has the heavy libraries imported, so each node is a cheap fork that shares
those pages, and a node that died can be started again at any time. One that ends because it was
told to reboot is started again by the fleet. Launcher and fleet talk in
small JSON messages over a SOCK_SEQPACKET pair; when the launcher's end closes (it was killed), the
fleet ends every node and then itself. Source: design.md 2 and 7, style-anchors.md 2.3.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csp.loop import REBOOT_STATUS

_PR_SET_PDEATHSIG = 1
_STOP_GRACE_S = 5.0
# A START message names a function and its arguments; nothing longer is ever sent.
_MAX_MESSAGE_BYTES = 64 * 1024


class FleetError(Exception):
    """A node could not be started, or the fleet process is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One node process: `entry` is `module:function`, called with `argv`, returning a status."""

    name: str
    entry: str
    argv: tuple[str, ...] = ()


@dataclass(slots=True)
class NodeProcess:
    """What is known of one node: its pid, and how it ended if it did."""

    spec: NodeSpec
    pid: int
    exit_status: int | None = None


@dataclass(slots=True)
class Fleet:
    """The launcher's handle on the fleet process. Use as a context manager.

    `log_dir` receives one `NAME.log` per node with its stdout and stderr; `preload` names modules
    imported once, before any node is forked, so that all nodes share their pages.
    """

    log_dir: Path
    preload: tuple[str, ...] = ()
    nodes: dict[str, NodeProcess] = field(default_factory=dict)
    _ended: list[NodeProcess] = field(default_factory=list)
    _sock: socket.socket | None = None
    _pid: int = 0

    def __enter__(self) -> Fleet:
        self.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _child_exit(lambda: _FleetProcess(theirs, self.log_dir, self.preload).run())
        theirs.close()
        self._sock = ours
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, spec: NodeSpec, timeout_s: float = 20.0) -> NodeProcess:
        """Fork a node and return it once its process exists. Raises FleetError."""
        self._send({"do": "start", "spec": asdict(spec)})
        deadline = time.monotonic() + timeout_s
        while True:
            message = self._receive(deadline - time.monotonic())
            if message is None:
                raise FleetError(f"node {spec.name} was not started within {timeout_s:g} s")
            if message["event"] == "started" and message["name"] == spec.name:
                break
            self._note_exit(message)
        node = NodeProcess(spec, message["pid"])
        self.nodes[spec.name] = node
        return node

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process group of a node that still runs."""
        node = self.nodes[name]
        if node.exit_status is None:
            os.killpg(node.pid, number)

    def poll(self) -> list[NodeProcess]:
        """Take in what the fleet reported; return the nodes that ended since the last call."""
        while (message := self._receive(0.0)) is not None:
            self._note_exit(message)
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """End every node (SIGTERM, then SIGKILL after a grace period) and the fleet itself."""
        if self._sock is None:
            return
        self._sock.close()
        self._sock = None
        os.waitpid(self._pid, 0)

    def _note_exit(self, message: Mapping[str, Any]) -> None:
        node = self.nodes.get(message["name"])
        if message["event"] == "started" and node is not None:
            # It rebooted.
            node.pid, node.exit_status = message["pid"], None
            return
        if message["event"] == "exited" and node is not None and node.pid == message["pid"]:
            node.exit_status = message["status"]
            self._ended.append(node)

    def _send(self, message: dict[str, Any]) -> None:
        if self._sock is None:
            raise FleetError("the fleet process is not running")
        self._sock.send(json.dumps(message).encode())

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        if self._sock is None:
            raise FleetError("the fleet process is not running")
        self._sock.settimeout(max(0.0, timeout_s))
        try:
            data = self._sock.recv(_MAX_MESSAGE_BYTES)
        except (TimeoutError, BlockingIOError):
            return None
        if not data:
            raise FleetError(f"the fleet process died; see {self.log_dir}")
        message: dict[str, Any] = json.loads(data)
        return message


class _FleetProcess:
    """The loop inside the fleet process."""

    def __init__(self, sock: socket.socket, log_dir: Path, preload: tuple[str, ...]) -> None:
        self._sock = sock
        self._preload = preload
        self._log_dir = log_dir
        self._running: dict[int, NodeSpec] = {}

    def run(self) -> int:
        # Its own session: Ctrl-C in the terminal reaches the launcher only, which then ends us in
        # order.
        os.setsid()
        _die_with_parent(signal.SIGTERM)
        for name in self._preload:
            importlib.import_module(name)
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        signal.set_wakeup_fd(wake_write)
        stopping = [False]
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: stopping.__setitem__(0, True))
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while not stopping[0]:
                for key, _ in selector.select():
                    if key.fileobj is self._sock:
                        if not self._command():
                            stopping[0] = True
                    else:
                        os.read(wake_read, 512)
                        self._reap()
        self._stop_all()
        return 0

    def _command(self) -> bool:
        data = self._sock.recv(_MAX_MESSAGE_BYTES)
        if not data:
            return False
        self._start(NodeSpec(**json.loads(data)["spec"]))
        return True

    def _start(self, spec: NodeSpec) -> None:
        pid = os.fork()
        if pid == 0:
            self._sock.close()
            _child_exit(lambda: _run_node(spec, self._log_dir))
        # Also set here, so that a signal to the group works from the moment we answer.
        os.setpgid(pid, pid)
        self._running[pid] = spec
        self._tell({"event": "started", "name": spec.name, "pid": pid})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._sock.send(json.dumps(message).encode())
        except OSError:
            return  # the launcher is gone: the next recv ends the loop

    def _reap(self, *, reboot: bool = True) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            spec = self._running.pop(pid, None)
            if spec is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if reboot and code == REBOOT_STATUS:
                self._start(spec)
            else:
                self._tell({"event": "exited", "name": spec.name, "pid": pid, "status": code})

    def _stop_all(self) -> None:
        deadline = time.monotonic() + _STOP_GRACE_S
        for pid in self._running:
            _signal_group(pid, signal.SIGCONT)
            _signal_group(pid, signal.SIGTERM)
        while self._running and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)
            self._reap(reboot=False)
        for pid in self._running:
            _signal_group(pid, signal.SIGKILL)
        while self._running:
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)
            self._reap(reboot=False)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # it ended between our look and the signal; waitpid will tell how


def _run_node(spec: NodeSpec, log_dir: Path) -> int:
    os.setpgid(0, 0)
    _die_with_parent(signal.SIGKILL)
    log = os.open(log_dir / f"{spec.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(log)
    # Line by line, so that the last words of a killed node are in its log.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    sys.argv[0] = f"payload: {spec.name}"
    module_name, _, function_name = spec.entry.partition(":")
    entry: Callable[[list[str]], int] = getattr(importlib.import_module(module_name), function_name)
    return entry(list(spec.argv))


def _child_exit(body: Callable[[], int]) -> None:
    """Run the body of a forked process and leave without running the parent's exit handlers."""
    status = 1
    try:
        status = body()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # boundary: a forked process must never return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_with_parent(number: signal.Signals) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
