"""The command `dipp faults`: inject what the fault catalogue lists, say what came of it. Driver.

Exit status 1 if anything did not end as it must.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from dipp.faults.catalogue import CATALOGUE, LAST_ID, Entry
from dipp.faults.injection import ModuleInjector, Verdict, run_tests

DEFAULT_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One id that was injected."""

    id: int
    name: str
    passed: bool
    seconds: float
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a campaign found. `not_injected` are ids with the reason."""

    seed: int
    cases: tuple[Case, ...]
    not_injected: tuple[tuple[int, str], ...]

    @property
    def failed(self) -> int:
        """How many ids did not end as they must."""
        return sum(not case.passed for case in self.cases)

    def to_json(self) -> str:
        """Return the report as JSON."""
        fields = {
            "seed": self.seed,
            "cases": [asdict(case) for case in self.cases],
            "passed": len(self.cases) - self.failed,
            "failed": self.failed,
            "not_injected": [{"id": number, "why": why} for number, why in self.not_injected],
        }
        return json.dumps(fields, indent=2)


def run_campaign(entries: Sequence[Entry], seed: int) -> Report:
    """Inject everything of these entries, hostile modules in an order that the seed decides."""
    verdicts: dict[int, list[Verdict]] = {entry.id: [] for entry in entries}
    faults = [(entry.id, fault) for entry in entries for fault in entry.faults]
    random.Random(seed).shuffle(faults)
    if faults:
        with ModuleInjector() as injector:
            for number, fault in faults:
                verdicts[number].append(injector.inject(fault))
    found = run_tests(sorted({test for entry in entries for test in entry.tests}), seed)
    for entry in entries:
        verdicts[entry.id] += [found[test] for test in entry.tests]
    return _conclude(entries, verdicts, seed)


def _conclude(
    entries: Sequence[Entry], verdicts: Mapping[int, Sequence[Verdict]], seed: int
) -> Report:
    cases, not_injected = [], []
    for entry in entries:
        made = [verdict for verdict in verdicts[entry.id] if not verdict.why_not]
        if not made:
            whys = [verdict.why_not for verdict in verdicts[entry.id]]
            not_injected.append((entry.id, entry.why_not or "; ".join(dict.fromkeys(whys))))
            continue
        cases.append(
            Case(
                id=entry.id,
                name=entry.name,
                passed=not any(verdict.problems for verdict in made),
                seconds=round(sum(verdict.seconds for verdict in made), 3),
                seen="; ".join(_line(verdict) for verdict in made),
            )
        )
    return Report(seed=seed, cases=tuple(cases), not_injected=tuple(not_injected))


def _line(verdict: Verdict) -> str:
    problems = f" - {', '.join(verdict.problems)}" if verdict.problems else ""
    return f"{verdict.name}: {verdict.seen}{problems}"


# -- command line


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dipp faults`."""
    parser.description = "Inject the faults of the catalogue and check that nothing comes of them."
    parser.add_argument("--only", type=int, action="append", metavar="ID",
                        choices=range(1, LAST_ID + 1), help="1 to 95; may be repeated")  # fmt: skip
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED,
                        help="of order and random content, default %(default)d")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if a fault was not contained. Raises OSError."""
    wanted = arguments.only or range(1, LAST_ID + 1)
    report = run_campaign([entry for entry in CATALOGUE if entry.id in wanted], arguments.seed)
    if arguments.json:
        print(report.to_json())
    else:
        _print_table(report)
    return 1 if report.failed else 0


def _print_table(report: Report) -> None:
    for case in report.cases:
        mark = "ok  " if case.passed else "FAIL"
        print(f"{mark} {case.id:3} {case.name} ({case.seconds:.1f} s)")
        if not case.passed:
            print(f"         {case.seen}")
    for number, why in report.not_injected:
        print(f"--   {number:3} not injected: {why}")
    passed = len(report.cases) - report.failed
    print(f"{passed} passed, {report.failed} failed, {len(report.not_injected)} not injected;"
          f" seed {report.seed}")  # fmt: skip
