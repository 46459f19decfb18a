"""Figure 5: where the time of the reference pipeline goes, in five modules, in one, in one process.

Everything is prepared before each batch; the time counts from handing the batch in to having the
result. Source: issue 7; the paper found 1.030 for decomposed over merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench import reference
from bench.effort import Effort
from bench.figures import Chart, Figure, Section, Table, text_of
from bench.pictures import earth_frame
from bench.pipeline import InProcess, Input, Tree, inputs
from bench.svg import Bar, stacked
from bench.timing import Ratio, Times, contest

_BUDGET_S = 90.0
_HOST, _NODE = "host", "node"


@dataclass(slots=True)
class _Recorder:
    """Runs batches in a tree and keeps where the time of each went, in milliseconds."""

    tree: Tree
    parts: dict[float, tuple[tuple[str, float], ...]] = field(default_factory=dict)

    def run(self, batch: Input) -> float:
        """Run one batch."""
        took = self.tree.wall(batch)
        last = self.tree.last
        stages = [(stage.name, stage.wall_s * 1e3) for stage in last.stages]
        inside = last.latency_s * 1e3
        host = max(inside - sum(value for _, value in stages), 0.0)
        self.parts[took] = (*stages, (_HOST, host), (_NODE, max(took * 1e3 - inside, 0.0)))
        return took


def measure(effort: Effort) -> Section:
    """Alternate the three forms, and the decomposed one twice."""
    effort.say("loading the reference pipeline")
    frame = earth_frame(part=effort.some(1, 2))
    local = InProcess(reference.decomposed())
    with (
        Tree(reference.decomposed()) as parts,
        Tree(reference.merged()) as whole,
        inputs([frame]) as [batch],
    ):
        decomposed, merged = _Recorder(parts), _Recorder(whole)
        stages: dict[float, list[float]] = {}

        def in_process() -> float:
            took = local.clocked(batch)
            stages[took] = local.stage_s
            return took

        effort.say("alternating")
        times = contest(
            {
                "decomposed": lambda: decomposed.run(batch),
                "merged": lambda: merged.run(batch),
                "in process": in_process,
                "again": lambda: decomposed.run(batch),
            },
            budget_s=effort.budget_s(_BUDGET_S),
            least=2,
        )
        names = [step.name for step in parts.chain.steps]
    alone = [value * 1e3 for value in stages[times["in process"].best]]
    bars = [
        Bar(label="decomposed", parts=decomposed.parts[times["decomposed"].best]),
        Bar(label="merged", parts=merged.parts[times["merged"].best]),
        Bar(label="in one process", parts=tuple(zip(names, alone, strict=True))),
    ]
    control = Ratio.of(times["again"], times["decomposed"])
    return Section(
        name="stages",
        title="Figure 5: where the time goes",
        figures=_figures(times, control),
        tables=(_table(bars), _rounds(times)),
        charts=(
            Chart(
                name="figure5-stages",
                title="Reference pipeline, one frame, best round, milliseconds",
                svg=stacked(bars, "ms", "Where the time of a frame goes"),
            ),
        ),
        notes=(
            (
                f"One frame of {frame[0].width} x {frame[0].height} pixels of 12 bits: "
                "demosaic, patches of 224 x 224, "
                "MobileNetV2, a fifth of the patches to JPEG XL. Merged: all five in one module."
            ),
            (
                "host: what the pipeline host does before, between and after the modules; node: "
                "handing the batch in and taking the result."
            ),
            f"Control, decomposed against itself: {control}.",
        ),
    )


def _figures(times: dict[str, Times], control: Ratio) -> tuple[Figure, ...]:
    over_merged = Ratio.of(times["decomposed"], times["merged"])
    over_local = Ratio.of(times["decomposed"], times["in process"])
    is_real = over_merged.differs(control)
    verdict = "more than" if is_real else "not more than"
    return (
        Figure(
            key="dipp.decomposed_over_merged",
            value=over_merged.best,
            median=over_merged.median,
            spread=control.spread * over_merged.best,
            unit="×",
            what=f"reference pipeline, five modules over one ({verdict} the control)",
        ),
        Figure(
            key="aa_control",
            value=control.best,
            median=control.median,
            unit="×",
            what="control: reference pipeline, decomposed against itself",
        ),
        Figure(
            key="dipp.decomposed_over_in_process",
            value=over_local.best,
            median=over_local.median,
            unit="×",
            what="reference pipeline, five isolated modules over one unprotected process",
        ),
        *(
            Figure(
                key=f"dipp.reference_{name.replace(' ', '_')}_ms",
                value=times[name].best * 1e3,
                median=times[name].median * 1e3,
                unit="ms",
                what=f"reference pipeline, one frame, {name}",
            )
            for name in ("decomposed", "merged", "in process")
        ),
    )


def _table(bars: list[Bar]) -> Table:
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    values = [dict(bar.parts) for bar in bars]
    rows = [
        (name, *("" if name not in each else text_of(each[name]) for each in values))
        for name in names
    ]
    rows.append(("together", *(text_of(sum(each.values())) for each in values)))
    head = ("ms, best round", *(bar.label for bar in bars))
    return Table(title="", head=head, rows=tuple(rows))


def _rounds(times: dict[str, Times]) -> Table:
    rows = tuple(
        (name, text_of(each.best * 1e3), text_of(each.median * 1e3),
         text_of(max(each.seconds) * 1e3), str(len(each.seconds)))
        for name, each in times.items()
    )  # fmt: skip
    head = ("ms per frame", "best", "median", "worst", "rounds")
    return Table(title="Every round counted", head=head, rows=rows)
