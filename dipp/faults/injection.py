"""Inject faults and judge what comes of them: hostile modules, rows, alone or several at once.

Driver. After each hostile module a good batch must pass, and no process, segment or descriptor may
be left; what a row looks at is in the row, and the same leaks are looked for around it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

from csp.faultrow import Case, FaultRow, NotInjected, Violation
from dipp.batch import encode_batch
from dipp.errors import Code, describe
from dipp.faults.verdict import Verdict
from dipp.hostile import LOADING, OK, Fault, has_compiler, write_module
from dipp.runner.executor import Chain, Completed, Limits, ModuleStep, Outcome
from dipp.sandbox.rungs import active_names
from dipp.testing import IDENTITY, Harness, Holdings, sample_image, segment

# A child is killed at its deadline and buried within this; beside others it may take longer.
_KILL_S = 0.5
_KILL_BESIDE_OTHERS_S = 3.0
_TOGETHER_S = 60.0
# Time for what a row started to be gone.
_SETTLE_S = 3.0


class ModuleInjector:
    """Runs hostile modules in a process tree of its own; a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dipp-faults-")
        self._path = Path(self._directory.name)
        # Modules may run as another user, who has to get here.
        self._path.chmod(0o755)
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

    @property
    def missing_rungs(self) -> tuple[str, ...]:
        """What of the containment ladder does not hold here, with reasons."""
        return self._harness.executor.stats.missing_rungs or ()

    def inject(self, fault: Fault, seed: int) -> Verdict:
        """Run one fault between two good modules, then a good batch."""
        verdict = Verdict(
            name=fault.name, injected=fault.summary, expected=fault.outcome,
            why_not=self.obstacle(fault), replay=f"dipp faults --only {fault.number} --seed {seed}",
        )  # fmt: skip
        return verdict if verdict.why_not else self._run((fault,), verdict)

    def inject_together(self, faults: Sequence[Fault], seed: int) -> Verdict:
        """Run several faults at the same time in pipelines of their own, then a good batch."""
        names = " + ".join(fault.name for fault in faults)
        words = " ".join(f"--combine {fault.name}" for fault in faults)
        verdict = Verdict(
            name=names, injected="; ".join(fault.summary for fault in faults),
            expected="each as alone", replay=f"dipp faults {words} --seed {seed}",
        )  # fmt: skip
        return self._run(faults, verdict)

    def _run(self, faults: Sequence[Fault], verdict: Verdict) -> Verdict:
        kill_s = _KILL_S if len(faults) == 1 else _KILL_BESIDE_OTHERS_S
        before, problems, seen = self._holdings(), list[str](), list[str]()
        restarts = self._harness.executor.stats.forge_restarts
        started = time.monotonic()
        for fault, outcome in zip(faults, self._outcomes(faults), strict=True):
            name = f"{fault.name}: " if len(faults) > 1 else ""
            problems += [name + problem for problem in judge(fault, outcome, kill_s)]
            seen.append("passed" if isinstance(outcome, Completed) else _describe(outcome))
            outcome.close()
        try:
            self._good_batch()
        except AssertionError as error:
            problems.append(f"the next batch: {error}")
        for number in range(len(faults)):
            self._harness.settle(_pipeline(number))
        problems += before.leaks(self._holdings())
        if self._harness.executor.stats.forge_restarts > restarts:
            problems.append("the forge died")
        return replace(
            verdict, problems=tuple(problems), seen=", ".join(seen),
            seconds=time.monotonic() - started,
        )  # fmt: skip

    def _outcomes(self, faults: Sequence[Fault]) -> list[Outcome]:
        harness, data = self._harness, encode_batch([sample_image()])
        with ExitStack() as stack:
            promises = []
            for number, fault in enumerate(faults):
                fd = stack.enter_context(segment(data))
                good = self._good_step()
                chain = _chain(_pipeline(number), good, write_module(fault, self._path), good)
                promises.append(harness.executor.submit(harness.job(chain, fd, data, 1)))
            return [harness.loop.run_until(promise, _TOGETHER_S) for promise in promises]

    def obstacle(self, fault: Fault) -> str:
        """Say why a fault cannot be injected here; empty if it can."""
        active = active_names(self.missing_rungs)
        if fault.needs_compiler and not has_compiler():
            return "no gcc to build a native module"
        if fault.needs and not set(fault.needs) & set(active):
            missing = [text for text in self.missing_rungs if text.split(":")[0] in fault.needs]
            return f"none of {', '.join(fault.needs)} can be had here ({'; '.join(missing)})"
        return ""

    def _good_step(self) -> ModuleStep:
        path = str(self._path / "identity.py")
        return ModuleStep(index=1, name="identity", path=path, timeout_s=10.0)

    def _good_batch(self) -> None:
        self._harness.run_images(_chain(2, self._good_step()))

    def _holdings(self) -> Holdings:
        (root,) = self._scratch.iterdir()
        return Holdings.take([root])


def _pipeline(number: int) -> int:
    """Return the pipeline of the n-th fault; 2 is the good one's."""
    return 1 if number == 0 else number + 2


def judge(fault: Fault, outcome: Outcome, kill_s: float = _KILL_S) -> Iterator[str]:
    """Yield everything about an outcome that is not as the row of the fault says."""
    stages = outcome.stages
    if isinstance(outcome, Completed):
        if OK not in fault.codes:
            yield "the batch passed"
        if [bytes(pixels) for _, pixels in outcome.images] != [sample_image()[1]]:
            yield "the images are not what the module left"
    else:
        if outcome.code not in fault.codes:
            yield f"code {outcome.code}, expected {' or '.join(map(str, map(int, fault.codes)))}"
        if outcome.module_index != 2:
            yield f"module {outcome.module_index} is blamed"
        if len(outcome.crash.encode()) >= 256:
            yield f"a crash record of {len(outcome.crash.encode())} bytes"
        for expected, found in (
            (fault.exception, outcome.crash.exception), (fault.log, outcome.crash.last_log)
        ):  # fmt: skip
            if expected not in found:
                yield f"{expected!r} is not in {found!r}"
        if outcome.code == Code.TIMEOUT and len(stages) > 1:
            late_s = stages[1].wall_s - fault.timeout_s
            if not 0 <= late_s < kill_s:
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


def inject_row(row: FaultRow, seed: int) -> Verdict:
    """Run a row with everything random taken from the seed; never raises what a row raises."""
    verdict = Verdict(
        name=row.name, injected=row.injected, expected=row.expected,
        replay=f"dipp faults --only {row.id} --seed {seed}",
    )  # fmt: skip
    before, started = Holdings.take(), time.monotonic()
    seen, problems = "", tuple[str, ...]()
    with tempfile.TemporaryDirectory(prefix="dipp-faults-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        case = Case(random=Random(f"{seed}:{row.name}"), directory=directory)
        try:
            with case.cleanup:
                seen = row.inject(case)
        except NotInjected as reason:
            return replace(verdict, why_not=str(reason))
        except Violation as violation:
            problems = (str(violation),)
        except Exception as error:  # boundary: a row may find anything, and the campaign goes on
            problems = (f"{type(error).__name__}: {error}",)
    if not problems:
        problems = tuple(_leaks(before))
    return replace(verdict, seen=seen, problems=problems, seconds=time.monotonic() - started)


def _leaks(before: Holdings) -> list[str]:
    """Return what is left after a while; a process that was told to end needs a moment."""
    end = time.monotonic() + _SETTLE_S
    while True:
        leaks = before.leaks(Holdings.take())
        if not leaks or time.monotonic() > end:
            return leaks
        time.sleep(0.05)
