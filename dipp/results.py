"""What the processor of batches asks of others and gets from them. Pure."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from dipp.batch import Reader
from dipp.errors import status_word
from dipp.runner.outcome import Completed, Failed, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One image to deliver: what precedes its pixels, their number of bytes, and how to read."""

    header: bytes
    size: int
    read: Reader


class BatchFailure(Exception):
    """The batch cannot be delivered; pipeline and module are 0 where they do not apply."""

    def __init__(self, code: int, reason: str, pipeline: int = 0, module: int = 0) -> None:
        super().__init__(reason)
        self.status = status_word(code, pipeline, module)


class Runner(Protocol):
    """The part of the executor that is needed here; a test puts a fake in its place."""

    def alert(self, pipeline_id: int, segment_fd: int = -1) -> None:
        """Hear that a batch of that pipeline comes soon, in that segment if it is known."""

    def submit(self, job: Job) -> Awaitable[Completed | Failed]:
        """Run a chain over a batch. What it gives never fails."""


class Note(Protocol):
    """Where events go that people may want to read later."""

    def __call__(self, event: str, **fields: object) -> None:
        """Write one event. Never raises."""


def note_nothing(event: str, **fields: object) -> None:
    """Forget an event: for whoever keeps no diary."""


def nothing(offset: int, size: int) -> bytes:
    """Read from what is not there."""
    return b""


def slices(view: memoryview) -> Reader:
    """Read from memory."""
    return lambda offset, size: view[offset : offset + size]


def shifted(read: Reader, start: int) -> Reader:
    """Read relative to an offset."""
    return lambda offset, size: read(start + offset, size)
