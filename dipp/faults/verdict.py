"""What came of injections: verdicts, cases by id, the report as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from dipp.faults.catalogue import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was seen of one injection. `why_not` is set if it could not be made here.

    `replay` is the command that makes it again, the same in everything random.
    """

    name: str
    injected: str = ""
    expected: str = ""
    problems: tuple[str, ...] = ()
    seen: str = ""
    seconds: float = 0.0
    why_not: str = ""
    replay: str = ""

    def line(self) -> str:
        """Return name, what was seen and what was wrong with it."""
        if self.why_not:
            return f"{self.name}: not injected, {self.why_not}"
        problems = f" - {', '.join(self.problems)}" if self.problems else ""
        return f"{self.name}: {self.seen}{problems}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One id with everything that was injected for it."""

    id: int
    name: str
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Say whether all of it ended as it must."""
        return not any(verdict.problems for verdict in self.verdicts)

    @property
    def seconds(self) -> float:
        """How long all of it took."""
        return round(sum(verdict.seconds for verdict in self.verdicts), 3)

    @property
    def seen(self) -> str:
        """What was seen, in one line."""
        return "; ".join(verdict.line() for verdict in self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a campaign found. `not_injected` are ids of which nothing could be, with the reason.

    `rounds` are what came after the catalogue while there was time: combinations, other seeds.
    """

    seed: int
    machine: str
    cases: tuple[Case, ...]
    not_injected: tuple[tuple[int, str], ...]
    rounds: tuple[Verdict, ...] = ()
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many ids did not end as they must."""
        return sum(not case.passed for case in self.cases)

    @property
    def failed_rounds(self) -> int:
        """How many rounds did not end as they must."""
        return sum(bool(verdict.problems) for verdict in self.rounds)

    def to_json(self) -> str:
        """Return the report as JSON: cases, passed, failed, not_injected, nothing else."""
        fields = {
            "cases": [
                {"id": case.id, "name": case.name, "passed": case.passed,
                 "seconds": case.seconds, "seen": case.seen}
                for case in self.cases
            ],
            "passed": len(self.cases) - self.failed,
            "failed": self.failed,
            "not_injected": [{"id": number, "why": why} for number, why in self.not_injected],
        }  # fmt: skip
        return json.dumps(fields, indent=2)

    def details_json(self) -> str:
        """Return everything: each injection with what was injected and expected, seed, machine."""
        return json.dumps(asdict(self), indent=2)


def conclude(
    entries: Sequence[Entry], verdicts: Mapping[int, Iterable[Verdict]]
) -> tuple[tuple[Case, ...], tuple[tuple[int, str], ...]]:
    """Sort verdicts into cases, and ids of which nothing was injected."""
    cases, not_injected = [], []
    for entry in entries:
        found = tuple(verdicts.get(entry.id, ()))
        if any(not verdict.why_not for verdict in found):
            cases.append(Case(id=entry.id, name=entry.name, verdicts=found))
        else:
            whys = dict.fromkeys(verdict.why_not for verdict in found)
            not_injected.append((entry.id, "; ".join(whys) or "nothing injects it"))
    return tuple(cases), tuple(not_injected)
