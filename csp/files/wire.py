"""The messages of the file service, port 9: each one RDP packet. Pure.

The ground asks with LIST, OFFER, DATA, ROLLBACK, DELETE or SIGN; the node answers with ENTRY and
END, or with STATUS. An upload is one OFFER, answered with the offset to continue from, then DATA
without acknowledgement by message, then one STATUS. All numbers are little endian, a name is a
length byte and ASCII, and every message has one valid length. Source: dipp.md 14.5 (which leaves it
open).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, TypeVar

from csp.errors import DecodeError, MisuseError
from csp.files.forms import Form
from csp.files.status import FilesError, Status
from csp.packet import SAFE_DATA_BYTES
from csp.signing import SEAL_BYTES

E = TypeVar("E", bound=IntEnum)

FILES_PORT = 9
SHA256_BYTES = 32
DIGEST_BYTES = 8
NAME_MAX_BYTES = 48
DATA_MAX_BYTES = SAFE_DATA_BYTES - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)

_OFFER = struct.Struct("<BII32sI8s")
_VERSION = struct.Struct("<BI32s")
_STAGE = struct.Struct("<B32sII8s")
_END = struct.Struct("<HQI")
_REPLY = struct.Struct("<BHI")


class Kind(IntEnum):
    """First byte of a message."""

    LIST = 0x01
    OFFER = 0x02
    DATA = 0x03
    ROLLBACK = 0x04
    DELETE = 0x05
    SIGN = 0x06
    ENTRY = 0x81
    END = 0x82
    STATUS = 0x83


class VersionKind(IntEnum):
    """Which version of a file. SHIPPED came with the software and can only be read."""

    ACTIVE = 1
    PREVIOUS = 2
    SHIPPED = 3


class Part(IntFlag):
    """What DELETE removes."""

    STAGE = 1
    ACTIVE = 2
    PREVIOUS = 4
    ALL = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the ground wants to send: identity of the content and of the bytes on the wire.

    Equal offers are the same upload, which continues where it stopped. `wire_digest` is the start
    of the SHA-256 of the wire bytes: another compressor makes other bytes of the same content.
    """

    name: str
    form: Form
    content_size: int
    content_crc: int
    content_sha256: bytes
    wire_size: int
    wire_digest: bytes
    base_sha256: bytes | None = None

    def encode(self) -> bytes:
        """Encode the message. Raises MisuseError unless exactly a delta has a base."""
        if (self.base_sha256 is None) == (self.form is Form.DELTA):
            raise MisuseError("exactly a delta has a base")
        fixed = _OFFER.pack(
            self.form,
            self.content_size,
            self.content_crc,
            self.content_sha256,
            self.wire_size,
            self.wire_digest,
        )
        return bytes([Kind.OFFER]) + fixed + (self.base_sha256 or b"") + _encode_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFiles:
    """Ask for all files, or the one with a name."""

    name: str = ""

    def encode(self) -> bytes:
        """Encode the message."""
        return bytes([Kind.LIST]) + _encode_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The next bytes of an upload."""

    data: bytes

    def encode(self) -> bytes:
        """Encode the message. Raises MisuseError if it would not fit a packet."""
        if not 0 < len(self.data) <= DATA_MAX_BYTES:
            raise MisuseError(f"{len(self.data)} bytes of data, 1 to {DATA_MAX_BYTES} fit")
        return bytes([Kind.DATA]) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Ask to make the previous version active; named by hash, so that asking twice is harmless."""

    name: str
    sha256: bytes

    def encode(self) -> bytes:
        """Encode the message."""
        return bytes([Kind.ROLLBACK]) + self.sha256 + _encode_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Ask to remove some or all of what the node has under a name."""

    name: str
    parts: Part = Part.ALL

    def encode(self) -> bytes:
        """Encode the message."""
        return bytes([Kind.DELETE, self.parts]) + _encode_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Say who vouches for a content under a name, ahead of the content. `seal` is a coded Seal."""

    name: str
    sha256: bytes
    seal: bytes

    def encode(self) -> bytes:
        """Encode the message."""
        return bytes([Kind.SIGN]) + self.sha256 + self.seal + _encode_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a file on board."""

    kind: VersionKind
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """An upload under way: what of it is on board."""

    form: Form
    content_sha256: bytes
    wire_size: int
    received: int
    wire_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """All that a node has under one name."""

    name: str
    versions: tuple[Version, ...] = ()
    stage: StageState | None = None

    def version(self, kind: VersionKind) -> Version | None:
        """Return the version of a kind, None if there is none."""
        return next((each for each in self.versions if each.kind is kind), None)

    def encode(self) -> bytes:
        """Encode the message."""
        out = bytearray([Kind.ENTRY, len(self.versions)])
        for each in self.versions:
            out += _VERSION.pack(each.kind, each.size, each.sha256)
        stage = self.stage
        out.append(stage is not None)
        if stage is not None:
            out += _STAGE.pack(
                stage.form, stage.content_sha256, stage.wire_size, stage.received, stage.wire_digest
            )
        return bytes(out) + _encode_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of a list: how many entries, free bytes on board, bytes allowed per file."""

    count: int
    free_bytes: int
    limit_bytes: int

    def encode(self) -> bytes:
        """Encode the message."""
        return bytes([Kind.END]) + _END.pack(self.count, self.free_bytes, self.limit_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a request ended; `offset` with CONTINUE, `errno` with STORAGE_FAILED."""

    status: Status
    offset: int = 0
    errno: int = 0

    def encode(self) -> bytes:
        """Encode the message."""
        return bytes([Kind.STATUS]) + _REPLY.pack(self.status, self.errno, self.offset)


Request = ListFiles | Offer | Data | Rollback | Delete | Sign
Answer = Entry | End | Reply


def check_name(name: str) -> str:
    """Return a name that may be stored. Raises FilesError (BAD_NAME)."""
    if len(name) > NAME_MAX_BYTES or not _NAME.fullmatch(name):
        raise FilesError(Status.BAD_NAME, repr(name[:NAME_MAX_BYTES]))
    return name


def decode_request(message: bytes) -> Request:
    """Decode what the ground sent. Raises DecodeError. Names are not checked for their pattern."""
    reader = _Reader(message)
    kind = reader.member(Kind)
    request: Request
    if kind is Kind.DATA:
        if not 1 < len(message) <= SAFE_DATA_BYTES:
            raise DecodeError("wrong amount of data", expected=DATA_MAX_BYTES, actual=len(message))
        return Data(data=message[1:])
    if kind is Kind.OFFER:
        request = _read_offer(reader)
    elif kind is Kind.LIST:
        request = ListFiles(name=reader.name())
    elif kind is Kind.ROLLBACK:
        request = Rollback(sha256=reader.take(SHA256_BYTES), name=reader.name())
    elif kind is Kind.DELETE:
        number = reader.take(1)[0]
        if not 0 < number <= Part.ALL:
            raise DecodeError("unknown part", offset=1, actual=number)
        request = Delete(parts=Part(number), name=reader.name())
    elif kind is Kind.SIGN:
        sha256, seal = reader.take(SHA256_BYTES), reader.take(SEAL_BYTES)
        request = Sign(sha256=sha256, seal=seal, name=reader.name())
    else:
        raise DecodeError("an answer where a request belongs", offset=0, actual=int(kind))
    reader.finish()
    return request


def decode_answer(message: bytes) -> Answer:
    """Decode what the node sent. Raises DecodeError."""
    reader = _Reader(message)
    kind = reader.member(Kind)
    answer: Answer
    if kind is Kind.ENTRY:
        answer = _read_entry(reader)
    elif kind is Kind.END:
        count, free_bytes, limit_bytes = reader.unpack(_END)
        answer = End(count=count, free_bytes=free_bytes, limit_bytes=limit_bytes)
    elif kind is Kind.STATUS:
        status = reader.member(Status, peek=True)
        _, errno, offset = reader.unpack(_REPLY)
        answer = Reply(status=status, offset=offset, errno=errno)
    else:
        raise DecodeError("a request where an answer belongs", offset=0, actual=int(kind))
    reader.finish()
    return answer


def _read_offer(reader: _Reader) -> Offer:
    form = reader.member(Form, peek=True)
    _, content_size, content_crc, content_sha256, wire_size, wire_digest = reader.unpack(_OFFER)
    return Offer(
        form=form,
        content_size=content_size,
        content_crc=content_crc,
        content_sha256=content_sha256,
        wire_size=wire_size,
        wire_digest=wire_digest,
        base_sha256=reader.take(SHA256_BYTES) if form is Form.DELTA else None,
        name=reader.name(),
    )


def _read_entry(reader: _Reader) -> Entry:
    count = reader.take(1)[0]
    if count > len(VersionKind):
        raise DecodeError("too many versions", offset=1, expected=len(VersionKind), actual=count)
    versions = []
    for _ in range(count):
        kind = reader.member(VersionKind, peek=True)
        _, size, sha256 = reader.unpack(_VERSION)
        versions.append(Version(kind=kind, size=size, sha256=sha256))
    stage = None
    staged = reader.take(1)[0]
    if staged > 1:
        raise DecodeError("neither with nor without stage", actual=staged)
    if staged:
        form = reader.member(Form, peek=True)
        _, content_sha256, wire_size, received, wire_digest = reader.unpack(_STAGE)
        stage = StageState(
            form=form,
            content_sha256=content_sha256,
            wire_size=wire_size,
            received=received,
            wire_digest=wire_digest,
        )
    return Entry(name=reader.name(), versions=tuple(versions), stage=stage)


def _encode_name(name: str) -> bytes:
    data = name.encode()
    if len(data) > NAME_MAX_BYTES:
        raise MisuseError(f"a name has at most {NAME_MAX_BYTES} bytes, this one {len(data)}")
    return bytes([len(data)]) + data


class _Reader:
    """Takes a message apart from front to back; every step raises DecodeError if it cannot."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._offset = 0

    def take(self, size: int) -> bytes:
        end = self._offset + size
        if end > len(self._message):
            raise DecodeError("message is cut off", expected=end, actual=len(self._message))
        data = self._message[self._offset : end]
        self._offset = end
        return data

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def member(self, table: type[E], *, peek: bool = False) -> E:
        """Return the row of a table with the next byte's number; `peek` leaves the byte there."""
        at = self._offset
        number = self.take(1)[0]
        if peek:
            self._offset = at
        try:
            return table(number)
        except ValueError:
            raise DecodeError(f"unknown {table.__name__}", offset=at, actual=number) from None

    def name(self) -> str:
        at = self._offset
        size = self.take(1)[0]
        data = self.take(size)
        if size > NAME_MAX_BYTES or not data.isascii():
            raise DecodeError("not a name", offset=at, expected=NAME_MAX_BYTES, actual=size)
        return data.decode("ascii")

    def finish(self) -> None:
        if self._offset != len(self._message):
            raise DecodeError(
                "message is too long", expected=self._offset, actual=len(self._message)
            )
