"""Serve and use the file transfer service of csh's `ftp` commands, port 13. Pure.

Theory of operation: several requests per RDP connection, each `u8 version | u8 type | path[256] |
u16 length`; contents travel with SFP, results as a 32-bit status. What the original does on the
wire is kept, its way with files is not: a file is written whole or not at all, paths cannot leave
the folder that is served, sizes are bounded. SFP has no form for nothing, so an empty file is
refused (the original leaves its client waiting). The measuring requests (5, 6) are not served.
Numbers are little endian, as on the flight computers. Source: dipp.md 14.5, csp_ftp e1e6417.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from csp.errors import CspError, DecodeError, MisuseError, Refused
from csp.transfer import Report, receive_data, send_data

if TYPE_CHECKING:
    from csp.connection import Connection
    from csp.stack import Stack

FTP_PORT = 13
PATH_BYTES = 256
# What one transfer may hold in memory, and how many there may be at once: 64 MB in all.
FILE_LIMIT_BYTES = 16 * 1024 * 1024
_MAX_TRANSFERS = 4
_VERSION = 1
_TIMEOUT_S = 10.0
_REQUEST = struct.Struct(f"<BB{PATH_BYTES}sH")
_NUMBER = struct.Struct("<i")


class Action(IntEnum):
    """Second byte of a request."""

    UPLOAD = 0
    DOWNLOAD = 1
    LIST = 2
    MOVE = 3
    REMOVE = 4


class Status(IntEnum):
    """What a status packet says."""

    OK = 1
    CLIENT_FAILURE = -1
    SERVER_FAILURE = -2
    IO_ERROR = -3


class FtpError(CspError):
    """A file cannot be read, written, listed, moved or removed."""


class FtpFiles(Protocol):
    """The files that are served. Paths are as the client sent them; all raise FtpError."""

    def read(self, path: str) -> bytes:
        """Return the content of a file."""

    def write(self, path: str, data: bytes) -> None:
        """Put a file there, whole or not at all; folders on the way are made."""

    def check_writable(self, path: str) -> None:
        """Raise FtpError if `write` would be refused whatever the content."""

    def names(self, path: str) -> list[str]:
        """Return the names in a folder."""

    def move(self, path: str, target: str) -> None:
        """Give a file or folder another path; folders on the way are made."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FtpRequest:
    """One request of a client."""

    action: Action
    path: str

    def encode(self) -> bytes:
        """Encode the 260 bytes. Raises MisuseError if the path is too long or empty."""
        raw = self.path.encode()
        if not 0 < len(raw) < PATH_BYTES or 0 in raw:
            raise MisuseError(f"a path has 1..{PATH_BYTES - 1} bytes, not {len(raw)}")
        return _REQUEST.pack(_VERSION, self.action, raw, len(raw))

    @classmethod
    def decode(cls, data: bytes) -> FtpRequest:
        """Decode a request; the path ends at its first NUL. Raises DecodeError."""
        if len(data) != _REQUEST.size:
            raise DecodeError("not an ftp request", expected=_REQUEST.size, actual=len(data))
        version, action, path, _ = _REQUEST.unpack(data)
        if version > _VERSION or action not in Action.__members__.values():
            raise DecodeError(f"ftp version {version}, request {action}", offset=0)
        try:
            text = path.partition(b"\0")[0].decode()
        except UnicodeDecodeError:
            raise DecodeError("path is not UTF-8", offset=2) from None
        return cls(action=Action(action), path=text)


