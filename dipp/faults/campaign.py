"""The campaign: every id of the catalogue, then other seeds and combinations while there is time.

Driver. What is random comes from the seed; the seed of a round is its number after the campaign's.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from csp.faultrow import FaultRow
from dipp.faults.catalogue import Entry
from dipp.faults.injection import ModuleInjector, inject_row
from dipp.faults.pytests import run_tests
from dipp.faults.rows import all_rows
from dipp.faults.verdict import Report, Verdict, conclude
from dipp.hostile import FAULTS, Fault

# Rounds leave out rows that took longer than this: more seeds are worth more than long ones.
_LONG_S = 15.0
_SMALLEST, _LARGEST = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to inject. `minutes` counts from the start; `combined` are names of hostile modules."""

    entries: tuple[Entry, ...] = ()
    seed: int = 1
    minutes: float = 0.0
    with_tests: bool = False
    combined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a campaign is. `total` is None while nobody knows."""

    done: int
    total: int | None
    what: str
    failed: int


Watch = Callable[[Step], None]


class UnknownFault(ValueError):
    """There is no hostile module of that name."""


def run_campaign(plan: Plan, watch: Watch = lambda step: None) -> Report:
    """Inject everything of a plan. Raises UnknownFault, OSError."""
    started = time.monotonic()
    campaign = _Campaign(plan, watch)
    verdicts = campaign.catalogue()
    rounds = tuple(campaign.rounds(started + 60 * plan.minutes, verdicts))
    cases, not_injected = conclude(plan.entries, verdicts)
    return Report(
        seed=plan.seed, machine=machine(), cases=cases, not_injected=not_injected,
        rounds=rounds, seconds=round(time.monotonic() - started, 1),
    )  # fmt: skip


class _Campaign:
    def __init__(self, plan: Plan, watch: Watch) -> None:
        self._plan = plan
        self._watch = watch
        self._failed = 0
        self._done = 0
        numbers = {entry.id for entry in plan.entries}
        self._faults = [fault for fault in FAULTS if fault.number in numbers]
        self._rows = [row for row in all_rows() if row.id in numbers]
        tests = {test for entry in plan.entries for test in entry.tests}
        self._tests = sorted(tests) if plan.with_tests else []
        self._total: int | None = len(self._faults) + len(self._rows) + bool(self._tests)

    def catalogue(self) -> dict[int, list[Verdict]]:
        """Inject each fault and row once, in an order that the seed decides."""
        verdicts: dict[int, list[Verdict]] = {entry.id: [] for entry in self._plan.entries}
        seed = self._plan.seed
        faults, rows = list(self._faults), list(self._rows)
        random = Random(seed)
        random.shuffle(faults)
        random.shuffle(rows)
        if faults:
            with ModuleInjector() as injector:
                for fault in faults:
                    self._say(f"{fault.number} {fault.name}")
                    verdicts[fault.number].append(self._count(injector.inject(fault, seed)))
        for row in rows:
            self._say(f"{row.id} {row.name}")
            verdicts[row.id].append(self._count(inject_row(row, seed)))
        if self._tests:
            self._say(f"{len(self._tests)} tests")
            found = run_tests(self._tests, seed)
            for entry in self._plan.entries:
                verdicts[entry.id] += [found[test] for test in entry.tests]
            self._done += 1
        return verdicts

    def rounds(self, end: float, verdicts: dict[int, list[Verdict]]) -> Iterator[Verdict]:
        """Yield combinations and other seeds until `end` (monotonic seconds)."""
        plan = self._plan
        if plan.combined:
            chosen = [_fault_named(name) for name in plan.combined]
            self._say(" + ".join(plan.combined))
            with ModuleInjector() as injector:
                yield self._count(injector.inject_together(chosen, plan.seed))
        if plan.minutes <= 0 or plan.combined:
            return
        took = {verdict.name: verdict.seconds for each in verdicts.values() for verdict in each}
        rows = [row for row in self._rows if took.get(row.name, 0.0) < _LONG_S]
        self._total = None
        seed = plan.seed
        with ModuleInjector() as injector:
            faults = [fault for fault in self._faults if not injector.obstacle(fault)]
            while time.monotonic() < end and (rows or faults):
                seed += 1
                yield self._count(self._round(Random(seed), seed, injector, faults, rows))

    def _round(
        self, random: Random, seed: int, injector: ModuleInjector,
        faults: Sequence[Fault], rows: Sequence[FaultRow],
    ) -> Verdict:  # fmt: skip
        if not faults or (rows and random.random() < 0.4):
            row = random.choice(rows)
            self._say(f"{row.id} {row.name}, seed {seed}")
            return inject_row(row, seed)
        size = min(random.randint(_SMALLEST, _LARGEST), len(faults))
        chosen = random.sample(list(faults), size)
        self._say(" + ".join(fault.name for fault in chosen))
        return injector.inject_together(chosen, seed)

    def _say(self, what: str) -> None:
        self._watch(Step(done=self._done, total=self._total, what=what, failed=self._failed))

    def _count(self, verdict: Verdict) -> Verdict:
        self._done += 1
        self._failed += bool(verdict.problems)
        return verdict


def _fault_named(name: str) -> Fault:
    found = [fault for fault in FAULTS if fault.name == name]
    if not found:
        raise UnknownFault(f"no hostile module is called {name!r}; `dipp faults --list` has all")
    return found[0]


def machine() -> str:
    """Return what this ran on."""
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, as {user}"
    )
