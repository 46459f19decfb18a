"""What a module child is told of itself when it is forked, as one message. Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

_HEAD = struct.Struct("<BBBQQQQq")
_NO_LIMIT = -1


class Birth(NamedTuple):
    """One child. It writes the arena `own`; `before` is the one that the stage before writes.

    The first `own_bytes`, `before_bytes` and `scratch_bytes` were touched by earlier batches and
    will probably be again; `recent_bytes` is what the last batch needed. `process_limit` is how
    many processes its user may have, None for any number.
    """

    position: int
    own: int
    before: int
    own_bytes: int
    before_bytes: int
    scratch_bytes: int
    recent_bytes: int
    process_limit: int | None
    directory: str

    def encode(self) -> bytes:
        """Return the message."""
        *numbers, limit, directory = self
        return _HEAD.pack(*numbers, _NO_LIMIT if limit is None else limit) + directory.encode(
            errors="surrogateescape"
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` gave; nobody but the host sends it. Raises struct.error."""
        *numbers, limit = _HEAD.unpack_from(data)
        directory = data[_HEAD.size :].decode(errors="surrogateescape")
        return cls._make([*numbers, None if limit == _NO_LIMIT else limit, directory])
