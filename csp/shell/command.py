"""Declare shell commands as data; parse their words; find them by name (pure).

A command is one row: its path (`list download`), what it takes, and a coroutine. Usage texts,
parsing, `help` and completion are all derived from the row. Options are recognised only before the
first positional word, so `proc set n -5` needs no quoting. Source: dish.md 3, csp.md 14.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from csp.errors import MisuseError

if TYPE_CHECKING:
    from csp.shell.session import Session

Completer = Callable[["Session", str], Iterable[str]]
Run = Callable[["Session", "Args"], Coroutine[Any, Any, None]]


class UsageError(MisuseError):
    """The words do not fit the command; the text says which and what would."""


def integer(text: str) -> int:
    """Convert a number in decimal, 0x, 0o or 0b form. Raises ValueError."""
    return int(text, 0)


def unsigned(text: str) -> int:
    """Convert a number that is not negative. Raises ValueError."""
    value = int(text, 0)
    if value < 0:
        raise ValueError(text)
    return value


def seconds_from_ms(text: str) -> float:
    """Convert milliseconds, as csh takes them, to seconds. Raises ValueError."""
    return unsigned(text) / 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """`-n NODE`/`--node NODE`; without `metavar` it is a flag whose value is True."""

    short: str
    long: str
    help: str
    metavar: str | None = None
    convert: Callable[[str], object] = str
    default: object = None

    @property
    def key(self) -> str:
        """The name under which `Args` holds the value."""
        return self.long.removeprefix("--").replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Positional:
    """A word in a fixed place. `many` takes all the rest as a list."""

    name: str
    help: str = ""
    convert: Callable[[str], object] = str
    optional: bool = False
    many: bool = False
    default: object = None
    complete: Completer | None = None


class Args:
    """The parsed words of one command, by option or positional name."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None


# Every command that talks to a node takes these two, as csh's do.
NODE_OPTION = Option(
    short="-n", long="--node", metavar="NODE", help="node number or name (default: `node`)"
)
TIMEOUT_OPTION = Option(
    short="-t", long="--timeout", metavar="MS", convert=seconds_from_ms, help="timeout in ms"
)
NODE_OPTIONS = (NODE_OPTION, TIMEOUT_OPTION)
JSON_OPTION = Option(short="-j", long="--json", help="one line of JSON, for programs")
KEY_OPTION = Option(
    short="-k", long="--key", metavar="FILE",
    help="private key to sign with (default: $PAYLOAD_KEY, or unsigned)",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row of the command table."""

    path: tuple[str, ...]
    summary: str
    run: Run
    options: tuple[Option, ...] = ()
    positionals: tuple[Positional, ...] = ()
    details: str = ""

    @property
    def name(self) -> str:
        """The words that call it, as typed."""
        return " ".join(self.path)

    def usage(self) -> str:
        """Return one line: name, options, positionals."""
        options = (
            f"[{option.short}{f' {option.metavar}' if option.metavar else ''}]"
            for option in self.options
        )
        return " ".join((self.name, *options, *self._places()))

    def brief(self) -> str:
        """Return name and positionals, without the options."""
        return " ".join((self.name, *self._places()))

    def _places(self) -> Iterator[str]:
        for each in self.positionals:
            text = f"<{each.name}>{'...' if each.many else ''}"
            yield f"[{text}]" if each.optional else text

    def help(self) -> str:
        """Return usage, what it does, and a line per option and positional."""
        lines = [f"usage: {self.usage()}", "", self.summary]
        if self.details:
            lines += ["", self.details]
        rows = [(each.name, each.help) for each in self.positionals if each.help]
        rows += [
            (f"{o.short}, {o.long}{f' {o.metavar}' if o.metavar else ''}", o.help)
            for o in self.options
        ]
        if rows:
            width = max(len(left) for left, _ in rows)
            lines += ["", *(f"  {left:<{width}}  {right}" for left, right in rows)]
        return "\n".join(lines)

    def parse(self, words: Sequence[str]) -> Args:
        """Convert the words after the command's name. Raises UsageError."""
        values: dict[str, object] = {option.key: option.default for option in self.options}
        rest = self._parse_options(list(words), values)
        self._parse_positionals(rest, values)
        return Args(values)

    def _parse_options(self, words: list[str], values: dict[str, object]) -> list[str]:
        while words and words[0].startswith("-") and len(words[0]) > 1:
            word = words[0]
            if word == "--":
                return words[1:]
            name, _, attached = word.partition("=")
            option = next((o for o in self.options if name in (o.short, o.long)), None)
            if option is None:
                if not self.options or not any(c.isalpha() for c in word):
                    return words
                raise UsageError(f"{self.name}: no option {name}; usage: {self.usage()}")
            words.pop(0)
            if option.metavar is None:
                values[option.key] = True
            elif attached or words:
                text = attached or words.pop(0)
                values[option.key] = self._convert(option.convert, text, option.metavar)
            else:
                raise UsageError(f"{self.name}: {name} needs a value ({option.metavar})")
        return words

    def _parse_positionals(self, words: list[str], values: dict[str, object]) -> None:
        for each in self.positionals:
            if each.many:
                values[each.name] = [self._convert(each.convert, w, each.name) for w in words]
                if not words and not each.optional:
                    raise UsageError(f"{self.name}: {each.name} is missing; usage: {self.usage()}")
                return
            if words:
                values[each.name] = self._convert(each.convert, words.pop(0), each.name)
            elif each.optional:
                values[each.name] = each.default
            else:
                raise UsageError(f"{self.name}: {each.name} is missing; usage: {self.usage()}")
        if words:
            raise UsageError(f"{self.name}: too many words ({words[0]!r}); usage: {self.usage()}")

    def _convert(self, convert: Callable[[str], object], text: str, what: str) -> object:
        try:
            return convert(text)
        except ValueError as error:
            detail = "" if str(error) == text or "literal" in str(error) else f" ({error})"
            raise UsageError(f"{self.name}: {text!r} is not a valid {what}{detail}") from None


@dataclass(slots=True)
class Registry:
    """All commands of a shell, found by their longest matching path."""

    _commands: dict[tuple[str, ...], Command] = field(default_factory=dict)

    def add(self, commands: Iterable[Command]) -> None:
        """Add rows. Raises MisuseError when two commands claim one name."""
        for command in commands:
            if command.path in self._commands:
                raise MisuseError(f"two commands are named {command.name!r}")
            self._commands[command.path] = command

    def __iter__(self) -> Iterator[Command]:
        return iter(sorted(self._commands.values(), key=lambda command: command.path))

    def find(self, words: Sequence[str]) -> tuple[Command, list[str]]:
        """Return the command and its remaining words. Raises UsageError with suggestions."""
        for size in range(min(len(words), 3), 0, -1):
            command = self._commands.get(tuple(words[:size]))
            if command is not None:
                return command, list(words[size:])
        same_start = [c.name for c in self if c.path[0] == words[0]]
        if same_start:
            raise UsageError(f"{words[0]}: say one of {', '.join(same_start)}")
        close = [c.name for c in self if c.path[0].startswith(words[0])]
        hint = f"; did you mean {', '.join(close[:4])}?" if close else "; `help` lists commands"
        raise UsageError(f"no command is named {words[0]!r}{hint}")

    def completions(self, words: Sequence[str], part: str) -> list[str]:
        """Return the next path words that start with `part` after the words typed so far."""
        depth = len(words)
        found = {
            command.path[depth]
            for command in self
            if len(command.path) > depth and command.path[:depth] == tuple(words)
        }
        return sorted(word for word in found if word.startswith(part))
