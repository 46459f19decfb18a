"""Patterns for object stores, and which of many names are results of ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Marks the directory of a chain, so that results are not taken for inputs.
MARKER = "dipp-chain.json"
_MAGIC = re.compile(r"[*?[]")


def has_pattern(text: str) -> bool:
    """Say whether a text may be a glob."""
    return _MAGIC.search(text) is not None


def fixed_part(pattern: str) -> str:
    """Return what every match of a glob begins with."""
    found = _MAGIC.search(pattern)
    return pattern[: found.start()] if found else pattern


def matcher(pattern: str) -> re.Pattern[str]:
    """Compile a glob for keys of an object store: `*` and `?` stop at a slash, `**` does not."""
    parts, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inside = f"^{inside[1:]}" if inside[0] == "!" else inside.replace("^", "\\^", 1)
            parts.append(f"[{inside}]")
            at = end + 1
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(pattern[at], re.escape(pattern[at])))
            at += 1
    return re.compile("".join(parts), re.DOTALL)


def without_results(names: Iterable[str]) -> list[str]:
    """Leave out everything beside and below a marker."""
    names = list(names)
    ours = {
        name.removesuffix(MARKER) for name in names if name == MARKER or name.endswith(f"/{MARKER}")
    }
    if not ours:
        return names
    return [name for name in names if not any(prefix in ours for prefix in _folders(name))]


def _folders(name: str) -> Iterable[str]:
    yield ""
    for at, letter in enumerate(name):
        if letter == "/":
            yield name[: at + 1]
