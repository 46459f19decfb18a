"""Be the hub: forward every frame that one node publishes to all that subscribed.

Theory of operation: XSUB bound on port 6000, XPUB bound on port 7000, joined by the proxy inside
libzmq; frames never touch Python. `Hub` runs the proxy in a thread that does nothing else;
`run_hub` in the calling one, for a hub process. Source: csp.md 8.1. Driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import zmq

from csp.errors import MisuseError
from csp.links.zmq import PUB_PORT, SECURE_OFFSET, SUB_PORT, load_key, set_common_options

LOCALHOST = "127.0.0.1"
# Whoever sends more than two full frames in one message is no CSP node; its connection is cut
# before the message is in memory.
_MAX_MESSAGE_BYTES = 4096


class _Sockets:
    """The two bound sockets and the one that stops the proxy. Raises MisuseError."""

    def __init__(self, host: str, sub_port: int, pub_port: int, key_file: Path | None) -> None:
        key = None if key_file is None else load_key(key_file)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sub = self.context.socket(zmq.XSUB)
        self.pub = self.context.socket(zmq.XPUB)
        try:
            self.sub.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
            for socket, port in ((self.sub, sub_port), (self.pub, pub_port)):
                set_common_options(socket, key, server=True)
                socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            raise MisuseError(
                f"cannot bind the hub to {host}:{sub_port}/{pub_port}: {error}"
            ) from error

    def close(self) -> None:
        self.sub.close(0)
        self.pub.close(0)
        self.context.term()


def _port_of(socket: zmq.Socket[bytes]) -> int:
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    text = endpoint.decode() if isinstance(endpoint, bytes) else str(endpoint)
    return int(text.rstrip("\0").rpartition(":")[2])


class Hub:
    """A hub in this process. Port 0 means any free port; see `sub_port`, `pub_port`.

    Use as a context manager or call `close`. Raises MisuseError if a port is taken or the key file
    is bad.
    """

    def __init__(
        self,
        sub_port: int = 0,
        pub_port: int = 0,
        *,
        host: str = LOCALHOST,
        key_file: Path | None = None,
    ) -> None:
        self._sockets = _Sockets(host, sub_port, pub_port, key_file)
        self.sub_port = _port_of(self._sockets.sub)
        self.pub_port = _port_of(self._sockets.pub)
        self._control = self._sockets.context.socket(zmq.PAIR)
        self._control.bind("inproc://hub-control")
        self._thread = threading.Thread(target=self._run, name="zmq-proxy", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        control = self._sockets.context.socket(zmq.PAIR)
        control.connect("inproc://hub-control")
        zmq.proxy_steerable(self._sockets.sub, self._sockets.pub, None, control)
        control.close(0)

    def close(self) -> None:
        """Stop forwarding and free the ports. Harmless if done twice."""
        if not self._thread.is_alive():
            return
        self._control.send(b"TERMINATE")
        self._thread.join()
        self._control.close(0)
        self._sockets.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def run_hub(
    host: str = LOCALHOST,
    sub_port: int | None = None,
    pub_port: int | None = None,
    key_file: Path | None = None,
    *,
    started: Callable[[int, int], None] | None = None,
) -> None:
    """Forward until the process is interrupted. Raises MisuseError if the hub cannot start.

    `started` is called with the two ports once both are bound.
    """
    offset = 0 if key_file is None else SECURE_OFFSET
    sockets = _Sockets(
        host,
        SUB_PORT + offset if sub_port is None else sub_port,
        PUB_PORT + offset if pub_port is None else pub_port,
        key_file,
    )
    try:
        if started is not None:
            started(_port_of(sockets.sub), _port_of(sockets.pub))
        zmq.proxy(sockets.sub, sockets.pub)
    finally:
        sockets.close()
