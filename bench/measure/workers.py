"""Batches in parallel: two workers against one, on the reference pipeline and on one that waits.

Sustained: so many frames at once, from rest to the last result. Source: issue 7.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from bench import reference
from bench.effort import Effort
from bench.figures import Figure, Section, Table, text_of
from bench.pictures import earth_frame
from bench.pipeline import Tree, chain_of, inputs, plain_image
from bench.timing import Contestant, Ratio, Times, contest
from dipp.metadata import Metadata
from dipp.runner.executor import Chain

_BUDGET_S, _WAITING_S = 70.0, 4.0
_FRAMES, _QUICK_FRAMES = 4, 2
Picture = tuple[Metadata, bytes]


def measure(effort: Effort) -> Section:
    """Measure both pipelines."""
    effort.say("the reference pipeline")
    frames = effort.some(_FRAMES, _QUICK_FRAMES)
    working = _contest(
        reference.decomposed(),
        [earth_frame(part=effort.some(1, 2))],
        frames,
        effort.budget_s(_BUDGET_S),
    )
    effort.say("modules that wait")
    waiting = _contest(chain_of("sleeper", 3), [plain_image(1000)], 12, _WAITING_S)
    figures, rows = [], []
    for key, what, times in (
        ("dipp.workers2_over_1", "reference pipeline", working),
        ("dipp.workers2_over_1_waiting", "three modules that wait for 20 ms", waiting),
    ):
        gain, control = Ratio.of(times["1"], times["2"]), Ratio.of(times["again"], times["1"])
        figures += [
            Figure(
                key=key,
                value=gain.best,
                median=gain.median,
                spread=control.spread * gain.best,
                unit="×",
                what=f"two workers over one, sustained, {what}",
            ),
            Figure(
                key=f"aa.{key.partition('.')[2]}",
                value=control.best,
                median=control.median,
                unit="×",
                what=f"control: one worker against itself, {what}",
            ),
        ]
        rows += [
            (f"{what}, {name} worker(s)", text_of(1 / each.best), text_of(1 / each.median),
             str(len(each.seconds)))
            for name, each in times.items()
            if name != "again"
        ]  # fmt: skip
    head = ("batches per second", "best", "median", "rounds")
    return Section(
        name="workers",
        title="Batches in parallel",
        figures=tuple(figures),
        tables=(Table(title="", head=head, rows=tuple(rows)),),
        notes=(
            (
                f"{frames} frames handed in at once. Two workers on two processors cannot give "
                "twice as much: the node, this process and the exit of children need them too."
            ),
        ),
    )


def _contest(
    chain: Chain, pictures: list[Picture], count: int, budget_s: float
) -> dict[str, Times]:
    """Return seconds per batch with one worker, two, and one again."""
    with ExitStack() as stack:
        one = stack.enter_context(Tree(chain, workers=1))
        two = stack.enter_context(Tree(chain, workers=2))
        for tree in (one, two):
            # Instead of a warm-up round, which would take as long as a real one.
            _many(tree, pictures, 1)
        contestants: dict[str, Contestant] = {
            "1": partial(_many, one, pictures, count),
            "2": partial(_many, two, pictures, count),
            "again": partial(_many, one, pictures, count),
        }
        return contest(contestants, budget_s=budget_s, least=2, warm_up=0)


def _many(tree: Tree, pictures: list[Picture], count: int) -> float:
    with inputs(pictures, count) as batches:
        return tree.sustained(batches) / count
