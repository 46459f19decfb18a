"""Say in words what a crash record holds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dipp.errors import CUSTOM_BASE, CUSTOM_LIMIT, Code, describe
from dipp.runner.values import CrashRecord

_KILOBYTE = 1024


def code_name(code: int) -> str:
    """Return the name of a code as the table of codes has it."""
    if CUSTOM_BASE <= code < CUSTOM_BASE + CUSTOM_LIMIT:
        return "MODULE_ERROR"
    try:
        return Code(code).name
    except ValueError:
        return "UNKNOWN"


def crash_lines(crash: CrashRecord) -> Iterator[str]:
    """Yield the report of one record, line by line."""
    yield f"code {crash.code} {code_name(crash.code)}: {describe(crash.code)}"
    yield f"batch {crash.batch_id}, {_place(crash)}"
    ending = ", ".join(_ending(crash))
    if ending:
        yield ending
    yield (
        f"used {crash.peak_rss_kb / _KILOBYTE:.1f} MB at most, {crash.cpu_ms} ms of CPU, "
        f"{crash.wall_ms} ms in all"
    )
    if crash.last_log:
        yield f"last words: {crash.last_log}"


def _place(crash: CrashRecord) -> str:
    place = f"pipeline {crash.pipeline}" if crash.pipeline else "no pipeline"
    if crash.module:
        place += f", module {crash.module} {crash.name!r}"
    if crash.module_hash:
        place += f", version {crash.module_hash.hex()}"
    return place


def _ending(crash: CrashRecord) -> Iterator[str]:
    if crash.signal:
        yield f"signal {crash.signal}"
    elif crash.exit_status:
        yield f"exit status {crash.exit_status}"
    if crash.exception:
        # Of a signal this is its name.
        yield crash.exception
    if crash.fault_address is not None:
        yield f"address 0x{crash.fault_address:x}"
    if crash.line:
        yield f"line {crash.line} of the module"
