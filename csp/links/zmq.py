"""Carry frames over a ZMQ hub: publish to its port 6000, subscribe at its port 7000.

Theory of operation: publish/subscribe loses everything sent before subscriptions have travelled
subscriber -> hub -> publisher. Instead of sleeping, the link publishes over an XPUB socket, which
can see subscriptions, and subscribes to a random token: once the token shows up at the XPUB end,
all earlier subscriptions made the same way. Frames sent before are held back (bounded). A hub
that does not forward subscriptions costs a bounded wait. Source: csp.md 8.1. Driver.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from csp.errors import MisuseError
from csp.guard import Guard
from csp.links.base import OnFrame
from csp.packet import broadcast_address, check_version
from csp.sched import Promise, Scheduler, Timer

if TYPE_CHECKING:
    from csp.loop import Loop

SUB_PORT = 6000
PUB_PORT = 7000
SECURE_OFFSET = 1

# The default of the real nodes, written down: bounds what a stuck reader can pile up.
_HIGH_WATER_FRAMES = 1000
_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 900,
    zmq.TCP_KEEPALIVE_CNT: 2,
    zmq.TCP_KEEPALIVE_INTVL: 900,
}
# Frames per callback, so that timers get their turn under load.
_BURST_FRAMES = 128
# How many frames may wait for the hub: the first requests, not a bulk transfer.
_MAX_HELD = 256
# Under load a hub may need a second; without a hub this is what the first request waits.
_READY_TIMEOUT_S = 3.0
_SETTLE_S = 0.03
# A token starts like no frame that any node here receives (destination 16383, source 16383).
_TOKEN_PREFIX = b"\xff\xff\xff\xff\xff\xff"
_KEY_CHARACTERS = 40
# A command may be the last thing a process says; this bounds how long `close` waits to send it.
_CLOSE_LINGER_MS = 100
# Contexts of links that are not closed yet. Left to the garbage collector, a context would wait
# for ever for sockets that are collected with it.
_open_contexts: set[zmq.Context[zmq.Socket[bytes]]] = set()


def load_key(path: Path) -> bytes:
    """Read a CURVE secret key: 40 Z85 characters, then a newline. Raises MisuseError."""
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(f"cannot read the key file {path}: {error}") from error
    if len(key) != _KEY_CHARACTERS:
        raise MisuseError(f"{path}: a key has {_KEY_CHARACTERS} characters, found {len(key)}")
    return key.encode()


def set_common_options(socket: zmq.Socket[bytes], key: bytes | None, *, server: bool) -> None:
    """Set what all our ZMQ sockets share: bounds, keep-alive, no lingering, encryption."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_FRAMES)
    socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_FRAMES)
    for option, value in _KEEPALIVE.items():
        socket.setsockopt(option, value)
    if key is None:
        return
    # One key pair for all: whoever has the secret belongs to the network (csp.md 8.1).
    public = zmq.curve_public(key)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    if server:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
    else:
        socket.setsockopt(zmq.CURVE_SERVERKEY, public)


def subscriptions(address: int, netmask: int, version: int = 2) -> tuple[bytes, ...]:
    """Return the subscription prefixes of a node; v1 headers do not allow to choose."""
    if version == 1:
        return (b"",)
    host_mask = (1 << max(14 - netmask, 0)) - 1
    targets = dict.fromkeys((address, address | host_mask, broadcast_address(2)))
    return tuple(
        (prio << 14 | target).to_bytes(2, "big") for prio in range(4) for target in targets
    )


