"""Keep the procedures on disk so that a kill at any instant leaves a complete set. Driver.

A change writes a complete new file, syncs it and renames it over the old one, which stays as
`NAME.old`. Loading takes the first intact one. The size is bounded by the store.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from csp.statelock import StateLock
from dish.errors import DecodeError
from dish.program import Procedure
from dish.store import MAX_IMAGE_BYTES, decode_image, encode_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was found: the procedures, and what is worth telling the operator ("" if nothing)."""

    procedures: dict[int, Procedure]
    problem: str = ""


class ProcedureFile:
    """The file of one store. `save` raises OSError, and then the old content is still there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._old = path.with_name(path.name + ".old")
        self._new = path.with_name(path.name + ".new")
        self._lock: StateLock | None = None

    def claim(self) -> None:
        """Be the only node on this file until `close`. Raises StateInUse, OSError."""
        if self._lock is not None:
            return
        self._lock = StateLock(self._path.parent)

    def close(self) -> None:
        """Let another node have the file. Harmless if done twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load(self) -> Loaded:
        """Read the newest intact copy; no file at all is an empty store."""
        problems: list[str] = []
        for path in (self._path, self._old):
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_IMAGE_BYTES + 1)
                return Loaded(procedures=decode_image(data), problem="; ".join(problems))
            except FileNotFoundError:
                continue
            except (OSError, DecodeError) as error:
                problems.append(f"{path.name}: {error}")
        return Loaded(procedures={}, problem="; ".join(problems))

    def save(self, procedures: dict[int, Procedure]) -> None:
        """Make this set durable. Raises OSError."""
        data = encode_image(procedures)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with open(os.open(self._new, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if self._path.exists() and self._is_intact():
            # A link, not a rename: there is no instant without a file under the plain name.
            with contextlib.suppress(FileNotFoundError):
                self._old.unlink()
            os.link(self._path, self._old)
        self._new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _is_intact(self) -> bool:
        try:
            decode_image(self._path.read_bytes())
        except (OSError, DecodeError):
            return False
        return True
