"""The queue message that announces a batch.

Theory of operation: bytes 0..23 are the flown body (after the SysV message type). A POSIX sender
appends an extension with a magic, a checksum and the name of the segment. 24 to 32 bytes without a
valid extension are a legacy body: the flown simulator sends eight bytes of junk after it.
Source: dipp.md 7.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from dipp.errors import Code, ContentError, MisuseError

MESSAGE_SIZE_BYTES = 128
LEGACY = struct.Struct("<iiiiQ")
LEGACY_MAX_BYTES = 32
EXTENSION = struct.Struct("<4sHHII48s")
MAGIC = b"DIPB"
VERSION = 1
FULL_SIZE_BYTES = LEGACY.size + EXTENSION.size
_CHECKSUM = slice(36, 40)
# One leading slash and no other: the name cannot leave the directory of the segments.
_SEGMENT_NAME = re.compile(r"/[A-Za-z0-9_][A-Za-z0-9_.-]{0,45}")
LEGACY_NAME_PREFIX = "/dipp_"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMessage:
    """An announced batch. `segment` is the POSIX name; empty means `/dipp_` and the shmid."""

    num_images: int
    batch_size: int
    pipeline_id: int
    shmid: int = 0
    obid: int = 0
    flags: int = 0
    segment: str = ""

    def __post_init__(self) -> None:
        if not self.segment:
            object.__setattr__(self, "segment", f"{LEGACY_NAME_PREFIX}{self.shmid}")
        if not _SEGMENT_NAME.fullmatch(self.segment):
            raise MisuseError(f"segment name {self.segment!r} is not allowed", Code.MESSAGE_INVALID)


def encode_message(message: BatchMessage) -> bytes:
    """Return the full form, 88 bytes. Raises MisuseError for a number that does not fit."""
    try:
        head = LEGACY.pack(
            message.num_images, message.batch_size, message.shmid, message.pipeline_id, 0
        )
        tail = EXTENSION.pack(
            MAGIC, VERSION, message.flags, message.obid, 0, message.segment.encode()
        )
    except struct.error as error:
        raise MisuseError(f"batch message: {error}", Code.MESSAGE_INVALID) from error
    body = bytearray(head + tail)
    body[_CHECKSUM] = _checksum(body).to_bytes(4, "little")
    return bytes(body)


def encode_legacy(message: BatchMessage) -> bytes:
    """Return the flown body, 24 bytes; the segment is named by `shmid` alone."""
    return encode_message(message)[: LEGACY.size]


def decode_message(body: bytes | memoryview) -> BatchMessage:
    """Parse a message of any form. Raises ContentError (202).

    Counts and sizes are not judged here: a message that names a segment is a batch, and a batch
    gets a fate instead of being dropped.
    """
    body = bytes(body)
    if LEGACY.size <= len(body) <= LEGACY_MAX_BYTES:
        return _from_fields(body, obid=0, flags=0, segment="")
    if len(body) < FULL_SIZE_BYTES or len(body) > MESSAGE_SIZE_BYTES:
        raise _bad(
            f"{len(body)} bytes, expected {LEGACY.size}..{LEGACY_MAX_BYTES}"
            f" or {FULL_SIZE_BYTES}..{MESSAGE_SIZE_BYTES}"
        )
    magic, version, flags, obid, checksum, name = EXTENSION.unpack_from(body, LEGACY.size)
    if magic != MAGIC or version != VERSION:
        raise _bad(f"magic {magic!r} version {version}, expected {MAGIC!r} version {VERSION}")
    if checksum != _checksum(body):
        raise _bad(f"checksum {checksum:08x}, expected {_checksum(body):08x}")
    segment, _, junk = name.partition(b"\0")
    if junk.strip(b"\0"):
        raise _bad("segment name has bytes after its end")
    try:
        return _from_fields(body, obid=obid, flags=flags, segment=segment.decode("ascii"))
    except UnicodeDecodeError as error:
        raise _bad(f"segment name: {error}") from error


def _from_fields(body: bytes, *, obid: int, flags: int, segment: str) -> BatchMessage:
    num_images, batch_size, shmid, pipeline_id, _ = LEGACY.unpack_from(body)
    try:
        return BatchMessage(
            num_images=num_images,
            batch_size=batch_size,
            pipeline_id=pipeline_id,
            shmid=shmid,
            obid=obid,
            flags=flags,
            segment=segment,
        )
    except MisuseError as error:
        raise _bad(str(error)) from error


def _checksum(body: bytes | bytearray) -> int:
    view = memoryview(body)
    return zlib.crc32(view[_CHECKSUM.stop :], zlib.crc32(view[: _CHECKSUM.start]))


def _bad(text: str) -> ContentError:
    return ContentError(f"queue message: {text}", Code.MESSAGE_INVALID)
