"""Run the tests that belong to fault ids, in a process of pytest. Driver; in a checkout only."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from dipp.faults.verdict import Verdict

_TESTS_DEADLINE_S = 1800.0
_TESTS = Path(__file__).resolve().parents[2] / "tests"


def why_no_tests() -> str:
    """Say why tests cannot be run here; empty if they can."""
    if not _TESTS.is_dir():
        return "the tests are not installed; run it from a checkout"
    if importlib.util.find_spec("pytest") is None:
        return "pytest is not installed"
    return ""


def run_tests(tests: Sequence[str], seed: int) -> dict[str, Verdict]:
    """Run tests, all in one process; return a verdict for each."""
    why_not = why_no_tests()
    if why_not or not tests:
        return {test: Verdict(name=_short(test), why_not=why_not) for test in tests}
    with tempfile.TemporaryDirectory(prefix="dipp-faults-") as directory:
        report = Path(directory) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            f"--hypothesis-seed={seed}", f"--junitxml={report}",
            *(str(_TESTS / test) for test in tests),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=_TESTS.parent, capture_output=True, text=True, check=False,
                timeout=_TESTS_DEADLINE_S,
            )  # fmt: skip
            cases = list(ElementTree.parse(report).iter("testcase"))
        except (subprocess.TimeoutExpired, OSError, ElementTree.ParseError) as error:
            return {
                test: Verdict(name=_short(test), problems=(f"pytest: {error}",)) for test in tests
            }
    said = done.stdout.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return {test: _verdict(test, cases, said[0]) for test in tests}


def _verdict(test: str, cases: Sequence[ElementTree.Element], said: str) -> Verdict:
    path, _, function = test.partition("::")
    place = "tests." + path.removesuffix(".py").replace("/", ".")
    mine = [
        case for case in cases
        if case.get("classname") == place and (case.get("name") or "").partition("[")[0] == function
    ]  # fmt: skip
    bad = [case.get("name") or "" for case in mine if _child(case, "failure", "error") is not None]
    skipped = [text for case in mine if (text := _skip_reason(case))]
    if mine and len(skipped) == len(mine):
        return Verdict(name=_short(test), why_not=skipped[0])
    problems = [f"{name} failed" for name in bad] or ([] if mine else [f"did not run: {said}"])
    return Verdict(
        name=_short(test),
        problems=tuple(problems),
        seen=f"{len(mine) - len(bad) - len(skipped)} of {len(mine)} passed",
        seconds=sum(float(case.get("time") or 0) for case in mine),
    )


def _child(case: ElementTree.Element, *names: str) -> ElementTree.Element | None:
    return next((child for child in case if child.tag in names), None)


def _skip_reason(case: ElementTree.Element) -> str:
    skipped = _child(case, "skipped")
    return "" if skipped is None else skipped.get("message") or "skipped"


def _short(test: str) -> str:
    return test.partition("::test_")[2].replace("_", " ")
