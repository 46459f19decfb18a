"""Remember the highest counter accepted of each subject, so that nothing old is accepted again.

Theory of operation: a fixed table in a memory area, one row per subject: a digest of its name, the
counter, a digest of what came with it. The same content with the same counter is accepted again,
since a push may be repeated when only its acknowledgement was lost. Rows are never given up: a file
that is deleted must not come back in an older version. Pure; the area makes it durable.
"""

from __future__ import annotations

import hashlib
import struct

from csp.errors import MisuseError
from csp.vmem.area import Area

_ROW = struct.Struct("<16sI12s")
_SUBJECT_BYTES, _CONTENT_BYTES = 16, 12
# Some versions of everything a node can be sent: 26 slots, 256 files, and names given up.
MAX_ROWS = 1024
LEDGER_BYTES = MAX_ROWS * _ROW.size


class Ledger:
    """The highest counters. One process owns the area, of which `LEDGER_BYTES` are used."""

    def __init__(self, area: Area) -> None:
        self._area = area
        self._rows: dict[bytes, tuple[int, int, bytes]] = {}
        for index in range(MAX_ROWS):
            subject, counter, content = _ROW.unpack(area.read(index * _ROW.size, _ROW.size))
            if counter:
                self._rows[subject] = index, counter, content

    def allows(self, subject: str, counter: int, content: bytes) -> bool:
        """Say whether this is newer than all before it, or exactly the newest again."""
        row = self._rows.get(_digest(subject, _SUBJECT_BYTES))
        if row is None:
            return counter > 0
        _, highest, newest = row
        return counter > highest or (
            counter == highest and newest == hashlib.sha256(content).digest()[:_CONTENT_BYTES]
        )

    def record(self, subject: str, counter: int, content: bytes) -> None:
        """Make durable that this was accepted; lower counters change nothing.

        Raises MisuseError if there is no row left, StoreError.
        """
        key = _digest(subject, _SUBJECT_BYTES)
        index, highest, _ = self._rows.get(key, (len(self._rows), 0, b""))
        if counter <= highest:
            return
        if index >= MAX_ROWS:
            raise MisuseError(f"the ledger of counters is full: {MAX_ROWS} subjects")
        newest = hashlib.sha256(content).digest()[:_CONTENT_BYTES]
        self._area.write(index * _ROW.size, _ROW.pack(key, counter, newest))
        self._area.flush()
        self._rows[key] = index, counter, newest


def _digest(subject: str, size: int) -> bytes:
    return hashlib.sha256(subject.encode()).digest()[:size]
