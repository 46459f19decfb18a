"""The fault campaign: the table is complete and true, every row holds, the command reports."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from csp import packet
from csp.faultrow import FaultRow, NotInjected, Violation
from csp.guard import Guard
from csp.stack import Stack
from dipp import cli
from dipp.configuration import Configuration
from dipp.errors import Code
from dipp.faults import rows_module
from dipp.faults.catalogue import CATALOGUE, LAST_ID, Entry
from dipp.faults.injection import ModuleInjector, inject_row
from dipp.faults.page import render
from dipp.faults.pytests import run_tests
from dipp.faults.rows import all_rows
from dipp.faults.verdict import Report, Verdict, conclude
from dipp.hostile import FAULTS
from dipp.modulefiles import ModuleLibrary
from dipp.processing import Processor
from dipp.ringindex import RingIndex
from dish.store import Store

TESTS = Path(__file__).parents[1]
# Run by the campaign; here they would only take time that the tests of these parts take already.
LONG = {
    "killed-at-random-times", "nth-call-of-the-process-tree", "nth-call-of-the-stores",
    "fork-fails", "shared-memory-exhausted", "queue-full-absent-unlinked-foreign",
    "killed-at-every-call", "done-around-the-deadline", "bad-neighbour", "sigterm-in-mid-batch",
    "disk-full", "second-node", "second-node-of-plans", "forge-dies-too-often",
    "forge-host-or-module-killed-at-a-call", "bits-of-ring-and-journal",
    "bit-flip-in-stored-configuration",
}  # fmt: skip


def test_every_id_is_there_once_and_something_injects_it():
    assert [entry.id for entry in CATALOGUE] == list(range(1, LAST_ID + 1))
    injected = {fault.number for fault in FAULTS} | {row.id for row in all_rows()}
    assert injected == set(range(1, LAST_ID + 1))


def test_no_two_injections_have_one_name():
    names = [fault.name for fault in FAULTS] + [row.name for row in all_rows()]
    assert len(set(names)) == len(names)
    assert {row.name for row in all_rows()} >= LONG


def test_every_test_that_is_named_exists():
    for entry in CATALOGUE:
        for test in entry.tests:
            path, _, function = test.partition("::")
            tree = ast.parse((TESTS / path).read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert function in names, test


@pytest.mark.parametrize("row", [r for r in all_rows() if r.name not in LONG], ids=lambda r: r.name)
def test_row_holds(row, monkeypatch):
    monkeypatch.setattr(rows_module, "_MANY_RUNS", 20)
    verdict = inject_row(row, seed=2)
    if verdict.why_not:
        pytest.skip(verdict.why_not)
    assert verdict.problems == ()
    assert verdict.seen


def test_the_command_injects_and_reports(capsys, tmp_path):
    arguments = ["faults", "--only", "10", "--only", "73", "--json", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert list(report) == ["cases", "passed", "failed", "not_injected"]
    assert [list(case) for case in report["cases"]] == 2 * [
        ["id", "name", "passed", "seconds", "seen"]
    ]
    assert [case["id"] for case in report["cases"]] == [10, 73]
    assert all(case["passed"] and case["seconds"] >= 0 for case in report["cases"])
    assert "exits-1: 601" in report["cases"][0]["seen"]
    assert (report["passed"], report["failed"], report["not_injected"]) == (2, 0, [])
    assert "seed 1" in output.err
    assert json.loads((tmp_path / "faults.json").read_text()) == report
    details = json.loads((tmp_path / "details.json").read_text())
    assert details["cases"][1]["verdicts"][0]["replay"] == "dipp faults --only 73 --seed 1"
    assert "<h1>Fault campaign</h1>" in (tmp_path / "report.html").read_text()


def test_rounds_combine_what_is_named(capsys, tmp_path):
    words = ["--combine", "exits-1", "--combine", "blocks-all-signals"]
    assert cli.main(["faults", *words, "--out", str(tmp_path)]) == 0
    details = json.loads((tmp_path / "details.json").read_text())
    (made,) = details["rounds"]
    assert made["seen"].startswith("601 ")
    assert ", 602 " in made["seen"]
    assert made["replay"] == f"dipp faults {' '.join(words)} --seed 1"


@pytest.mark.parametrize("words", [["--only", "96"], ["--only", "x"], ["--nonsense"]])
def test_wrong_use_is_2(words):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["faults", *words])
    assert exit_info.value.code == 2


def test_an_unknown_module_to_combine_is_1(capsys, tmp_path):
    assert cli.main(["faults", "--combine", "nonsense", "--out", str(tmp_path)]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_what_is_not_as_it_must_be_is_found():
    (exits,) = [fault for fault in FAULTS if fault.name == "exits-1"]
    wrong = replace(exits, codes=(Code.TIMEOUT,), exception="Nonsense")
    with ModuleInjector() as injector:
        verdict = injector.inject(wrong, 1)
    assert any("expected" in problem for problem in verdict.problems)
    assert any("Nonsense" in problem for problem in verdict.problems)


def _row(inject):
    return FaultRow(id=1, name="x", injected="i", expected="e", inject=inject)


def test_a_row_may_find_something_fail_leak_or_be_impossible(tmp_path):
    def finds(case):
        raise Violation("two fates")

    def breaks(case):
        raise KeyError("gone")

    def leaks(case):
        left.append((tmp_path / "left").open("w"))
        return "fine"

    def cannot(case):
        raise NotInjected("no such thing here")

    left = []
    assert inject_row(_row(finds), 1).problems == ("two fates",)
    assert "KeyError" in inject_row(_row(breaks), 1).problems[0]
    assert inject_row(_row(leaks), 1).problems == ("1 descriptors",)
    left[0].close()
    assert inject_row(_row(cannot), 1).why_not == "no such thing here"


def test_everything_random_comes_from_the_seed():
    def draw(case):
        return str(case.random.random())

    first, again, other = (inject_row(_row(draw), seed).seen for seed in (1, 1, 2))
    assert first == again != other


def test_a_test_that_does_not_exist_is_a_failure():
    test = "dipp/test_errors.py::test_that_is_not_there"
    assert run_tests([test], 1)[test].problems


def test_an_id_is_a_case_or_says_why_not():
    entries = [Entry(id=1, name="a"), Entry(id=2, name="b")]
    fine, not_here = Verdict(name="v", seen="s"), Verdict(name="w", why_not="no gcc")
    cases, not_injected = conclude(entries, {1: [fine, not_here], 2: [not_here]})
    assert [(case.id, case.passed) for case in cases] == [(1, True)]
    assert "w: not injected, no gcc" in cases[0].seen
    assert not_injected == ((2, "no gcc"),)


def test_the_page_escapes_and_shows_how_to_repeat():
    bad = Verdict(name="<b>", seen="<i>", problems=("<u>",), replay="dipp faults --only 1 --seed 7")
    cases, not_injected = conclude([Entry(id=1, name="n")], {1: [bad]})
    page = render(Report(seed=7, machine="m", cases=cases, not_injected=not_injected), "today")
    assert "<i>" not in page
    assert "<u>" not in page
    assert "dipp faults --only 1 --seed 7" in page
    assert "http" not in page


# What a row looks at, broken on purpose: row, object, attribute, what to put there.
BREAKS = [
    ("configuration-is-no-message", Configuration, "_reject", lambda *args: None),
    ("definition-that-cannot-be", Configuration, "_reject", lambda *args: None),
    ("ring-wraps-while-it-is-read", RingIndex, "holds", lambda *args: True),
    ("killed-at-every-call", Processor, "settle_deliveries", lambda self: None),
    ("duplicates", Stack, "_is_duplicate", lambda *args: False),
    ("corrupt-bytes", packet, "_strip_crc", lambda frame, start: frame[start:-4]),
    ("malformed-frames", Guard, "_take", lambda self, source, stamp: None),
    ("no-plain-file", ModuleLibrary, "find", lambda self, name: None),
    ("running-procedure-deleted", Store, "delete", lambda self, slot: True),
]


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "broken"), BREAKS, ids=[each[0] for each in BREAKS]
)
def test_the_oracle_finds_what_is_broken(name, owner, attribute, broken, monkeypatch):
    (row,) = [row for row in all_rows() if row.name == name]
    monkeypatch.setattr(owner, attribute, broken)
    assert inject_row(row, seed=1).problems
