"""What the shell offers on Tab in the places of a command: nodes, parameters, files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csp.shell.session import Session


def nodes(session: Session, part: str) -> Iterable[str]:
    """Offer node names learned by `ident` and the nodes talked to so far."""
    del part
    return [*session.aliases, *(str(node) for node in sorted(session.seen_nodes))]


def parameters(session: Session, part: str) -> Iterable[str]:
    """Offer the parameter names of the default node, once its list was downloaded."""
    del part
    return [param.spec.name for param in session.remote.cached(session.node)]


def files(session: Session, part: str) -> Iterable[str]:
    """Offer paths that begin with what was typed."""
    del session
    folder, slash, start = part.rpartition("/")
    base = Path(folder + slash or ".").expanduser()
    try:
        entries = sorted(base.iterdir())
    except OSError:
        return []
    return [
        f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(start)
    ]


def commands(session: Session, part: str) -> Iterable[str]:
    """Offer first words of commands."""
    del part
    return sorted({command.path[0] for command in session.registry})
