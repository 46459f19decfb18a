"""The end of what a module printed, however much that was. Pure."""

from __future__ import annotations

from dipp.runner.values import clip

# About fifty lines: a traceback and what led to it. Fits a frame and an operator's screen.
TAIL_LIMIT_BYTES = 4096
# faulthandler's first line; what follows is about our frames, not about the module's log.
_FAULT_MARK = b"Fatal Python error: "


class LogTail:
    """Keeps the last bytes and counts all."""

    def __init__(self, limit_bytes: int = TAIL_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._data = b""
        self.total_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Append what was read."""
        self.total_bytes += len(chunk)
        self._data = (self._data + chunk)[-self._limit :]

    def text(self) -> str:
        """Return the tail line by line, every line escaped to printable characters."""
        lines = self._data.decode(errors="replace").splitlines()
        return "\n".join(clip(line, self._limit) for line in lines)

    def last_line(self) -> str:
        """Return the last line that is not blank and not from the fault handler."""
        data = self._data.partition(_FAULT_MARK)[0]
        lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")