class FtpServer:
    """Serves files. `counters` are requests done and refused; `is_awake` False: no answers."""

    def __init__(self, files: FtpFiles, is_awake: Callable[[], bool] = lambda: True) -> None:
        self.done = 0
        self.refused = 0
        self._files = files
        self._is_awake = is_awake
        self._transfers = 0
        self._actions: dict[Action, Callable[[Connection, str], Awaitable[None]]] = {
            Action.UPLOAD: self._upload,
            Action.DOWNLOAD: self._download,
            Action.LIST: self._list,
            Action.MOVE: self._move,
            Action.REMOVE: self._remove,
        }

    async def serve(self, connection: Connection) -> None:
        """Answer the requests of a connection until its client closes it. Raises PeerError."""
        if self._transfers >= _MAX_TRANSFERS or not self._is_awake():
            self.refused += 1
            return
        self._transfers += 1
        try:
            while (data := await connection.receive(_TIMEOUT_S)) is not None:
                request = FtpRequest.decode(data)
                try:
                    await self._actions[request.action](connection, request.path)
                    self.done += 1
                except FtpError:
                    self.refused += 1
                    await _send_status(connection, Status.IO_ERROR)
        finally:
            self._transfers -= 1

    async def _upload(self, connection: Connection, path: str) -> None:
        self._files.check_writable(path)
        await _send_status(connection, Status.OK)
        data = await receive_data(connection, _TIMEOUT_S, FILE_LIMIT_BYTES)
        self._files.write(path, data)
        await _send_status(connection, Status.OK)

    async def _download(self, connection: Connection, path: str) -> None:
        data = self._files.read(path)
        if not data:
            raise FtpError(f"{path} is empty")
        await _send_status(connection, Status.OK)
        await send_data(connection, data)

    async def _list(self, connection: Connection, path: str) -> None:
        # The original's list begins with these two as well; so there is always something to send.
        names = [".", "..", *self._files.names(path)]
        await _send_status(connection, Status.OK)
        await send_data(connection, _NUMBER.pack(len(names)))
        table = (name.encode()[: PATH_BYTES - 1].ljust(PATH_BYTES, b"\0") for name in names)
        await send_data(connection, b"".join(table))

    async def _move(self, connection: Connection, path: str) -> None:
        target = await receive_data(connection, _TIMEOUT_S, PATH_BYTES)
        self._files.move(path, target.partition(b"\0")[0].decode(errors="replace"))
        await _send_status(connection, Status.OK)

    async def _remove(self, connection: Connection, path: str) -> None:
        self._files.remove(path)
        await _send_status(connection, Status.OK)


async def _send_status(connection: Connection, status: Status) -> None:
    await connection.send(_NUMBER.pack(status))


class FtpClient:
    """Uses the service of a node, one connection a request. All methods raise PeerError."""

    def __init__(self, stack: Stack, node: int, report: Report | None = None) -> None:
        self._stack = stack
        self._node = node
        # Hears of the progress of contents.
        self._report = report or (lambda done, total: None)

    async def upload(self, path: str, data: bytes) -> None:
        """Put a file on the node. Raises MisuseError if there is nothing in it."""
        connection = await self._ask(Action.UPLOAD, path)
        try:
            await self._expect_ok(connection, path)
            await send_data(connection, data, report=self._report)
            await self._expect_ok(connection, path)
        finally:
            connection.close()

    async def download(self, path: str) -> bytes:
        """Return the content of a file."""
        connection = await self._ask(Action.DOWNLOAD, path)
        try:
            await self._expect_ok(connection, path)
            return await receive_data(connection, _TIMEOUT_S, FILE_LIMIT_BYTES, report=self._report)
        finally:
            connection.close()

    async def names(self, path: str) -> list[str]:
        """Return the names in a folder, without `.` and `..`."""
        connection = await self._ask(Action.LIST, path)
        try:
            await self._expect_ok(connection, path)
            count = await receive_data(connection, _TIMEOUT_S, _NUMBER.size)
            table = await receive_data(connection, _TIMEOUT_S, FILE_LIMIT_BYTES)
        finally:
            connection.close()
        if len(count) != _NUMBER.size or len(table) != _NUMBER.unpack(count)[0] * PATH_BYTES:
            raise DecodeError("list of names has the wrong size", actual=len(table))
        names = (table[at : at + PATH_BYTES] for at in range(0, len(table), PATH_BYTES))
        found = [name.partition(b"\0")[0].decode(errors="replace") for name in names]
        return sorted(name for name in found if name not in (".", ".."))

    async def move(self, path: str, target: str) -> None:
        """Give a file another path."""
        connection = await self._ask(Action.MOVE, path)
        try:
            await send_data(connection, target.encode())
            await self._expect_ok(connection, path)
        finally:
            connection.close()

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        connection = await self._ask(Action.REMOVE, path)
        try:
            await self._expect_ok(connection, path)
        finally:
            connection.close()

    async def _ask(self, action: Action, path: str) -> Connection:
        request = FtpRequest(action=action, path=path).encode()
        connection = await self._stack.connect(self._node, FTP_PORT)
        await connection.send(request)
        return connection

    async def _expect_ok(self, connection: Connection, path: str) -> None:
        data = await connection.receive(_TIMEOUT_S)
        if data is None or len(data) != _NUMBER.size:
            raise Refused(f"node {self._node} ended the request for {path} without a status")
        number = _NUMBER.unpack(data)[0]
        if number != Status.OK:
            known = number in Status.__members__.values()
            reason = Status(number).name.lower().replace("_", " ") if known else f"status {number}"
            raise Refused(f"node {self._node}, {path}: {reason}")
