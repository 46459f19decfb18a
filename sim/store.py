"""The radio's own store of observations: a ring file as DIPP's, and where the mirror has got to.

Theory of operation: a note in a checksummed file names the state before and after an append, and
the ring's head before and after; it is written before the append. After a kill the head tells which
of the two holds. The ring itself commits by one write (`dipp.ring`). Driver.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from csp.crc import crc32c
from csp.statelock import StateLock
from dipp.errors import DippError
from dipp.metadata import Metadata
from dipp.ring import Ring, open_ring
from dipp.ringindex import Element, RingGeometry
from sim.mirror import Look, Progress

RING_FILE = "images.vmem"
NOTE_FILE = "mirror.json"


class ObservationStore:
    """Elements and progress under a directory.

    Raises OSError, StateInUse if another process has it, DippError for a ring of another size.

    `keep_oldest` changes the drop policy from "oldest go first" to "nothing new when full".
    `durable` False leaves out the syncs, for tests and rehearsals.
    """

    def __init__(self, directory: Path, capacity_bytes: int, *, durable: bool = True) -> None:
        self._lock = StateLock(directory, "radio")
        self._note_path = directory / NOTE_FILE
        self._durable = durable
        self._is_open = True
        self.keep_oldest = False
        geometry = RingGeometry(data_bytes=capacity_bytes)
        self.ring: Ring
        try:
            self.ring, self.was_damaged = open_ring(
                directory / RING_FILE, geometry, durable=durable
            )
        except BaseException:
            self._lock.close()
            raise
        self.progress = self._load()
        self.evicted = 0
        # Checksums of what is there, computed when first compared.
        self._crcs: dict[int, int] = {}

    @property
    def free_bytes(self) -> int:
        """Bytes that can be taken before something has to go."""
        return self.ring.geometry.data_bytes - self.ring.used_bytes

    def newest(self) -> Metadata | None:
        """Return the metadata of the newest element, None if there is none or it is broken."""
        element = self.ring.element(-1)
        if element is None:
            return None
        try:
            return self.ring.describe(element).metadata
        except DippError:
            return None

    def fits(self, size: int) -> bool:
        """Tell whether an element may be appended under the present drop policy."""
        plan = self.ring.plan([size])
        return not (self.keep_oldest and plan.evicted)

    def append(self, element: bytes, progress: Progress) -> None:
        """Keep an element and where to go on. Raises OSError, DippError if it can never fit."""
        plan = self.ring.plan([len(element)])
        self._write_note(progress, plan.head_before, plan.head_after)
        self.ring.append([element])
        self.evicted += plan.evicted
        self.progress = progress

    def note(self, progress: Progress) -> None:
        """Remember where to go on, without an element."""
        self.progress = progress
        self._write_note(progress, self.ring.head, self.ring.head)

    def holds(self, element: bytes) -> bool:
        """Tell whether the same bytes are already there."""
        crc = crc32c(element)
        for position in range(self.ring.count):
            candidate = self.ring.element(position)
            if candidate is not None and candidate.size == len(element):
                known = self._crcs.get(candidate.sequence)
                if known is None:
                    known = self._crcs[candidate.sequence] = self._checksum(candidate)
                if known == crc:
                    return True
        return False

    def close(self) -> None:
        """Give back the ring file. Harmless if done twice."""
        if self._is_open:
            self._is_open = False
            self.ring.close()
            self._lock.close()

    def _checksum(self, element: Element) -> int:
        return crc32c(self.ring.read(element, 0, element.size))

    def _write_note(self, after: Progress, head_before: int, head_after: int) -> None:
        body = {
            "before": None if self.progress is None else asdict(self.progress),
            "after": asdict(after),
            "head_before": head_before,
            "head_after": head_after,
        }
        text = json.dumps(body, sort_keys=True)
        data = f"{crc32c(text.encode()):08x} {text}\n".encode()
        fresh = self._note_path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            if self._durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(fresh, self._note_path)

    def _load(self) -> Progress | None:
        """Return the progress that matches the ring; None makes the mirror compare everything."""
        try:
            checksum, _, text = self._note_path.read_text("ascii").rstrip("\n").partition(" ")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        if checksum != f"{crc32c(text.encode()):08x}":
            return None
        body = json.loads(text)
        try:
            if self.ring.head == body["head_after"]:
                return _progress(body["after"])
            if self.ring.head == body["head_before"]:
                return _progress(body["before"])
        except (KeyError, TypeError):
            return None  # intact, but of another version of this program
        # Another ring lies here than the one the note was written for.
        return None


def _progress(fields: dict[str, object] | None) -> Progress | None:
    if fields is None:
        return None
    return Progress(**{**fields, "look": Look(**fields["look"])})  # type: ignore[arg-type]
