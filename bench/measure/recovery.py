"""Figure 7: four runs of a pipeline, a module that crashes in the second, and the rebuilt cache.

As the node does it: a failure retires what is loaded, so the run after it loads everything anew.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from bench import reference
from bench.effort import Effort
from bench.figures import Chart, Figure, Section, Table, text_of
from bench.pictures import earth_frame
from bench.pipeline import MODULES, BenchError, Tree, inputs
from bench.svg import Bar, stacked
from dipp.errors import describe
from dipp.runner.executor import Chain, Failed, ModuleStep

_REPEATS, _QUICK_REPEATS = 3, 1
_FAULTY_RUN = 1
_LABELS = ("run 1, loading", "run 2, crash", "run 3, loading again", "run 4")
_LOADING = "loading and node"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stint:
    """One run: how long, and where the time went. `code` is 0 if it succeeded."""

    wall_s: float
    code: int
    parts: tuple[tuple[str, float], ...]


def measure(effort: Effort) -> Section:
    """Repeat the four runs, each time from nothing loaded, and show the best of each."""
    found: list[list[_Stint]] = []
    for number in range(effort.some(_REPEATS, _QUICK_REPEATS)):
        effort.say(f"four runs, time {number + 1}")
        found.append(_four_runs(effort.some(1, 2)))
    best = [min(column, key=lambda stint: stint.wall_s) for column in zip(*found, strict=True)]
    code = best[_FAULTY_RUN].code
    if not code:
        raise BenchError("the module that must crash did not")
    bars = [Bar(label=label, parts=s.parts) for label, s in zip(_LABELS, best, strict=True)]
    rows = tuple(
        (label, text_of(stint.wall_s * 1e3), describe(stint.code) if stint.code else "delivered")
        for label, stint in zip(_LABELS, best, strict=True)
    )
    rebuild_ms = (best[2].wall_s - best[3].wall_s) * 1e3
    return Section(
        name="recovery",
        title="Figure 7: a fault, and what it costs",
        figures=(
            Figure(
                key="dipp.rebuild_ms",
                value=rebuild_ms,
                unit="ms",
                what="what the run after a fault takes longer: a new host with modules and models",
            ),
            Figure(
                key="dipp.fault_run_ms",
                value=best[_FAULTY_RUN].wall_s * 1e3,
                unit="ms",
                what="from handing in a batch to the report that its second module crashed",
            ),
        ),
        tables=(Table(title="", head=("best of each", "ms", ""), rows=rows),),
        charts=(
            Chart(
                name="figure7-recovery",
                title="Four runs of the reference pipeline, milliseconds",
                svg=stacked(bars, "ms", "Four runs with a fault in the second"),
            ),
        ),
        notes=(
            (
                "The reference pipeline with one more module behind demosaic, which reads a null "
                "pointer when told to. No other batch is lost, nothing is restarted by hand."
            ),
        ),
    )


def _chain() -> Chain:
    """Return the reference pipeline with the crashing module as the second."""
    chain = reference.decomposed()
    path = MODULES / "crasher.py"
    crasher = ModuleStep(index=2, name=path.stem, path=str(path), timeout_s=10.0)
    steps = (chain.steps[0], crasher, *chain.steps[1:])
    numbered = (dataclasses.replace(s, index=i) for i, s in enumerate(steps, 1))
    return dataclasses.replace(chain, steps=tuple(numbered))


def _four_runs(part: int) -> list[_Stint]:
    metadata, pixels = earth_frame(part=part)
    poisoned = metadata.replace(camera="poison")
    stints = []
    with Tree(_chain(), is_warm=False) as tree:
        tree.await_forge()
        for number in range(len(_LABELS)):
            head = poisoned if number == _FAULTY_RUN else metadata
            with inputs([(head, pixels)]) as [batch]:
                tree.rest()
                began = time.perf_counter()
                outcome = tree.wait(tree.submit(batch))
                took = time.perf_counter() - began
            stages = tuple((stage.name, stage.wall_s * 1e3) for stage in outcome.stages)
            rest = max(took * 1e3 - sum(value for _, value in stages), 0.0)
            is_bad = isinstance(outcome, Failed)
            stints.append(
                _Stint(
                    wall_s=took,
                    code=outcome.code if isinstance(outcome, Failed) else 0,
                    parts=((_LOADING, rest), *stages),
                )
            )
            outcome.close()
            if is_bad:
                tree.settle()
    return stints
