"""The guard between batches and process tree: several batches at once, back-off, retries, marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from csp.sched import Promise, Scheduler, Task
from dipp.config.definition import Fallback
from dipp.errors import Code
from dipp.metadata import METADATA_LIMIT_BYTES, Metadata
from dipp.modulefiles import ModuleFile
from dipp.params import Telemetry, make_table
from dipp.policy.fallback import key_of, mark, plan_chain
from dipp.policy.guard import Guard
from dipp.policy.settings import Settings
from dipp.runner.executor import Chain, Completed, CrashRecord, Failed, Job, ModuleStep, Outcome
from dipp.runner.executor import StageStats as Stats
from dipp.supervisor.policy import ModuleBook, Tolerance

STEPS = tuple(ModuleStep(index=i, name=n, path=f"/m/{n}.py") for i, n in enumerate("abc", 1))
CHAIN = Chain(pipeline_id=2, generation=1, steps=STEPS)


def failed(code: int, module: int, ran: int | None = None) -> Failed:
    stages = tuple(Stats(name=step.name) for step in STEPS[: module if ran is None else ran])
    crash = CrashRecord(code=code, pipeline=2, module=module)
    return Failed(code=code, module_index=module, crash=crash, stages=stages)


class Bench:
    """A guard over an executor that answers when it is told to, in virtual time."""

    def __init__(self, fallbacks: Mapping[int, Fallback] | None = None) -> None:
        self.scheduler = Scheduler()
        self.table = make_table()
        self.telemetry = Telemetry(self.table)
        self.chains: list[Chain] = []
        self.waiting: list[Promise[Outcome]] = []
        self.alerts: list[int] = []
        self.found = dict(fallbacks or {})
        self.notes: list[str] = []
        self.statuses: list[int] = []
        self.others: list[ModuleFile] = []
        self.guard = Guard(
            self.scheduler, self, self, Settings(self.table),
            telemetry=self.telemetry, log_status=self.statuses.append,
            note=lambda event, **fields: self.notes.append(event),
            alternatives=lambda step: self.others,
        )  # fmt: skip

    def fallbacks(self, pipeline_id: int) -> Mapping[int, Fallback]:
        return self.found

    def chain(self, pipeline_id: int) -> Chain:
        return CHAIN

    def alert(self, pipeline_id: int, segment_fd: int = -1) -> None:
        self.alerts.append(pipeline_id)

    def submit(self, job: Job) -> Promise[Outcome]:
        self.chains.append(job.chain)
        promise: Promise[Outcome] = Promise()
        self.waiting.append(promise)
        return promise

    def start(self, number: int = 1) -> Task[Outcome]:
        job = Job(batch_id=number, chain=CHAIN, segment_fd=-1, blocks=())
        task = self.scheduler.spawn(self.guard.submit(job))
        self.scheduler.run_ready()
        return task

    def answer(self, outcome: Outcome) -> None:
        self.waiting.pop(0).resolve(outcome)
        self.scheduler.run_ready()

    def fail(self, code: int = Code.SIGNAL, module: int = 2) -> None:
        """Let one batch fail, after whatever rest its modules need."""
        task = self.start()
        self.advance(10)
        self.answer(failed(code, module))
        assert task.result().code == code  # type: ignore[union-attr]

    def advance(self, seconds: float) -> None:
        self.scheduler.advance(self.scheduler.now + seconds)
        self.scheduler.run_ready()


def done(*images: tuple[Metadata, memoryview]) -> Completed:
    return Completed(images=images, stages=tuple(Stats(name=s.name) for s in STEPS))


def test_several_batches_may_be_under_way_and_each_gets_its_own_outcome() -> None:
    bench = Bench()
    tasks = [bench.start(number) for number in range(4)]
    assert len(bench.waiting) == 4, "none waits for another"
    outcomes = [done(), failed(Code.SIGNAL, 1), done(), failed(708, 3)]
    for outcome in reversed(outcomes):
        bench.waiting.pop().resolve(outcome)
    bench.scheduler.run_ready()
    assert [type(task.result()) for task in tasks] == [Completed, Failed, Completed, Failed]


def test_a_batch_under_way_ends_on_what_it_began_with_when_the_module_goes() -> None:
    bench = Bench({2: Fallback.IDENTITY})
    early = bench.start(1)
    for _ in range(3):
        task = bench.start(2)
        bench.advance(10)
        bench.waiting.pop().resolve(failed(Code.SIGNAL, 2))
        bench.scheduler.run_ready()
        assert isinstance(task.result(), Failed)
    late = bench.start(3)
    assert [step.name for step in bench.chains[-1].steps] == ["a", "c"]
    bench.answer(done((Metadata(), memoryview(b""))))
    bench.answer(done((Metadata(), memoryview(b""))))
    marks = [task.result().images[0][0].item("fb") for task in (early, late)]  # type: ignore[union-attr]
    assert marks == [None, "identity:b"]


def test_a_module_that_failed_rests_before_its_next_run_and_no_other_does() -> None:
    bench = Bench()
    bench.fail()
    bench.start(2)
    assert not bench.waiting, "it rests"
    bench.advance(0.09)
    assert not bench.waiting
    bench.advance(0.02)
    assert len(bench.waiting) == 1
    bench.answer(done())
    bench.start(3)
    assert len(bench.waiting) == 1, "a success ends the rest"


def test_what_waits_for_a_module_that_goes_meanwhile_is_refused() -> None:
    bench = Bench()
    early = bench.start(1)
    held = bench.waiting.pop()
    bench.fail()
    bench.fail()
    late = bench.start(2)
    held.resolve(failed(Code.SIGNAL, 2))
    bench.scheduler.run_ready()
    assert isinstance(early.result(), Failed)
    bench.advance(10)
    assert late.result().code == Code.MODULE_QUARANTINED  # type: ignore[union-attr]
    assert not bench.waiting


def test_a_timeout_runs_once_more_and_the_second_word_counts() -> None:
    bench = Bench()
    task = bench.start()
    bench.answer(failed(Code.TIMEOUT, 2))
    assert bench.statuses == [602202], "ground hears of the first at once"
    assert not task.done
    bench.advance(1)
    bench.answer(done())
    assert isinstance(task.result(), Completed)
    assert bench.telemetry.get("batch_retries") == 1
    assert bench.telemetry.get("crash_total") == 1


def test_a_module_that_is_quarantined_meanwhile_is_not_retried() -> None:
    bench = Bench()
    bench.fail()
    bench.fail()
    task = bench.start()
    bench.advance(10)
    bench.answer(failed(Code.TIMEOUT, 2))
    assert task.result().code == Code.TIMEOUT  # type: ignore[union-attr]
    assert bench.telemetry.get("modules_quarantined") == 1
    refused = bench.start().result()
    assert (refused.code, refused.module_index) == (Code.MODULE_QUARANTINED, 2)  # type: ignore[union-attr]
    assert not bench.waiting


@pytest.mark.parametrize("code", [Code.OPERATOR_STOP, Code.PIPE_CREATE])
def test_what_is_not_the_modules_fault_is_not_counted(code: int) -> None:
    bench = Bench()
    bench.table["retry_limit"].set(0)
    for _ in range(5):
        bench.fail(code)
    assert bench.telemetry.get("modules_quarantined") == 0


def test_three_failures_over_more_than_the_period_are_forgiven() -> None:
    bench = Bench()
    for _ in range(6):
        bench.fail()
        bench.advance(40)
    assert bench.telemetry.get("modules_quarantined") == 0


def test_the_operators_rearm_frees_one_pipeline_or_all() -> None:
    bench = Bench()
    for _ in range(3):
        bench.fail()
    assert bench.telemetry.get("pipelines_degraded") == 0b10
    assert bench.guard.rearm(1) == 0
    assert bench.guard.rearm(2) == 1
    assert bench.telemetry.get("pipelines_degraded") == 0
    assert bench.notes == ["module_quarantined", "modules_rearmed"]


# -- the plan


def book_without(*names: str) -> ModuleBook:
    book = ModuleBook()
    for step in STEPS:
        if step.name in names:
            book.failed(key_of(2, step), 0.0, Tolerance(failures=1))
    return book


Rows = list[tuple[tuple[str, ...], dict[int, Fallback], str | None, str]]
I, P, S, N = Fallback.IDENTITY, Fallback.PREVIOUS, Fallback.SKIP, Fallback.NONE  # noqa: E741
PLANS: Rows = [
    ((), {}, "a b c", ""),
    (("b",), {2: I}, "a c", "identity:b"),
    (("a", "b", "c"), {1: I, 2: I, 3: I}, "", "identity:a,identity:b,identity:c"),
    (("b",), {2: P}, "a b' c", "previous:b"),
    (("b",), {2: S}, None, ""),
    (("b",), {}, None, ""),
    (("b",), {2: N}, "a b c", ""),
    (("a", "b"), {1: I, 2: S}, None, ""),
    (("a", "b"), {1: N, 2: P}, "a b' c", "previous:b"),
]


@pytest.mark.parametrize(("out", "fallbacks", "runs", "marks"), PLANS)
def test_what_runs(
    out: tuple[str, ...], fallbacks: dict[int, Fallback], runs: str | None, marks: str
) -> None:
    other = ModuleFile(name="b", path=Path("/previous/b.py"), sha256="00")
    plan = plan_chain(CHAIN, fallbacks, book_without(*out), lambda step: [other])
    if runs is None:
        assert plan.refused is not None
        assert plan.refused.name == "b"
        return
    found = [s.name + ("'" if "previous" in s.path else "") for s in plan.chain.steps]
    assert " ".join(found) == runs
    assert plan.marks == marks
    assert sorted(plan.keys) == [step.index for step in plan.chain.steps]
    assert (plan.chain == CHAIN) == (not marks)


@pytest.mark.parametrize(
    "alternatives",
    [
        lambda step: [],
        lambda step: [ModuleFile(name=step.name, path=Path(step.path), sha256=step.sha256)],
    ],
)
def test_previous_without_another_version_refuses(
    alternatives: Callable[[ModuleStep], list[ModuleFile]],
) -> None:
    plan = plan_chain(CHAIN, {2: P}, book_without("b"), alternatives)
    assert plan.refused == STEPS[1]


def test_a_mark_replaces_what_a_module_wrote_and_never_costs_the_image() -> None:
    metadata = Metadata(items=(("fb", 1), ("scene", 2), ("fb", "x")))
    assert mark(metadata, "identity:a").items == (("scene", 2), ("fb", "identity:a"))
    full = Metadata(camera="x" * (METADATA_LIMIT_BYTES - 4))
    full.encode()
    assert mark(full, "identity:a") == full


def test_another_setting_or_file_is_another_key() -> None:
    step = STEPS[0]
    keys = {
        key_of(pipeline, each)
        for pipeline in (1, 2)
        for each in (step, replace(step, params=(("x", 1),)), replace(step, sha256="ab"))
    }
    assert len(keys) == 6
    assert key_of(1, step) == key_of(1, replace(step, timeout_s=3.0)), "a timeout is no change"
