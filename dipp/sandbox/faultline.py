"""What the fault handlers tell in a module's log: the address, and the line of the module. Pure."""

from __future__ import annotations

import re

# As Python's fault handler begins, so that it does not count as the module's last words.
PREFIX = b"Fatal Python error: fault address 0x"
_LINE = re.compile(rf"^{PREFIX.decode()}([0-9a-f]{{16}})$", re.MULTILINE)
# SIGILL, SIGBUS, SIGFPE, SIGSEGV on Linux: what the processor itself complains of.
FAULT_SIGNALS = (4, 7, 8, 11)


def fault_address(log: str) -> int | None:
    """Return the last address that a log tells of, None if it tells of none."""
    found = _LINE.findall(log)
    return int(found[-1], 16) if found else None


def first_line(log: str) -> int:
    """Return the innermost line of a dump of frames, whosever it is, 0 if there is none."""
    found = re.search(r'File "[^"\n]*", line (\d+) in', log)
    return int(found.group(1)) if found else 0


def fault_line(log: str, path: str) -> int:
    """Return the innermost line of a module file in a dump of frames, 0 if it is not there."""
    found = re.search(rf'File "{re.escape(path)}", line (\d+) in', log)
    return int(found.group(1)) if found else 0
