from __future__ import annotations

import pytest

from csp.cli import main


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["-h"]])
def test_help_lists_the_commands(capsys, arguments):
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for command in ("shell", "hub", "monitor", "help"):
        assert f"  {command}" in text


@pytest.mark.parametrize("command", ["hub", "monitor"])
@pytest.mark.parametrize("how", [["help", "{}"], ["{}", "--help"]])
def test_every_command_has_help(capsys, command, how):
    with pytest.raises(SystemExit) as stop:
        main([word.format(command) for word in how])
    assert stop.value.code == 0
    assert f"csp {command}" in capsys.readouterr().out


def test_no_command_is_wrong_use(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["monitor", "--count", "many"]])
def test_wrong_use_has_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["hub", "-a", "/nonexistent"],
        ["monitor", "--hub", "x:y:z"],
        ["monitor", "--kiss", "/nonexistent"],
        ["monitor", "--read", "/nonexistent"],
        ["monitor", "--read", "/dev/null", "--lists", __file__],
    ],
)
def test_failures_have_a_reason_and_status_1(capsys, arguments):
    assert main(arguments) == 1
    assert f"csp {arguments[0]}: " in capsys.readouterr().err
