"""Split a command line into words as csh does (pure).

Words are separated by blanks; single or double quotes group and have no escapes; a line whose
first character after blanks is `#` is a comment; `$(NAME)` is replaced by a variable.
Source: dish.md 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from csp.errors import MisuseError

_VARIABLE = re.compile(r"\$\((\w+)\)")


class LineError(MisuseError):
    """A line that cannot be split; the text says where."""


def split_words(line: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """Return the words of a line; an empty list for blank lines and comments.

    Raises LineError for an unclosed quote or an unknown variable, with the column (from 1).
    """
    line = _expand(line, variables or {})
    if line.lstrip().startswith("#"):
        return []
    words: list[str] = []
    position, length = 0, len(line)
    while position < length:
        if line[position].isspace():
            position += 1
            continue
        word, position = _word(line, position)
        words.append(word)
    return words


def _word(line: str, start: int) -> tuple[str, int]:
    parts: list[str] = []
    position = start
    while position < len(line) and not line[position].isspace():
        char = line[position]
        if char in "\"'":
            end = line.find(char, position + 1)
            if end < 0:
                raise LineError(f"column {position + 1}: the quote {char} is never closed")
            parts.append(line[position + 1 : end])
            position = end + 1
        else:
            parts.append(char)
            position += 1
    return "".join(parts), position


def _expand(line: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            raise LineError(f"column {match.start() + 1}: no variable is named {name}")
        return variables[name]

    return _VARIABLE.sub(value, line)
