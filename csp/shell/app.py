"""The prompt: line editing, history and completion over a `Session`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from csp.shell.command import UsageError
from csp.shell.session import Session

_WELCOME = "CSP shell: `help` lists commands, Tab completes, Ctrl-D leaves."


class SessionCompleter(Completer):
    """Complete command words, then whatever the positional in that place names."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yield completions for the word before the cursor."""
        del complete_event
        text = document.text_before_cursor
        part = "" if not text or text[-1].isspace() else text.split()[-1]
        words = text.split()[: -1 if part else None]
        for candidate in complete(self._session, words, part):
            yield Completion(candidate, start_position=-len(part))


def complete(session: Session, words: list[str], part: str) -> list[str]:
    """Return what may follow the words typed so far and starts with `part`."""
    found = session.registry.completions(words, part)
    try:
        command, rest = session.registry.find(words)
    except (UsageError, IndexError):
        return found
    if part.startswith("-"):
        names = [name for option in command.options for name in (option.short, option.long)]
        return sorted(name for name in names if name.startswith(part))
    place = len([word for word in rest if not word.startswith("-")])
    places = command.positionals
    if places and (place < len(places) or places[-1].many):
        positional = places[min(place, len(places) - 1)]
        if positional.complete is not None:
            found += [each for each in positional.complete(session, part) if each.startswith(part)]
    return sorted(dict.fromkeys(found))


def run_interactive(session: Session, history_file: Path | None = None) -> int:
    """Read and run lines until `exit` or end of input. Returns the exit status 0."""
    history: FileHistory | InMemoryHistory = InMemoryHistory()
    if history_file is not None:
        history_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        history = FileHistory(str(history_file))
    prompt: PromptSession[str] = PromptSession(
        history=history,
        completer=SessionCompleter(session),
        complete_while_typing=False,
    )
    session.out(_WELCOME)
    while not session.closed:
        try:
            # Frames that arrive while the operator thinks wait in the link; each command reads
            # answers on a source port of its own, so old frames cannot be mistaken for them.
            with patch_stdout():
                line = prompt.prompt(f"csp {session.node}> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        session.run_line(line)
    return 0
