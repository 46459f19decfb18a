"""Splitting lines and parsing the words of commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import MisuseError
from csp.shell.command import (
    NODE_OPTIONS,
    Command,
    Option,
    Positional,
    Registry,
    UsageError,
    unsigned,
)
from csp.shell.line import LineError, split_words


async def nothing(session, args) -> None:
    del session, args


SET = Command(
    path=("set",),
    summary="write a parameter",
    run=nothing,
    options=(*NODE_OPTIONS, Option(short="-a", long="--no-ack", help="do not ask for the value")),
    positionals=(Positional(name="name"), Positional(name="values", many=True)),
)
SLOT = Command(
    path=("proc", "run"),
    summary="run a procedure",
    run=nothing,
    positionals=(
        Positional(name="slot", convert=unsigned),
        Positional(name="node", convert=unsigned, optional=True, default=7),
    ),
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   ", []),
        ("# a comment", []),
        ("  # indented comment", []),
        ("a b  c", ["a", "b", "c"]),
        ('set p "two words"', ["set", "p", "two words"]),
        ("set p 'a \"b\" c'", ["set", "p", 'a "b" c']),
        ('set p ""', ["set", "p", ""]),
        ('a"b c"d', ["ab cd"]),
        ("set a#b 1", ["set", "a#b", "1"]),
        ("tab\tseparated", ["tab", "separated"]),
    ],
)
def test_split(line: str, words: list[str]) -> None:
    assert split_words(line) == words


def test_variables_are_replaced_and_unknown_ones_named() -> None:
    assert split_words("ping $(DIPP)", {"DIPP": "162"}) == ["ping", "162"]
    with pytest.raises(LineError, match="column 6: no variable is named NOPE"):
        split_words("ping $(NOPE)")


def test_an_open_quote_is_an_error_with_its_column() -> None:
    with pytest.raises(LineError, match="column 7"):
        split_words("set p 'open")


@given(st.lists(st.text(st.characters(blacklist_characters="'\"$#"), min_size=1)))
def test_quoted_words_come_back_whole(words: list[str]) -> None:
    line = "x " + " ".join(f'"{word}"' for word in words)
    assert split_words(line) == ["x", *words]


def test_options_only_before_positionals() -> None:
    args = SET.parse(["-n", "162", "-t", "500", "p", "-5"])
    assert (args.node, args.timeout, args.name, args.values) == ("162", 0.5, "p", ["-5"])
    args = SET.parse(["p", "-n"])
    assert (args.node, args.values) == (None, ["-n"])


def test_long_options_flags_and_end_of_options() -> None:
    args = SET.parse(["--node=0x10", "--no-ack", "--", "-p", "1"])
    assert (args.node, args.no_ack, args.name) == ("0x10", True, "-p")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-q", "p", "1"], "no option -q"),
        (["-n"], "-n needs a value"),
        (["-t", "x", "p", "1"], "'x' is not a valid MS"),
        (["-t", "-1", "p", "1"], "'-1' is not a valid MS"),
        (["p"], "values is missing"),
        ([], "name is missing"),
    ],
)
def test_wrong_words_say_what_is_wrong(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SET.parse(words)


def test_optional_positional_and_too_many_words() -> None:
    assert SLOT.parse(["3"]).node == 7
    assert SLOT.parse(["3", "9"]).node == 9
    with pytest.raises(UsageError, match="too many words"):
        SLOT.parse(["3", "9", "1"])


def test_registry_finds_the_longest_path_and_suggests() -> None:
    registry = Registry()
    registry.add((SET, SLOT))
    assert registry.find(["proc", "run", "3"]) == (SLOT, ["3"])
    with pytest.raises(UsageError, match="say one of proc run"):
        registry.find(["proc", "walk"])
    with pytest.raises(UsageError, match="did you mean set"):
        registry.find(["se"])
    with pytest.raises(MisuseError, match="two commands"):
        registry.add((SET,))
    assert registry.completions([], "p") == ["proc"]
    assert registry.completions(["proc"], "") == ["run"]


def test_help_names_every_option_and_positional() -> None:
    text = SET.help()
    assert text.startswith("usage: set [-n NODE] [-t MS] [-a] <name> <values>...")
    assert "--no-ack" in text
