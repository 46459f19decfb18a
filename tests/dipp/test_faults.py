"""The fault campaign: the table is complete and true, its command reports what happened."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dipp import cli
from dipp.errors import Code
from dipp.faults.catalogue import CATALOGUE, LAST_ID, Entry
from dipp.faults.cli import run_campaign
from dipp.faults.injection import ModuleInjector, run_tests
from dipp.hostile import FAULTS

TESTS = Path(__file__).parents[1]


def test_every_id_is_there_once_and_is_injected_or_says_why():
    assert [entry.id for entry in CATALOGUE] == list(range(1, LAST_ID + 1))
    for entry in CATALOGUE:
        assert bool(entry.faults or entry.tests) != bool(entry.why_not), entry


def test_every_hostile_module_belongs_to_an_id():
    assert {fault for entry in CATALOGUE for fault in entry.faults} == set(FAULTS)


def test_every_test_that_is_named_exists():
    for entry in CATALOGUE:
        for test in entry.tests:
            path, _, function = test.partition("::")
            tree = ast.parse((TESTS / path).read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert function in names, test


def test_the_command_injects_and_reports(capsys):
    # A module that exits and, as a test, the codec of messages.
    assert cli.main(["faults", "--only", "10", "--only", "95", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [case["id"] for case in report["cases"]] == [10, 95]
    assert all(case["passed"] and case["seconds"] >= 0 for case in report["cases"])
    assert "exits-1: 601" in report["cases"][0]["seen"]
    assert (report["passed"], report["failed"], report["seed"]) == (2, 0, 1)
    assert report["not_injected"] == []


def test_an_unknown_id_is_wrong_use():
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["faults", "--only", "96"])
    assert exit_info.value.code == 2


def test_what_is_not_as_it_must_be_is_found():
    (exits,) = [fault for fault in FAULTS if fault.name == "exits-1"]
    wrong = replace(exits, codes=(Code.TIMEOUT,), exception="Nonsense")
    with ModuleInjector() as injector:
        verdict = injector.inject(wrong)
    assert any("expected" in problem for problem in verdict.problems)
    assert any("Nonsense" in problem for problem in verdict.problems)


def test_a_test_that_does_not_exist_is_a_failure():
    test = "dipp/test_errors.py::test_that_is_not_there"
    assert run_tests([test], 1)[test].problems


def test_an_id_without_any_possible_injection_is_not_injected():
    entry = Entry(id=LAST_ID + 1, name="x", why_not="cannot be had")
    report = run_campaign([entry], 1)
    assert (report.cases, report.not_injected) == ((), ((LAST_ID + 1, "cannot be had"),))
