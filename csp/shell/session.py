"""What one shell knows and how it runs a line: network, default node, lists, output, progress.

The interactive prompt, script files and the demo mission all run lines through `Session.run_line`,
so what an operator types and what a script does is the same code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any, Protocol

from csp.errors import CspError
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.rdp_wire import RdpOptions
from csp.sched import Cancelled, Timeout
from csp.shell.command import Args, Command, Registry, UsageError
from csp.shell.line import split_words
from csp.stack import Stack
from csp.vmem.client import VmemClient

PLUGIN_GROUP = "csp.shell"
# For picture downloads at 1 Mbit/s down and 9.6 kbit/s up: an acknowledgement costs 15 bytes on the
# slow side, so one for 19 packets keeps the fast side full. A server takes what it can of these.
BULK = RdpOptions(window=40, packet_timeout_ms=2000, ack_timeout_ms=250, ack_delay_count=18)
# Used where the distribution's metadata is absent, such as a plain checkout on the path.
_PLUGIN_FALLBACK = ("dish.shell", "dipp.shell")


# What moves the cursor, renames a window or hides text: C0 but tab and line feed, DEL, C1.
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}


def printable(text: str) -> str:
    """Return text whose control characters are written out: much of it comes from nodes."""
    return text.translate(_CONTROLS)


class CommandFailed(CspError):
    """A command could not do what it was asked; the text says what and why."""


class Progress(Protocol):
    """What a long command reports to."""

    def advance(self, amount: float) -> None:
        """Say that `amount` more of the total is done."""


class _NoProgress:
    def advance(self, amount: float) -> None:
        del amount


ProgressFactory = Callable[[str, float], Any]


@contextmanager
def no_progress(text: str, total: float) -> Iterator[Progress]:
    """Report nothing: for scripts whose output is a file."""
    del text, total
    yield _NoProgress()


@contextmanager
def rich_progress(text: str, total: float) -> Iterator[Progress]:
    """Show a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(text, total=total)

        class Shown:
            def advance(self, amount: float) -> None:
                bar.advance(task, amount)

        yield Shown()


class Session:
    """One operator at one place in the network.

    `out` receives one line of text at a time. `node` is the default node and `timeout_s` the
    default patience, as set by the commands of those names.
    """

    def __init__(
        self,
        loop: Loop,
        stack: Stack,
        *,
        out: Callable[[str], None] = print,
        progress: ProgressFactory | None = None,
        timeout_s: float = 1.0,
    ) -> None:
        self.loop = loop
        self.scheduler = loop.scheduler
        self.stack = stack
        self.out: Callable[[str], None] = lambda text: out(printable(text))
        self.progress = progress or (rich_progress if sys.stderr.isatty() else no_progress)
        self.node = 0
        self.timeout_s = timeout_s
        self.variables: dict[str, str] = {}
        self.aliases: dict[str, int] = {}
        self.seen_nodes: set[int] = set()
        self.history: list[str] = []
        # State that plug-ins keep per session, such as the procedure being written.
        self.extra: dict[str, Any] = {}
        self.closed = False
        self.params = ParamClient(stack, timeout_s=timeout_s)
        self.remote = RemoteTable(self.params)
        self.vmem = VmemClient(stack, timeout_s, options=BULK)
        self.registry = load_registry()

    def node_of(self, args: Args) -> int:
        """The node a command is for: its option, else the default node."""
        wanted: str | None = args.node
        node = self.node if wanted is None else self.resolve_node(wanted)
        self.seen_nodes.add(node)
        return node

    def timeout_of(self, args: Args) -> float:
        """The patience of a command in seconds: its option, else the default."""
        timeout_s: float | None = args.timeout
        return self.timeout_s if timeout_s is None else timeout_s

    def resolve_node(self, text: str) -> int:
        """Turn a number or a node name learned by `ident` into a number. Raises UsageError."""
        if text in self.aliases:
            return self.aliases[text]
        try:
            value = int(text, 0)
        except ValueError:
            known = ", ".join(sorted(self.aliases)) or "none yet, `ident` learns them"
            raise UsageError(f"no node is called {text!r}; names known: {known}") from None
        if not 0 <= value <= 0x3FFF:
            raise UsageError(f"{text}: node numbers are 0..16383")
        return value

    @contextmanager
    def reporting(self, text: str, total: float) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of a transfer that tells (bytes done, bytes in all)."""
        with self.progress(text, total) as progress:
            shown = 0

            def report(done: int, total: int) -> None:
                nonlocal shown
                progress.advance(done - shown)
                shown = done

            yield report

    async def run(self, line: str) -> None:
        """Run one line. Raises CspError (or a subclass) when it fails."""
        words = split_words(line, self.variables)
        if not words:
            return
        self.history.append(line)
        command, rest = self.registry.find(words)
        if rest in (["--help"], ["-h"]):
            self.out(command.help())
            return
        await command.run(self, command.parse(rest))

    def run_line(self, line: str, timeout_s: float = 3600.0) -> bool:
        """Run one line to its end and print what went wrong. Returns whether it succeeded."""
        task = self.scheduler.spawn(self.run(line), name=line)
        try:
            self.loop.run_until(task, timeout_s)
        except (CspError, Timeout) as error:
            self.out(f"error: {error}")
            return False
        except OSError as error:
            self.out(f"error: {error.strerror or error}: {error.filename or line}")
            return False
        except (Cancelled, KeyboardInterrupt):
            task.cancel()
            self.out("interrupted")
            return False
        return True

    def run_script(self, text: str, name: str) -> bool:
        """Run the lines of a script, stopping at the first that fails. Returns success."""
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            self.out(f"> {line.strip()}")
            if not self.run_line(line):
                self.out(f"error: {name}, line {number}: stopped at {line.strip()!r}")
                return False
            if self.closed:
                break
        return True


def load_registry() -> Registry:
    """Collect the built-in commands and those of the plug-ins."""
    from csp.shell import (
        builtin_files,
        builtin_ftp,
        builtin_memory,
        builtin_network,
        builtin_params,
        builtin_shell,
    )

    registry = Registry()
    for module in (
        builtin_shell, builtin_network, builtin_params, builtin_memory, builtin_files, builtin_ftp,
    ):  # fmt: skip
        registry.add(module.COMMANDS)
    for commands in _plugin_commands():
        registry.add(commands)
    return registry


def _plugin_commands() -> Iterator[tuple[Command, ...]]:
    points = metadata.entry_points(group=PLUGIN_GROUP)
    if points:
        for point in points:
            yield point.load()
        return
    for name in _PLUGIN_FALLBACK:
        try:
            yield import_module(name).COMMANDS
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise


__all__ = ["CommandFailed", "Session", "UsageError", "load_registry"]
