"""Cut the text of a plan into tokens. Source: docs/plan-language.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from dish.plan.problems import Place, Report


class Kind(Enum):
    """What a token is."""

    NAME = auto()
    NUMBER = auto()
    TEXT = auto()
    SIGN = auto()
    NEWLINE = auto()
    END = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token. `number` is the value of a number or of a time; times are Unix seconds."""

    kind: Kind
    text: str
    place: Place
    number: int | float = 0


_TOKEN = re.compile(
    r"(?P<blank>[ \t\r]+|\#[^\n]*)"
    r"|(?P<newline>\n|;)"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?Z)"
    r"|(?P<hex>0x[0-9a-fA-F_]+)"
    r"|(?P<float>\d[\d_]*(?:\.\d[\d_]*(?:[eE][+-]?\d+)?|[eE][+-]?\d+))"
    r"|(?P<int>\d[\d_]*)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r'|(?P<text>"[^"\n]*")'
    r"|(?P<sign>==|!=|<=|>=|<<|>>|->|\.\.|[-+*/%&|^~<>=(){}\[\],:.])"
)


def tokenize(text: str, report: Report) -> list[Token]:
    """Return the tokens, ending with one of kind END. Unknown characters go to the report."""
    tokens: list[Token] = []
    line, line_start, at, depth = 1, 0, 0, 0
    while at < len(text):
        place = Place(line, at - line_start + 1)
        match = _TOKEN.match(text, at)
        if match is None:
            quote = text[at] == '"'
            hint = "close the text with another quote" if quote else "remove it"
            report.add(place, f"unexpected {text[at]!r}: {hint}")
            at = text.find("\n", at) if quote and "\n" in text[at:] else at + 1
            continue
        word, group = match.group(), match.lastgroup
        at = match.end()
        if group == "sign":
            depth += (word in "([") - (word in ")]")
        if group == "newline" and depth <= 0:
            tokens.append(Token(kind=Kind.NEWLINE, text=word, place=place))
        elif group not in ("blank", "newline"):
            tokens.append(_token(str(group), word, place, report))
        if word == "\n":
            line, line_start = line + 1, at
            # An unclosed bracket must not swallow the rest of the file.
            depth = 0 if text[at : at + 1] in ("", "\n") else depth
    end = Place(line, at - line_start + 1)
    return [*tokens, Token(kind=Kind.NEWLINE, text="", place=end), _end(end)]


def _end(place: Place) -> Token:
    return Token(kind=Kind.END, text="the end", place=place)


def _token(group: str, word: str, place: Place, report: Report) -> Token:
    plain = word.replace("_", "")
    if group == "name":
        return Token(kind=Kind.NAME, text=word, place=place)
    if group == "sign":
        return Token(kind=Kind.SIGN, text=word, place=place)
    if group == "text":
        return Token(kind=Kind.TEXT, text=word[1:-1], place=place)
    number: int | float = 0
    if group == "time":
        number = _unix(word, place, report)
    elif len(plain) > 40:
        report.add(place, f"a number of {len(plain)} digits: no parameter holds it")
    else:
        number = float(plain) if group == "float" else int(plain, 16 if group == "hex" else 10)
    return Token(kind=Kind.NUMBER, text=word, place=place, number=number)


def _unix(word: str, place: Place, report: Report) -> int:
    form = "%Y-%m-%dT%H:%M:%SZ" if word.count(":") == 2 else "%Y-%m-%dT%H:%MZ"
    try:
        return int(datetime.strptime(word, form).replace(tzinfo=UTC).timestamp())
    except ValueError:
        report.add(place, f"{word} is no date: write it as 2025-04-11T21:42:44Z")
        return 0
