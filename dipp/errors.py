"""Error codes of the image pipeline and the status word made of them.

Theory of operation: `Code` is the one table; telemetry, shell, documentation and the runner read
its rows. Modules own 1..99 (reported as 700 + number) and may set any number >= 100 verbatim, so a
code on the wire is a plain int that may not be in the table. Source: dipp.md 11; 202, 305..309,
518, 519 and 603..608 are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

CUSTOM_BASE = 700
CUSTOM_LIMIT = 100
CODE_LIMIT = 0xFFFF


class Code(IntEnum):
    """A row: number, whether running the same batch again may help, meaning."""

    retryable: bool
    meaning: str

    def __new__(cls, number: int, retryable: bool = False, meaning: str = "") -> Code:
        """Make the enum member carry its row."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.retryable = retryable
        member.meaning = meaning
        return member

    OK = 0, False, "no error"
    MALLOC = 100, True, "out of memory"
    REALLOC = 101, True, "out of memory while growing a buffer"
    FREE = 102, False, "release of memory failed"
    QUEUE_NOT_FOUND = 200, True, "message queue not found"
    QUEUE_EMPTY = 201, True, "message queue empty"
    MESSAGE_INVALID = 202, False, "queue message is not a batch"
    SHM_NOT_FOUND = 300, False, "image segment not found or not creatable"
    SHM_DETACH = 301, False, "image segment could not be detached"
    SHM_REMOVE = 302, False, "image segment could not be removed"
    SHM_ATTACH = 303, False, "image segment could not be attached"
    SHM_STAT = 304, False, "image segment could not be examined"
    BATCH_INVALID = 305, False, "batch does not parse or its sizes disagree"
    SEGMENT_TOO_SMALL = 306, False, "image segment is smaller than the batch says"
    OUTPUT_TOO_LARGE = 307, False, "result does not fit the image store"
    STORE_FAILED = 308, True, "image store could not be written"
    BATCH_NOT_KEPT = 309, False, "no such batch in the quarantine"
    PIPE_READ = 400, True, "result of the module could not be read"
    PIPE_EMPTY = 401, False, "module ended without a result"
    PIPE_CREATE = 402, True, "no channel to the module could be made"
    PIPELINE_NOT_FOUND = 500, False, "pipeline unknown or not configured"
    MODULE_NOT_FOUND = 501, False, "module file not found or not loadable"
    MODULE_NO_RUN = 502, False, "module has no run function"
    PARAM_BOOL = 503, False, "bool module parameter missing or of another type"
    PARAM_INT = 504, False, "int module parameter missing or of another type"
    PARAM_FLOAT = 505, False, "float module parameter missing or of another type"
    PARAM_STRING = 506, False, "string module parameter missing or of another type"
    METADATA_BOOL = 507, False, "bool metadata item missing"
    METADATA_INT = 508, False, "int metadata item missing"
    METADATA_FLOAT = 509, False, "float metadata item missing"
    METADATA_STRING = 510, False, "string metadata item missing"
    METADATA_DUPLICATE = 511, False, "metadata key already there"
    REMOTE_PULL = 512, True, "remote parameter could not be pulled"
    REMOTE_PUSH = 513, True, "remote parameter could not be pushed"
    VMEM_NOT_FOUND = 514, False, "vmem area not found"
    VMEM_UPLOAD = 515, True, "vmem upload failed"
    BROTLI = 516, False, "configuration does not decompress"
    CLOCK = 517, False, "clock could not be read"
    CONFIG_INVALID = 518, False, "configuration rejected as a whole"
    SIGNATURE = 519, False, "signature missing, wrong, or older than one accepted before"
    SIGNAL = 600, False, "module died by a signal"
    EXIT_WITHOUT_CODE = 601, False, "module ended with an error but without a code"
    TIMEOUT = 602, True, "module exceeded its time"
    RESULT_INVALID = 603, False, "module returned a result that does not fit its data"
    LOAD_CRASHED = 604, False, "module died or hung while being loaded"
    HOST_DIED = 605, True, "pipeline host died"
    OPERATOR_STOP = 606, False, "stopped by the operator"
    NODE_DIED = 607, False, "this node died while it processed the batch"
    MODULE_QUARANTINED = 608, False, "module failed too often and waits to be re-armed"
    LOAD_KILLED = 609, True, "pipeline host was killed while it loaded"


class DippError(Exception):
    """Base of this package's errors; `code` is a `Code` or a module's own number."""

    def __init__(self, message: str, code: int = Code.BATCH_INVALID) -> None:
        super().__init__(message)
        self.code = code


class MisuseError(DippError):
    """The caller broke a rule of the interface."""


class ContentError(DippError):
    """What a camera, module, ground station or disk supplied is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A status word taken apart. Pipeline and module are 0 where they do not apply."""

    code: int
    pipeline: int
    module: int

    def __str__(self) -> str:
        place = f" in pipeline {self.pipeline}" if self.pipeline else ""
        place += f", module {self.module}" if self.module else ""
        return f"{self.code} {describe(self.code)}{place}"


def custom_code(number: int) -> int:
    """Turn what a module reported into a code: 0..99 become 700..799, others stay."""
    return CUSTOM_BASE + number if 0 <= number < CUSTOM_LIMIT else number


def describe(code: int) -> str:
    """Return the meaning of a code in words, also for modules' own numbers."""
    if CUSTOM_BASE <= code < CUSTOM_BASE + CUSTOM_LIMIT:
        return f"module's own error {code - CUSTOM_BASE}"
    try:
        return Code(code).meaning
    except ValueError:
        return "unknown code, set by a module"


def is_retryable(code: int) -> bool:
    """Say whether the same batch may succeed if it is run again."""
    try:
        return Code(code).retryable
    except ValueError:
        return False


def status_word(code: int, pipeline: int = 0, module: int = 0) -> int:
    """Return log_status: code * 1000 + pipeline * 100 + module.

    A pipeline outside 1..9 or a module outside 1..99 is written as 0, because a larger number
    would change the code digits. Source: dipp.md 11.
    """
    pipeline = pipeline if 0 < pipeline <= 9 else 0
    module = module if 0 < module <= 99 else 0
    return min(max(code, 0), CODE_LIMIT) * 1000 + pipeline * 100 + module


def split_status(word: int) -> Status:
    """Take a status word apart; the inverse of `status_word`."""
    return Status(code=word // 1000, pipeline=word // 100 % 10, module=word % 100)