class ZmqLink:
    """A node's connection to a hub.

    `address` and `netmask` choose the subscriptions; `promiscuous` (or `address` None) takes all
    traffic. `ready` resolves True once the hub demonstrably forwards to and from us, False if it
    gave no sign within three seconds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        address: int | None = None,
        netmask: int = 8,
        version: int = 2,
        promiscuous: bool = False,
        sub_port: int | None = None,
        pub_port: int | None = None,
        key_file: Path | None = None,
        # What the flown node calls it: operators type `ifstat ZMQ`.
        name: str = "ZMQ",
    ) -> None:
        self.name = name
        self.guard: Guard | None = None
        self.ready: Promise[bool] = Promise()
        self._version = check_version(version)
        self._key = None if key_file is None else load_key(key_file)
        offset = 0 if key_file is None else SECURE_OFFSET
        # Named from the hub's side, as in csh: it subscribes on 6000 and publishes on 7000.
        sub = sub_port if sub_port is not None else SUB_PORT + offset
        pub = pub_port if pub_port is not None else PUB_PORT + offset
        self.place = f"{host}:{sub}:{pub}"
        self._send_to, self._receive_from = f"tcp://{host}:{sub}", f"tcp://{host}:{pub}"
        everything = promiscuous or address is None
        self._prefixes = (
            (b"",) if everything else subscriptions(address or 0, netmask, self._version)
        )
        self._token = _TOKEN_PREFIX + os.urandom(8)
        self._held: deque[bytes] = deque(maxlen=_MAX_HELD)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._loop: Loop | None = None
        self._sent = 0
        self._ready_timer: Timer | None = None

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Connect; returns at once. Raises MisuseError for a scheduler without a loop."""
        if isinstance(loop, Scheduler):
            raise MisuseError("a ZMQ link needs an event loop, not a bare scheduler")
        self._loop, self._on_frame = loop, on_frame
        self._context = zmq.Context()
        _open_contexts.add(self._context)
        self._pub = self._context.socket(zmq.XPUB)
        self._sub = self._context.socket(zmq.SUB)
        for socket in (self._pub, self._sub):
            set_common_options(socket, self._key, server=False)
        for prefix in (*self._prefixes, self._token):
            self._sub.setsockopt(zmq.SUBSCRIBE, prefix)
        self._pub.connect(self._send_to)
        self._sub.connect(self._receive_from)
        self._fds = tuple(int(socket.getsockopt(zmq.FD)) for socket in (self._sub, self._pub))
        for fd, drain in zip(self._fds, (self._drain_sub, self._drain_pub), strict=True):
            loop.add_reader(fd, drain)
        # Setting options may have swallowed the first edge of the descriptors.
        loop.scheduler.call_soon(self._drain_sub)
        loop.scheduler.call_soon(self._drain_pub)
        self._ready_timer = loop.scheduler.call_later(
            _READY_TIMEOUT_S, lambda: self._become_ready(False)
        )

    def send(self, frame: bytes) -> None:
        """Publish a frame, or hold it back until the hub is ready. Never blocks."""
        if self._context is None:
            return
        if not self.ready.done:
            self._held.append(frame)
            return
        try:
            self._pub.send(frame, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise OSError(error.errno, str(error)) from error
        self._sent += 1
        # Sending may swallow the edge that announces subscriptions; look now and then.
        if not self._sent & 63:
            self._drain_pub()

    def _become_ready(self, seen: bool) -> None:
        if self._context is None or self.ready.done:
            return
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        self.ready.resolve(seen)
        self._sub.setsockopt(zmq.UNSUBSCRIBE, self._token)
        held, self._held = self._held, deque(maxlen=1)
        for frame in held:
            self._pub.send(frame, zmq.DONTWAIT)
        # The calls above may have swallowed an edge.
        self._soon(self._drain_sub)
        self._soon(self._drain_pub)

    def _soon(self, callback: Callable[[], None]) -> None:
        # As a timer and not `call_soon`: other descriptors get their turn in between.
        if self._loop is not None:
            self._loop.scheduler.call_later(0.0, callback)

    def _drain_pub(self) -> None:
        """Read subscription messages; they must not pile up in the socket."""
        if self._context is None:
            return
        wanted = b"\x01" + self._token
        for _ in range(_BURST_FRAMES):
            try:
                message = self._pub.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            if message == wanted and self._loop is not None:
                # The same moment the hub tells the other nodes whom to answer: let it arrive.
                self._loop.scheduler.call_later(_SETTLE_S, lambda: self._become_ready(True))
        self._soon(self._drain_pub)

    def _drain_sub(self) -> None:
        if self._context is None:
            return
        # First learn who has subscribed: the answers to these frames may be for newcomers.
        self._drain_pub()
        receive, on_frame = self._sub.recv, self._on_frame
        for _ in range(_BURST_FRAMES):
            try:
                frame = receive(zmq.DONTWAIT)
            except zmq.Again:
                return
            on_frame(frame)
            # A handler may have closed this link.
            if self._context is None:
                return
        self._soon(self._drain_sub)

    def close(self) -> None:
        """Close both sockets; blocks shortly if frames are unsent. Harmless if done twice."""
        if self._context is None or self._loop is None:
            return
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._sub.close(0)
        self._pub.close(_CLOSE_LINGER_MS)
        self._context.term()
        _open_contexts.discard(self._context)
        self._context = None
