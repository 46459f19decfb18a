"""Stand between batches and the process tree: fallbacks, retries, back-off, trials of uploads.

Theory of operation: `submit` plans the chain as things stand, rests as long as a module that has
just failed needs, runs it, and tells the books what came of it. A timeout or a shortage is retried;
its crash record and status are out at once, so that nobody waits for the second run to hear of the
first. All state is per module, none per batch: several batches may be here at the same time.
Source: style-anchors.md 4; fault 69.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from csp.sched import Scheduler
from dipp.config.definition import Fallback
from dipp.errors import Code, ContentError, status_word
from dipp.params import Telemetry
from dipp.policy.fallback import Alternatives, Plan, key_of, mark, plan_chain
from dipp.policy.rollback import NO_TICKETS, Tickets, Trialist
from dipp.policy.settings import DEGRADED, QUARANTINED, STATE, Settings
from dipp.policy.standings import StandingRow, StandingsFile
from dipp.results import Note, Runner
from dipp.runner.outcome import Completed, Failed, Job
from dipp.runner.stage import module_hash
from dipp.runner.values import Chain, CrashRecord, ModuleStep, StageStats, clip
from dipp.supervisor.policy import ModuleBook, ModuleKey, Tolerance, is_blamed, may_retry

_STATE_BYTES = 179


class Configured(Protocol):
    """The chains, and what is configured to happen instead of modules."""

    def chain(self, pipeline_id: int) -> Chain:
        """Return the chain of a pipeline as it is now. Raises ContentError."""

    def fallbacks(self, pipeline_id: int) -> Mapping[int, Fallback]:
        """Return it for each position of a pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Out:
    """A module that is quarantined. `key` is that of the configured version."""

    key: ModuleKey
    fallback: Fallback

    def __str__(self) -> str:
        return f"{self.key.pipeline}/{self.key.name} {self.fallback.name.lower()}"


