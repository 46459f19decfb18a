"""The end of what a module printed, however much that was. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dipp.runner.values import clip

# About fifty lines: a traceback and what led to it. Fits a frame and an operator's screen.
TAIL_LIMIT_BYTES = 4096
# How fault handlers begin; what follows is about our frames, not about the module's log.
_FAULT_MARK = b"Fatal Python error: "
# Lines of its dump: frames, of which the innermost come first, and what is loaded.
_FRAME, _NOISE = '  File "', "Extension modules: "
_FRAMES_KEPT = 6


class LogTail:
    """Keeps the last bytes and counts all. Of a fault it also keeps what led to it."""

    def __init__(self, limit_bytes: int = TAIL_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._data = b""
        # The last words before a fault and its first line, which a long dump pushes out.
        self._words: str | None = None
        self._fault = b""
        self.total_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Append what was read."""
        self.total_bytes += len(chunk)
        data = self._data + chunk
        before, mark, after = data.partition(_FAULT_MARK)
        if mark and self._words is None:
            self._words = _last_line(before)
        if mark and b"\n" not in self._fault:
            self._fault = (mark + after)[: self._limit]
        self._data = data[-self._limit :]

    def text(self) -> str:
        """Return the tail line by line, every line escaped to printable characters.

        Of a fault only the innermost frames are left, and its first line comes last: whoever
        shortens the text cuts off its beginning, and the dump of a fault is long.
        """
        lines = self._data.decode(errors="replace").splitlines()
        if self._fault:
            first = self._fault.decode(errors="replace").splitlines()[0]
            lines = [*_without_noise(lines, first), first]
        return "\n".join(clip(line, self._limit) for line in lines)

    def last_line(self) -> str:
        """Return the last line that is not blank and not from the fault handler."""
        return _last_line(self._data) if self._words is None else self._words


def _without_noise(lines: list[str], first: str) -> Iterator[str]:
    frames = 0
    for line in lines:
        frames += line.startswith(_FRAME)
        is_deep = line.startswith(_FRAME) and frames > _FRAMES_KEPT
        if not is_deep and line != first and not line.startswith(_NOISE):
            yield line


def _last_line(data: bytes) -> str:
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
