"""One soak from the first batch to the last look: nominal, faults, heal, end. Driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dipp.faults.daemon import descendants, is_alive
from dipp.soak.field import FIRST_BAD_PIPELINE, GOOD, GOOD_PIPELINE, Field
from dipp.soak.history import growth_problem, ledger_problems
from dipp.soak.samples import Sample, monotonic_s
from dipp.soak.strikes import STRIKES, Strike

_NOMINAL_BATCHES = 200
_WARM_BATCHES = 20
_ROUND_BATCHES = 24
_SMALLEST, _LARGEST = 2, 3
# Others use the machine too: what was measured before and after differs by more than nothing.
_RESTORED = 0.6
_MEASURES = 3
_GROWTH_MB = 8.0
# The node holds three for each of its four hosts: socket, process, the page that shows progress.
_SPARE_FDS = 10
# A host holds some for each child that stands by, and has more of them when batches come faster.
_SPARE_HOST_FDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What struck together, under which seed, and what was wrong afterwards."""

    seed: int
    strikes: tuple[str, ...]
    batches: int
    seconds: float
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything a soak saw. Throughput is in batches per second."""

    seed: int
    batches: int
    seconds: float
    restarts: int
    nominal: float
    healed: float
    longest_ping_s: float
    fates: tuple[int, int, int]
    rounds: tuple[Round, ...]
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Say whether nothing was wrong."""
        return not self.problems and not any(each.problems for each in self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """How long: `minutes` of faults, or `batches` of good ones without any."""

    seed: int = 1
    minutes: float = 0.0
    batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a soak is: `share` is 0 to 1."""

    share: float
    text: str


def run_soak(root: Path, goal: Goal, watch: Callable[[State], None]) -> Result:
    """Run a soak in a directory. Raises OSError, TimeoutError if the node cannot be started."""
    began_s = monotonic_s()
    with Field(root) as field:
        return _Soak(field, goal, watch, began_s).run()


class _Soak:
    def __init__(
        self, field: Field, goal: Goal, watch: Callable[[State], None], began_s: float
    ) -> None:
        self._field = field
        self._goal = goal
        self._watch = watch
        self._began_s = began_s
        self._random = Random(goal.seed)
        self._rounds: list[Round] = []

    def run(self) -> Result:
        field = self._field
        self._phase("start", 0.0)
        field.start()
        # The first batches load what stays loaded.
        field.measure(self._random, _WARM_BATCHES)
        self._phase("nominal", 0.0)
        nominal = self._measure()
        if self._goal.batches:
            self._load()
        else:
            self._strike()
        self._phase("heal", 1.0)
        self._heal()
        healed = self._measure()
        if healed < _RESTORED * nominal:
            field.problems.append(f"{nominal:g} batches/s before, only {healed:g} after")
        self._compare_samples()
        fates = self._end()
        return Result(
            seed=self._goal.seed, batches=field.sent, restarts=field.restarts, nominal=nominal,
            seconds=round(monotonic_s() - self._began_s, 1), healed=healed, fates=fates,
            longest_ping_s=round(field.longest_ping_s, 3), rounds=tuple(self._rounds),
            samples=tuple(field.samples), problems=(*field.problems, *field.history.problems),
        )  # fmt: skip

    def _phase(self, name: str, share: float) -> None:
        self._field.phase = name
        self._watch(State(share=share, text=f"{name}, {self._field.done} batches"))

    def _measure(self) -> float:
        """Return the best of a few measurements: what the machine can do when others let it."""
        return max(self._field.measure(self._random, _NOMINAL_BATCHES) for _ in range(_MEASURES))

    # -- the three ways to spend the time

    def _load(self) -> None:
        """Bring good batches through, the smallest there are."""
        while self._field.sent < self._goal.batches:
            self._phase("load", self._field.sent / self._goal.batches)
            for _ in range(100):
                self._field.shoot(self._random, GOOD_PIPELINE, 1)
        self._field.drain()

    def _strike(self) -> None:
        began_s, length_s = monotonic_s(), 60 * self._goal.minutes
        seed = self._goal.seed
        while (share := (monotonic_s() - began_s) / length_s) < 1:
            seed += 1
            random = Random(seed)
            strikes = random.sample(STRIKES, random.randint(_SMALLEST, _LARGEST))
            self._phase(" + ".join(strike.name for strike in strikes), share)
            self._rounds.append(self._round(seed, random, strikes))

    def _round(self, seed: int, random: Random, strikes: list[Strike]) -> Round:
        field, began_s, sent = self._field, monotonic_s(), self._field.sent
        known, known_events = len(field.problems), len(field.history.problems)
        # Strikes kill more forges in a minute than a node takes for an accident.
        field.rearm()
        modules = [strike for strike in strikes if strike.module]
        for number, strike in enumerate(modules, FIRST_BAD_PIPELINE):
            field.install(f"bad{number}", strike.module)
            field.configure(number, GOOD, f"bad{number}", GOOD)
        acts = {random.randrange(_ROUND_BATCHES): each.act for each in strikes if each.act}
        for turn in range(_ROUND_BATCHES):
            bad = random.randrange(FIRST_BAD_PIPELINE, FIRST_BAD_PIPELINE + max(1, len(modules)))
            field.shoot(random, bad if modules and random.random() < 0.3 else GOOD_PIPELINE)
            if turn in acts:
                acts[turn](field, random)
        field.revive()
        field.drain()
        field.look()
        problems = (*field.problems[known:], *field.history.problems[known_events:])
        return Round(
            seed=seed, strikes=tuple(strike.name for strike in strikes),
            batches=field.sent - sent, seconds=round(monotonic_s() - began_s, 2),
            problems=problems,
        )  # fmt: skip

    # -- the end

    def _heal(self) -> None:
        """Take away every hostile pipeline and re-arm; the node has to do the rest itself."""
        self._field.rearm()
        for pipeline in range(FIRST_BAD_PIPELINE, FIRST_BAD_PIPELINE + _LARGEST):
            self._field.configure(pipeline)
        self._field.configure(GOOD_PIPELINE, GOOD)
        self._field.drain()

    def _compare_samples(self) -> None:
        """What was held before the faults, or at the beginning of the load, is held at the end."""
        field = self._field
        field.look()
        if self._goal.batches:
            series = [each for each in field.samples if each.phase == "load"]
        else:
            series = [each for each in field.samples if each.phase in ("nominal", "heal")]
        for name, values, allowed in (
            ("memory of the node in MB", [each.node_mb for each in series], _GROWTH_MB),
            ("memory of the forge in MB", [each.forge_mb for each in series], _GROWTH_MB),
            ("memory of a host in MB", [each.host_mb for each in series], _GROWTH_MB),
            ("descriptors of the node", [each.node_fds for each in series], _SPARE_FDS),
            ("descriptors of the forge", [each.forge_fds for each in series], _SPARE_FDS),
            ("descriptors of a host", [each.host_fds for each in series], _SPARE_HOST_FDS),
        ):
            problem = growth_problem(name, values, allowed)
            if problem:
                field.problems.append(problem)
        if field.samples[-1].segments:
            field.problems.append(f"{field.samples[-1].segments} segments left at the end")

    def _end(self) -> tuple[int, int, int]:
        """Stop the node; look at its journal, its ring, its quarantine and its descendants."""
        field, daemon = self._field, self._field.daemon
        below = descendants(daemon.pid)
        status = daemon.terminate()
        if status:
            field.problems.append(f"the node ended with {status}")
        left = [pid for pid in below if is_alive(pid)]
        if left:
            field.problems.append(f"processes {left} outlive the node")
        totals = daemon.totals()
        field.problems += ledger_problems(totals, field.sent, daemon.stored(), daemon.quarantined())
        return totals.delivered, totals.quarantined, totals.dropped
