"""The documents name only commands, options and files that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from csp.shell.session import load_registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PROGRAMS = {"payload", "csp", "dipp", "dish", "make", "python"}


def fenced_lines(page: Path) -> Iterator[str]:
    inside = False
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside:
            yield line


def shell_lines() -> list[str]:
    """The commands of operating.md: what stands before two blanks, or the whole line."""
    first_words = {command.path[0] for command in load_registry()}
    found = []
    for line in fenced_lines(ROOT / "docs" / "operating.md"):
        part = re.split(r"\s{2,}", line.strip())[0]
        words = part.split()
        if words and words[0] in first_words and words[0] not in PROGRAMS:
            found.append(part)
    return found


@pytest.mark.parametrize("line", shell_lines())
def test_lines_of_the_operators_page_are_commands(line: str) -> None:
    command, rest = load_registry().find(shlex.split(line))
    command.parse(rest)


def test_the_operators_page_has_lines_to_check() -> None:
    assert len(shell_lines()) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    links = list(re.findall(r"\]\(([^)#:]+)\)", text))
    named = re.findall(r"`((?:configs|sim|tests|docs|modules|csp|dipp|dish)/[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("program", ["csp", "dipp", "dish", "payload"])
def test_every_command_of_the_readme_explains_itself(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import import_module

    main = import_module("sim.payload.cli" if program == "payload" else f"{program}.cli").main
    table = (ROOT / "README.md").read_text("utf-8")
    for name in sorted(set(re.findall(rf"`{program} ([a-z]+)", table))):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert f"{program} {name}" in capsys.readouterr().out
