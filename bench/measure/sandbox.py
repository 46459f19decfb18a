"""What locking a module up costs on the latency path: the same chain with and without it."""

from __future__ import annotations

from functools import partial

from bench.effort import Effort
from bench.figures import Figure, Section, Table, text_of
from bench.pipeline import Tree, chain_of, inputs, plain_image
from bench.timing import contest
from dipp.sandbox.rungs import RUNGS

_BUDGET_S = 14.0


def measure(effort: Effort) -> Section:
    """Alternate a tree with everything, one without anything, and the first again."""
    chain = chain_of("identity_copy")
    nothing = tuple(rung.name for rung in RUNGS)
    effort.say("with and without")
    with (
        Tree(chain) as locked,
        Tree(chain, skipped_rungs=nothing) as loose,
        inputs([plain_image(1000)]) as [batch],
    ):
        times = contest(
            {
                "locked up": partial(locked.latency_s, batch),
                "loose": partial(loose.latency_s, batch),
                "locked up again": partial(locked.latency_s, batch),
            },
            budget_s=effort.budget_s(_BUDGET_S),
            most=1000,
        )
        missing = locked.executor.stats.missing_rungs or ()
    rows = tuple(
        (name, text_of(each.best * 1e6), text_of(each.median * 1e6), str(len(each.seconds)))
        for name, each in times.items()
    )
    locked_up, free, again = times.values()
    spread = max(abs(again.best - locked_up.best), abs(again.median - locked_up.median))
    return Section(
        name="sandbox",
        title="The price of the sandbox",
        figures=(
            Figure(
                key="dipp.sandbox_us",
                value=(locked_up.best - free.best) * 1e6,
                median=(locked_up.median - free.median) * 1e6,
                unit="µs",
                spread=spread * 1e6,
                what="what the sandbox adds to the latency path of a module, 1 KB with copy",
            ),
            Figure(
                key="aa.sandbox_us",
                value=(again.best - locked_up.best) * 1e6,
                median=(again.median - locked_up.median) * 1e6,
                unit="µs",
                what="control: the difference of the same to itself",
            ),
        ),
        tables=(Table(title="", head=("µs per batch", "best", "median", "rounds"), rows=rows),),
        notes=(
            "Put on before the batch is there; what is left is what filters cost at each system "
            "call. Not to be had here: " + ("; ".join(missing) or "nothing") + ".",
        ),
    )