class Guard:
    """Runs batches as the policy allows. The caller keeps `job.segment_fd` open meanwhile."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        configured: Configured,
        settings: Settings,
        *,
        telemetry: Telemetry,
        log_status: Callable[[int], None],
        note: Note,
        alternatives: Alternatives,
        trialist: Trialist | None = None,
        memory: StandingsFile | None = None,
    ) -> None:
        """`memory` keeps over a restart what modules have failed; without it that is forgotten."""
        self._scheduler = scheduler
        self._runner = runner
        self._configured = configured
        self._settings = settings
        self._telemetry = telemetry
        self._log_status = log_status
        self._note = note
        self._alternatives = alternatives
        self._trialist = trialist
        self._book = ModuleBook()
        self._out: dict[tuple[int, str], _Out] = {}
        self._memory = memory
        self._recall()

    def alert(self, pipeline_id: int, segment_fd: int = -1) -> None:
        """Pass it on."""
        self._runner.alert(pipeline_id, segment_fd)

    async def submit(self, job: Job) -> Completed | Failed:
        """Run a batch; the outcome must be closed by whoever takes it."""
        retries = 0
        while True:
            plan = self._plan(job.chain)
            if plan.refused is None and await self._rest(plan):
                # Another batch may have failed meanwhile.
                plan = self._plan(job.chain)
            if plan.refused is not None:
                return self._refuse(job, plan.refused)
            tickets = self._trialist.tickets(plan.chain) if self._trialist else NO_TICKETS
            outcome = await self._runner.submit(replace(job, chain=plan.chain))
            if isinstance(outcome, Completed):
                return self._completed(job, plan, tickets, outcome)
            self._blame(job.chain, plan, outcome)
            again = self._plan(job.chain) == plan
            if not (again and may_retry(outcome.code, retries, self._settings.tolerance)):
                return self._failed(job, plan, tickets, outcome)
            retries += 1
            self._report(job, outcome)
            outcome.close()

    def rearm(self, pipeline: int | None = None) -> int:
        """Let the modules of a pipeline, or all, run again; return how many were quarantined."""
        freed = self._book.rearm(pipeline)
        for key in [key for key in self._out if pipeline in (None, key[0])]:
            del self._out[key]
        if freed:
            self._note("modules_rearmed", pipeline=pipeline or 0, modules=freed)
        self._remember()
        self.publish()
        return freed

    def files_changed(self) -> None:
        """Hear that module files are others now: another version is not quarantined."""
        for pipeline in {pipeline for pipeline, _ in self._out}:
            try:
                steps = self._configured.chain(pipeline).steps
            except ContentError:
                # A module is missing; what is shown stays until it is there again.
                continue
            keys = {key_of(pipeline, step) for step in steps}
            for place in [p for p, out in self._out.items() if p[0] == pipeline]:
                if self._out[place].key not in keys:
                    del self._out[place]
        self._remember()
        self.publish()

    def publish(self) -> None:
        """Show which modules are quarantined."""
        out = self._out.values()
        self._telemetry.put(QUARANTINED, len(out))
        self._telemetry.put(DEGRADED, sum({1 << (each.key.pipeline - 1) for each in out}))
        self._telemetry.put_text(STATE, clip("; ".join(map(str, out)), _STATE_BYTES))

    # -- over a restart

    def _recall(self) -> None:
        for row in self._memory.load() if self._memory else ():
            self._book.recall(row.key, row.failures, self._scheduler.now, is_out=row.is_out)
            if row.fallback is not None:
                place = row.key.pipeline, row.key.name
                self._out[place] = _Out(key=row.key, fallback=row.fallback)
        self.publish()

    def _remember(self) -> None:
        if self._memory is None:
            return
        shown = {out.key: out.fallback for out in self._out.values()}
        failures = dict(self._book.failures())
        # What is shown may be the configured version while the one before it has failed as well.
        keys = dict.fromkeys([*failures, *shown])
        self._memory.save([
            StandingRow(
                key=key, failures=failures.get(key, 0), is_out=not self._book.is_usable(key),
                fallback=shown.get(key),
            )
            for key in keys
        ])  # fmt: skip

    # -- before a run

    def _plan(self, chain: Chain) -> Plan:
        fallbacks = self._configured.fallbacks(chain.pipeline_id)
        return plan_chain(chain, fallbacks, self._book, self._alternatives)

    async def _rest(self, plan: Plan) -> bool:
        """Wait until every module of a plan may run; say whether that took time."""
        now = self._scheduler.now
        wait_s = max((self._book.wait_s(key, now) for key in plan.keys.values()), default=0.0)
        if wait_s > 0:
            await self._scheduler.sleep(wait_s)
        return wait_s > 0

    def _refuse(self, job: Job, step: ModuleStep) -> Failed:
        self._telemetry.count("batches_refused")
        crash = CrashRecord(
            code=Code.MODULE_QUARANTINED,
            pipeline=job.chain.pipeline_id,
            module=step.index,
            name=step.name,
            batch_id=job.batch_id,
            module_hash=module_hash(step.sha256),
            last_log=f"{step.name} failed too often; see module_rearm",
        )
        return Failed(code=crash.code, module_index=crash.module, crash=crash)

    # -- after a run

    def _completed(self, job: Job, plan: Plan, tickets: Tickets, outcome: Completed) -> Completed:
        for index, key in plan.keys.items():
            self._book.succeeded(key)
            self._worked(tickets, index)
        if plan.marks:
            self._telemetry.count("fallback_runs")
            self._note("fallback", batch=job.batch_id, modules=plan.marks)
            outcome.images = tuple((mark(meta, plan.marks), view) for meta, view in outcome.images)
        outcome.stages = _with_gaps(job.chain, plan.chain, outcome.stages)
        return outcome

    def _worked(self, tickets: Tickets, index: int) -> None:
        if self._trialist is not None:
            self._trialist.succeeded(tickets.get(index, ()))

    def _blame(self, configured: Chain, plan: Plan, outcome: Failed) -> None:
        """Count a failure against the module, and the work of those before it for them."""
        for step in plan.chain.steps[: max(len(outcome.stages) - 1, 0)]:
            if step.index < outcome.module_index:
                self._book.succeeded(plan.keys[step.index])
        key = plan.keys.get(outcome.module_index)
        if key is None or not is_blamed(outcome.code, outcome.module_index):
            return
        pipeline = plan.chain.pipeline_id
        fallbacks = self._configured.fallbacks(pipeline)
        fallback = fallbacks.get(outcome.module_index, Fallback.SKIP)
        tolerance = self._settings.tolerance
        if fallback is Fallback.NONE:
            tolerance = replace(tolerance, failures=0)
        if self._book.failed(key, self._scheduler.now, tolerance):
            step = next(s for s in configured.steps if s.index == outcome.module_index)
            self._quarantine(key_of(pipeline, step), fallback, tolerance)
        self._remember()

    def _quarantine(self, key: ModuleKey, fallback: Fallback, tolerance: Tolerance) -> None:
        self._out[key.pipeline, key.name] = _Out(key=key, fallback=fallback)
        self._note(
            "module_quarantined", pipeline=key.pipeline, module=key.name,
            fallback=fallback.name.lower(),
            failures=tolerance.failures, period_s=tolerance.period_s,
        )  # fmt: skip
        self.publish()

    def _failed(self, job: Job, plan: Plan, tickets: Tickets, outcome: Failed) -> Failed:
        if self._trialist is not None:
            for step in plan.chain.steps[: max(len(outcome.stages) - 1, 0)]:
                if step.index < outcome.module_index:
                    self._worked(tickets, step.index)
            if is_blamed(outcome.code, outcome.module_index):
                self._trialist.failed(tickets.get(outcome.module_index, ()), outcome.code)
        stages = _with_gaps(job.chain, plan.chain, outcome.stages)
        return replace(outcome, stages=stages)

    def _report(self, job: Job, outcome: Failed) -> None:
        """Make known what will be tried again."""
        pipeline = job.chain.pipeline_id
        self._telemetry.count("batch_retries")
        self._telemetry.add_crash(outcome.crash)
        self._log_status(status_word(outcome.code, pipeline, outcome.module_index))
        self._note(
            "retry", batch=job.batch_id, pipeline=pipeline, module=outcome.module_index,
            code=int(outcome.code),
        )  # fmt: skip


def _with_gaps(
    configured: Chain, ran: Chain, stages: tuple[StageStats, ...]
) -> tuple[StageStats, ...]:
    """Put empty figures where a step was left out, so that positions stay those configured."""
    if len(configured.steps) == len(ran.steps):
        return stages
    by_index = dict(zip((step.index for step in ran.steps), stages, strict=False))
    last = max(by_index, default=0)
    return tuple(
        by_index.get(step.index, StageStats(name=step.name))
        for step in configured.steps
        if step.index <= last or not by_index
    )
