"""Carry frames over a serial line or pseudo-terminal in KISS framing. Driver.

Source: csp.md 8.3. Works on the terminal interface of the system, without further packages.
"""

from __future__ import annotations

import os
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING

from csp.errors import MisuseError
from csp.framing import KissDecoder, encode_kiss
from csp.guard import Guard
from csp.links.base import OnFrame
from csp.sched import Scheduler, Timer

if TYPE_CHECKING:
    from csp.loop import Loop

DEFAULT_BAUD = 1_000_000
_READ_BYTES = 4096
# What may wait for a slow line: half a second at the default rate. More is lost, as on a radio.
_MAX_WAITING_BYTES = 65_536
_RETRY_S = 0.002


class KissLink:
    """A serial device at `baud`, 8N1, raw.

    Raises MisuseError if the device cannot be opened or has no such rate.
    """

    def __init__(
        self, device: str | Path, *, baud: int = DEFAULT_BAUD, version: int = 2, name: str = "KISS"
    ) -> None:
        self.name = name
        self.guard: Guard | None = None
        self._version = version
        self._decoder = KissDecoder(version)
        self._loop: Loop | None = None
        self._waiting = bytearray()
        self._retry: Timer | None = None
        try:
            self._fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise MisuseError(f"cannot open {device}: {error}") from error
        try:
            self._configure(baud)
        except (termios.error, MisuseError) as error:
            os.close(self._fd)
            raise MisuseError(f"cannot set up {device}: {error}") from error

    def _configure(self, baud: int) -> None:
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise MisuseError(f"{baud} baud is not a rate of this system")
        tty.setraw(self._fd, termios.TCSANOW)
        attributes = termios.tcgetattr(self._fd)
        attributes[4] = attributes[5] = speed
        attributes[2] |= termios.CLOCAL | termios.CREAD
        termios.tcsetattr(self._fd, termios.TCSANOW, attributes)

    @property
    def errors(self) -> int:
        """How many broken frames were received."""
        return self._decoder.errors

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Start to receive. Raises MisuseError for a scheduler without a loop."""
        if isinstance(loop, Scheduler):
            raise MisuseError("a KISS link needs an event loop, not a bare scheduler")
        self._loop, self._on_frame = loop, on_frame
        loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # The other side of a pseudo-terminal hung up; without this the loop would spin.
            chunk = b""
        if not chunk:
            self.close()
            return
        for frame in self._decoder.feed(chunk):
            self._on_frame(frame)

    def send(self, frame: bytes) -> None:
        """Write one frame; what the line cannot take yet waits. Raises OSError if too much does."""
        if self._loop is None:
            return
        encoded = encode_kiss(frame, self._version)
        if len(self._waiting) + len(encoded) > _MAX_WAITING_BYTES:
            raise OSError("the serial line is too slow")
        self._waiting += encoded
        if self._retry is None:
            self._write()

    def _write(self) -> None:
        self._retry = None
        if self._loop is None:
            return
        try:
            written = os.write(self._fd, self._waiting)
        except BlockingIOError:
            written = 0
        del self._waiting[:written]
        if self._waiting:
            # A short poll instead of write events: the rest is at most some milliseconds of line.
            self._retry = self._loop.scheduler.call_later(_RETRY_S, self._write)

    def close(self) -> None:
        """Close the device. Harmless if done twice."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._fd < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop = None
        os.close(self._fd)
        self._fd = -1
