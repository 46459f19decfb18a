"""A progress bar where somebody watches, else nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """What long work tells about itself."""

    def say(self, text: str) -> None:
        """Name a step that cannot be counted."""

    def begin(self, text: str, total: int, done: int = 0) -> None:
        """Begin a step of so many parts."""

    def advance(self, *, failed: bool = False) -> None:
        """One part more is finished."""


class _Silent:
    def say(self, text: str) -> None:
        return

    def begin(self, text: str, total: int, done: int = 0) -> None:
        return

    def advance(self, *, failed: bool = False) -> None:
        return


@contextlib.contextmanager
def show_progress(*, is_quiet: bool) -> Iterator[Progress]:
    """Give a bar on the terminal, if the standard error is one."""
    if is_quiet or not sys.stderr.isatty():
        yield _Silent()
        return
    # Imported where it is seen.
    from rich import progress as rich
    from rich.console import Console

    with rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[failed]}"),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as shown:
        yield _Bar(shown)


class _Bar:
    def __init__(self, shown: object) -> None:
        from rich.progress import Progress as RichProgress

        if not isinstance(shown, RichProgress):
            raise TypeError(f"{shown!r} is no progress")
        self._shown = shown
        self._task = shown.add_task("", total=None, failed="", rate="")
        self._failed = 0

    def say(self, text: str) -> None:
        self._shown.update(self._task, description=text, total=None, failed="", rate="")

    def begin(self, text: str, total: int, done: int = 0) -> None:
        self._failed = 0
        self._shown.reset(self._task, total=total, completed=done, description=text)

    def advance(self, *, failed: bool = False) -> None:
        self._failed += failed
        task = self._shown.tasks[self._task]
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        text = f"[red]{self._failed} failed" if self._failed else ""
        self._shown.update(self._task, advance=1, failed=text, rate=rate)
