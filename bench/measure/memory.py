"""Figure 8: the memory of the pipeline while batches go through it.

Counted from outside, for forge, hosts and module children together: private pages, and the
anonymous files any of them holds, mapped or not. What was there at rest before the first batch is
the zero, and the camera's own segment is not counted: it is there whatever the pipeline does.
"""

from __future__ import annotations

import time

from bench import reference
from bench.effort import Effort
from bench.figures import Chart, Figure, Section, Table, text_of
from bench.pictures import earth_frame
from bench.pipeline import Input, Tree, chain_of, inputs, plain_image
from bench.svg import Axis, Limit, Line, lines
from bench.tree import Memory, family, memory_of
from dipp.metadata import Metadata
from dipp.runner.executor import Chain

_IMAGES, _IMAGE_BYTES = 4, 7_250_000
_BATCHES, _QUICK_BATCHES = 6, 2
_SAMPLE_S = 0.002
Samples = list[tuple[float, float]]


def measure(effort: Effort) -> Section:
    """Watch four modules that write everything once, and the reference pipeline."""
    count = effort.some(_BATCHES, _QUICK_BATCHES)
    effort.say("four modules that change every image")
    pictures = [plain_image(_IMAGE_BYTES)] * _IMAGES
    size = sum(len(pixels) for _, pixels in pictures)
    changed, idle = _watch(chain_of("edit", 4), pictures, count)
    effort.say("the reference pipeline")
    frame = earth_frame(part=effort.some(1, 2))
    landcover, landcover_idle = _watch(reference.decomposed(), [frame], count)
    peak = max(value for _, value in changed) / size
    peak_frame = max(value for _, value in landcover)
    return Section(
        name="memory",
        title="Figure 8: memory over time",
        figures=(
            Figure(
                key="dipp.peak_over_batch",
                value=peak,
                unit="×",
                what="most memory a chain of four writing modules adds, over the batch of 29 MB",
            ),
            Figure(
                key="dipp.reference_peak_mb",
                value=peak_frame / 1e6,
                unit="MB",
                what=f"most memory the reference pipeline adds for a frame of "
                f"{len(frame[1]) / 1e6:.1f} MB",
            ),
            Figure(
                key="dipp.left_over_batch",
                value=changed[-1][1] / size,
                unit="×",
                what="memory kept for the next batch after the last one, over the batch",
            ),
        ),
        tables=(
            Table(
                title="At rest, everything prepared",
                head=("MB", "proportional", "private", "files"),
                rows=(_row("four modules", idle), _row("reference pipeline", landcover_idle)),
            ),
        ),
        charts=(
            _chart("figure8-memory", f"{count} batches of 29 MB through four modules", changed,
                   size, "times the batch"),
            _chart("figure8-reference", f"{count} frames through the reference pipeline",
                   landcover, len(frame[1]), "times the raw frame", is_limited=False),
        ),
        notes=("Sampled every few milliseconds; a peak between two samples is not seen.",),
    )  # fmt: skip


def _watch(
    chain: Chain, pictures: list[tuple[Metadata, bytes]], count: int
) -> tuple[Samples, Memory]:
    """Return seconds and bytes above rest, and what rest is."""
    samples: Samples = []
    with Tree(chain) as tree:
        tree.await_loaded()
        tree.rest()
        idle = memory_of(family(tree.forge_pid))
        began = time.monotonic()
        for _ in range(count):
            with inputs(pictures) as [batch]:
                _sample(tree, batch, idle, began, samples)
        tree.rest()
        samples.append((time.monotonic() - began, _above(tree, idle, None)))
    return samples, idle


def _sample(tree: Tree, batch: Input, idle: Memory, began: float, samples: Samples) -> None:
    promise = tree.submit(batch)
    while not promise.done:
        tree.loop.tick(_SAMPLE_S)
        samples.append((time.monotonic() - began, _above(tree, idle, batch)))
    tree.finish(promise).close()


def _above(tree: Tree, idle: Memory, batch: Input | None) -> float:
    now = memory_of(family(tree.forge_pid), exclude=[batch.fd] if batch else [])
    return float(max(now.own - idle.own, 0))


def _row(name: str, memory: Memory) -> tuple[str, ...]:
    values = (memory.pss, memory.anonymous, memory.files)
    return (name, *(text_of(value / 1e6) for value in values))


def _chart(
    name: str, title: str, samples: Samples, size: int, unit: str, *, is_limited: bool = True
) -> Chart:
    points = tuple((t, value / size) for t, value in samples)
    limit = Limit(value=2.0, label="2 × the batch") if is_limited else None
    svg = lines(
        [Line(label="above rest", points=points, has_marks=False)],
        Axis(label="seconds"),
        Axis(label=unit, starts_at_zero=True),
        title,
        limit,
    )
    return Chart(name=name, title=title, svg=svg)
