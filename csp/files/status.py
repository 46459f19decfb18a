"""How requests of the file service end: the one table of its codes. Pure."""

from __future__ import annotations

from enum import IntEnum

from csp.errors import Refused


class Status(IntEnum):
    """How a request ended. The numbers are wire numbers and never reused."""

    DONE = 0
    CONTINUE = 1
    ALREADY = 2
    BAD_REQUEST = 10
    BAD_NAME = 11
    TOO_LARGE = 12
    DISK_FULL = 13
    STORAGE_FAILED = 14
    NO_BASE = 15
    BAD_STREAM = 16
    WRONG_CONTENT = 17
    NOT_FOUND = 18
    REPLACED = 19
    TOO_MANY = 20
    UNSIGNED = 21
    BAD_SIGNATURE = 22
    OLD_SIGNATURE = 23


SIGNATURE_STATUS = frozenset({Status.UNSIGNED, Status.BAD_SIGNATURE, Status.OLD_SIGNATURE})

MEANING: dict[Status, str] = {
    Status.DONE: "done",
    Status.CONTINUE: "send data from this offset on",
    Status.ALREADY: "this content is the active version already",
    Status.BAD_REQUEST: "the node does not understand the request",
    Status.BAD_NAME: "not a file name the node accepts",
    Status.TOO_LARGE: "more bytes than the node accepts for one file",
    Status.DISK_FULL: "no space on board; free some and continue",
    Status.STORAGE_FAILED: "the node's storage failed",
    Status.NO_BASE: "the version this delta starts from is not on board",
    Status.BAD_STREAM: "the bytes cannot be decoded; the stage was dropped",
    Status.WRONG_CONTENT: "checksum mismatch of the whole content; the stage was dropped",
    Status.NOT_FOUND: "no such file or version on board",
    Status.REPLACED: "another upload or a delete took this one's place",
    Status.TOO_MANY: "the node holds as many files as it may",
    Status.UNSIGNED: "the node takes signed files only; upload it with --key",
    Status.BAD_SIGNATURE: "no key that the node trusts signed this content under this name",
    Status.OLD_SIGNATURE: "a newer version of this file was signed; sign this one again to use it",
}


class FilesError(Refused):
    """The node does not do what was asked; `status` says why. `errno` is its system error, or 0."""

    def __init__(self, status: Status, detail: str = "", *, errno: int = 0) -> None:
        super().__init__(f"{detail}: {MEANING[status]}" if detail else MEANING[status])
        self.status = status
        self.errno = errno
