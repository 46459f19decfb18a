"""One end of a SOCK_SEQPACKET pair: frames with descriptors beside them.

Driver. A frame that does not decode, lacks descriptors or brings too many is a `FrameError`, and
no descriptor that came with it stays open.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Collection, Sequence
from typing import TypeVar

from dipp.runner.frames import (
    MAX_SEGMENTS,
    Frame,
)
from dipp.runner.protocol import (
    MAX_FRAME_BYTES,
    decode_frame,
    encode_frame,
)
from dipp.runner.wire import FrameError

F = TypeVar("F")

# Segments, arena and the two ends of an error pipe.
MAX_FDS = MAX_SEGMENTS + 3
_FD_BYTES = array.array("i").itemsize
_FD_SPACE = socket.CMSG_SPACE(MAX_FDS * _FD_BYTES)
# One for the whole process, which has one thread: a new one per frame would come from the kernel,
# which is slower than most frames.
_BUFFER = bytearray(MAX_FRAME_BYTES + 1)


class Channel:
    """Sends and receives frames. Closing it is the owner's duty."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Take over a descriptor."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.sock.fileno()

    def set_blocking(self, blocking: bool) -> None:
        """Choose whether `receive` waits and `send` may."""
        self.sock.setblocking(blocking)

    def send(self, frame: Frame, fds: Sequence[int] = ()) -> None:
        """Send a frame; the descriptors stay the sender's. Raises OSError, FrameError."""
        self.send_encoded(encode_frame(frame), fds)

    def send_encoded(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send what `encode_frame` gave. Raises OSError."""
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            self.sock.sendmsg([data], rights)
        else:
            self.sock.send(data)

    def receive(self, accepted: tuple[type[F], ...]) -> tuple[F, list[int]] | None:
        """Return the next frame and its descriptors, None at the end of the connection.

        The receiver owns the descriptors. Raises BlockingIOError if non-blocking and nothing is
        there, FrameError for a message that is not an accepted frame.
        """
        size, ancillary, flags, _ = self.sock.recvmsg_into(
            [_BUFFER], _FD_SPACE, socket.MSG_CMSG_CLOEXEC
        )
        fds = _descriptors(ancillary) if ancillary else []
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise FrameError("message or its descriptors were truncated")
            if not size and not fds:
                return None
            return decode_frame(bytes(_BUFFER[:size]), accepted), fds
        except FrameError:
            close_fds(fds)
            raise

    def receive_encoded(self) -> bytes:
        """Return the bytes of the next frame, none at the end of the connection. Raises OSError.

        Descriptors that come with it are closed.
        """
        return bytes(memoryview(_BUFFER)[: self.sock.recv_into(_BUFFER)])

    def close(self) -> None:
        """Close this end."""
        self.sock.close()


def receive_fds(sock: socket.socket, limit_bytes: int = 1) -> tuple[bytes, list[int]]:
    """Receive bytes and descriptors, which no program that is executed inherits. Raises OSError.

    That of the standard library does not pass flags on.
    """
    data, ancillary, _, _ = sock.recvmsg(limit_bytes, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
    return data, _descriptors(ancillary)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return fds.tolist()


def close_fds(fds: Collection[int]) -> None:
    """Close descriptors, also ones that are closed already."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue


def expect_fds(fds: list[int], count: int) -> list[int]:
    """Return the descriptors if there are `count`; else close them and raise FrameError."""
    if len(fds) != count:
        close_fds(fds)
        raise FrameError(f"{len(fds)} descriptors, expected {count}")
    return fds
