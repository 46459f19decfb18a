"""Inject faults and judge what comes of them: hostile modules here, tests in a process of pytest.

Driver. After each hostile module a good batch must pass, and no process, segment or descriptor may
be left.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dipp.errors import Code, describe
from dipp.hostile import LOADING, OK, Fault, has_compiler, write_module
from dipp.runner.executor import Chain, Completed, Limits, ModuleStep, Outcome
from dipp.sandbox.rungs import active_names
from dipp.testing import IDENTITY, Harness, Holdings

# A child is killed at its deadline and buried within this.
_KILL_S = 0.5
_TESTS_DEADLINE_S = 1800.0
_TESTS = Path(__file__).resolve().parents[2] / "tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was seen of one injection. `why_not` is set if it could not be made here."""

    name: str
    problems: tuple[str, ...] = ()
    seen: str = ""
    seconds: float = 0.0
    why_not: str = ""


class ModuleInjector:
    """Runs hostile modules in a process tree of its own; a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dipp-faults-")
        self._path = Path(self._directory.name)
        self._scratch = self._path / "scratch"
        self._scratch.mkdir()
        (self._path / "identity.py").write_text(IDENTITY)
        self._harness = Harness(Limits(load_timeout_s=5.0, grace_s=1.0), str(self._scratch))
        self._good_batch()

    def __enter__(self) -> ModuleInjector:
        return self

    def __exit__(self, *exc: object) -> None:
        self._harness.close()
        self._directory.cleanup()

    def inject(self, fault: Fault) -> Verdict:
        """Run one fault between two good modules, then a good batch."""
        why_not = self._obstacle(fault)
        if why_not:
            return Verdict(name=fault.name, why_not=why_not)
        before = self._holdings()
        started = time.monotonic()
        good = self._good_step()
        outcome = self._harness.run(_chain(1, good, write_module(fault, self._path), good))
        problems = list(judge(fault, outcome))
        seen = "passed" if isinstance(outcome, Completed) else _describe(outcome)
        outcome.close()
        try:
            self._good_batch()
        except AssertionError as error:
            problems.append(f"the next batch: {error}")
        self._harness.settle(1)
        problems += before.leaks(self._holdings())
        if self._harness.executor.stats.forge_restarts:
            problems.append("the forge died")
        seconds = time.monotonic() - started
        return Verdict(name=fault.name, problems=tuple(problems), seen=seen, seconds=seconds)

    def _obstacle(self, fault: Fault) -> str:
        active = active_names(self._harness.executor.stats.missing_rungs or ())
        if fault.needs_compiler and not has_compiler():
            return "no gcc to build a native module"
        if fault.needs and not set(fault.needs) & set(active):
            return f"none of {', '.join(fault.needs)} can be had here"
        return ""

    def _good_step(self) -> ModuleStep:
        path = str(self._path / "identity.py")
        return ModuleStep(index=1, name="identity", path=path, timeout_s=5.0)

    def _good_batch(self) -> None:
        self._harness.run_images(_chain(2, self._good_step()))

    def _holdings(self) -> Holdings:
        (root,) = self._scratch.iterdir()
        return Holdings.take([root])


def judge(fault: Fault, outcome: Outcome) -> Iterator[str]:
    """Yield everything about an outcome that is not as the row of the fault says."""
    stages = outcome.stages
    if isinstance(outcome, Completed):
        if OK not in fault.codes:
            yield "the batch passed"
    else:
        if outcome.code not in fault.codes:
            yield f"code {outcome.code}, expected {' or '.join(map(str, map(int, fault.codes)))}"
        if outcome.module_index != 2:
            yield f"module {outcome.module_index} is blamed"
        for expected, found in (
            (fault.exception, outcome.crash.exception), (fault.log, outcome.crash.last_log)
        ):  # fmt: skip
            if expected not in found:
                yield f"{expected!r} is not in {found!r}"
        if outcome.code == Code.TIMEOUT and len(stages) > 1:
            late_s = stages[1].wall_s - fault.timeout_s
            if not 0 <= late_s < _KILL_S:
                yield f"ended {late_s:.3f} s after its deadline"
    if fault in LOADING or len(stages) < 2:
        return
    if fault.orphans not in (stages[1].orphans, None):
        yield f"{stages[1].orphans} orphans, expected {fault.orphans}"
    if stages[1].leaked_segments != fault.leaked_segments:
        yield f"{stages[1].leaked_segments} leaked segments, expected {fault.leaked_segments}"


def _chain(pipeline_id: int, *steps: ModuleStep) -> Chain:
    numbered = tuple(replace(step, index=i) for i, step in enumerate(steps, 1))
    return Chain(pipeline_id=pipeline_id, generation=1, steps=numbered)


def _describe(outcome: Outcome) -> str:
    if isinstance(outcome, Completed):
        return "passed"
    return f"{int(outcome.code)} {describe(outcome.code)} {outcome.crash.exception}".strip()


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
