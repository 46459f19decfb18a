"""Figure 6: what a module costs, by size of the batch, length of the chain, copies and view.

*Latency path*: from the arrival of a batch at the host to its last result, everything prepared.
*Sustained*: everything included, batches back to back, each in a segment of its own. The module
copies twice (shared to local and back) or hands a view on. Source: performance.md 1 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.effort import Effort
from bench.figures import Chart, Figure, Section, Table, text_of
from bench.forking import ForkOnDemand
from bench.pipeline import InProcess, Tree, chain_of, inputs, make_input, plain_image
from bench.svg import Axis, Line, bytes_text, lines
from bench.timing import Contestant, Ratio, Times, clocked, contest

KB, MEGAPIXELS, LARGE = 1_000, 7_250_000, 64_000_000
_SIZES = (KB, 10_000, 100_000, 1_000_000, MEGAPIXELS, LARGE)
_QUICK_SIZES = (KB, MEGAPIXELS)
_COUNTS, _QUICK_COUNTS = (1, 4, 16), (1, 4)
# So many batches back to back that the first and the last do not decide.
_BACK_TO_BACK = {KB: 32, 10_000: 32, 100_000: 32, 1_000_000: 16, MEGAPIXELS: 10, LARGE: 3}
# With new memory for every module the baseline would take most of the time beyond this.
_BASELINE_BYTES = 300_000_000
# The memory of the largest batches is used again too.
_KEEP_MB = 256
_LATENCY_S, _SUSTAINED_S = 8.0, 8.0
_AGAIN, _ARRIVAL = "again", "arrival"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was measured of one size, chain and kind; times are per module."""

    kind: str
    size: int
    count: int
    isolated: Times
    in_process: Times
    on_demand: Times | None = None


@dataclass(slots=True)
class _Found:
    """Everything measured, and the controls."""

    latency: list[Cell]
    sustained: list[Cell]
    controls: dict[str, Ratio]
    memcpy: Times
    # From taking the message, by kind, size and chain.
    arrivals: dict[str, Times]


def measure(effort: Effort) -> Section:
    """Measure all cells."""
    sizes = _QUICK_SIZES if effort.quick else _SIZES
    counts = _QUICK_COUNTS if effort.quick else _COUNTS
    found = _Found([], [], {}, Times((1.0,)), {})
    for kind in ("copy", "view"):
        for count in counts:
            effort.say(f"{kind}, {count} modules")
            with Tree(chain_of(f"identity_{kind}", count), keep_mb=_KEEP_MB) as tree:
                local = InProcess(chain_of(f"identity_{kind}", count))
                _latency(found, kind, count, sizes, tree, local, effort)
                _sustained(found, kind, count, sizes, tree, local, effort)
    return Section(
        name="throughput",
        title="Figure 6: throughput per module",
        figures=_figures(found),
        tables=(_table("Latency path", found.latency), _table("Sustained", found.sustained)),
        charts=(
            _chart("figure6-latency", "Latency path", found.latency),
            _chart("figure6-sustained", "Sustained, everything included", found.sustained),
        ),
        notes=(
            (
                "Copy: shared memory to local memory and back. View: the image is handed on by "
                "reference, which is less work, not a faster copy."
            ),
            (
                "In process: the same files in this process, output and scratch memory mapped "
                "and warm, nothing checked. Fork on demand: a supervisor in Python in the way of "
                "the flown one, a fork per module, a third copy, pipes; it is not the C program."
            ),
        ),
    )


def _latency(
    found: _Found,
    kind: str,
    count: int,
    sizes: tuple[int, ...],
    tree: Tree,
    local: InProcess,
    effort: Effort,
) -> None:
    made = {size: make_input([plain_image(size)]) for size in sizes}
    contestants: dict[str, Contestant] = {}
    for size, batch in made.items():
        contestants[f"isolated {size}"] = partial(tree.latency_s, batch)
        contestants[f"local {size}"] = partial(local.clocked, batch)
    contestants[_AGAIN] = partial(tree.latency_s, made[MEGAPIXELS])
    contestants[_ARRIVAL] = partial(tree.arrival_s, made[MEGAPIXELS])
    if kind == "copy":
        contestants["memcpy"] = clocked(_two_memcpys(MEGAPIXELS))
    with ForkOnDemand(chain_of(f"identity_{kind}", count)) as forking:
        for size in sizes:
            if size * count <= _BASELINE_BYTES:
                contestants[f"forking {size}"] = partial(forking.latency_s, size)
        times = contest(contestants, budget_s=effort.budget_s(_LATENCY_S), least=3)
    for batch in made.values():
        batch.close()
    if kind == "copy":
        # The shortest ever seen, so that no neighbour makes the comparison easier.
        found.memcpy = min(found.memcpy, times["memcpy"], key=lambda each: each.best)
    found.arrivals[f"{kind}_7m_m{count}"] = times[_ARRIVAL]
    control = Ratio.of(times[_AGAIN], times[f"isolated {MEGAPIXELS}"])
    found.controls[f"latency_{kind}_m{count}"] = control
    for size in sizes:
        forked = times.get(f"forking {size}")
        found.latency.append(
            Cell(
                kind=kind,
                size=size,
                count=count,
                isolated=times[f"isolated {size}"].scaled(1 / count),
                in_process=times[f"local {size}"].scaled(1 / count),
                on_demand=forked.scaled(1 / count) if forked else None,
            )
        )


def _sustained(
    found: _Found,
    kind: str,
    count: int,
    sizes: tuple[int, ...],
    tree: Tree,
    local: InProcess,
    effort: Effort,
) -> None:
    contestants: dict[str, Contestant] = {}
    for size in sizes:
        batches = effort.some(_BACK_TO_BACK[size], min(_BACK_TO_BACK[size], 4))
        contestants[f"isolated {size}"] = partial(_many, tree.sustained, size, batches)
        contestants[f"local {size}"] = partial(_many, local.sustained, size, batches)
        if size == MEGAPIXELS:
            contestants[_AGAIN] = contestants[f"isolated {size}"]
    times = contest(contestants, budget_s=effort.budget_s(_SUSTAINED_S), least=3)
    control = Ratio.of(times[_AGAIN], times[f"isolated {MEGAPIXELS}"])
    found.controls[f"sustained_{kind}_m{count}"] = control
    for size in sizes:
        found.sustained.append(
            Cell(
                kind=kind,
                size=size,
                count=count,
                isolated=times[f"isolated {size}"].scaled(1 / count),
                in_process=times[f"local {size}"].scaled(1 / count),
            )
        )


def _many(run: Callable[..., float], size: int, count: int) -> float:
    """Return the seconds per batch of so many, each in a segment that nobody has mapped yet."""
    with inputs([plain_image(size)], count) as batches:
        return run(batches) / count


def _two_memcpys(size: int) -> Callable[[], None]:
    first, second, third = (np.ones(size, np.uint8) for _ in range(3))

    def copy() -> None:
        np.copyto(second, first)
        np.copyto(third, second)

    copy()
    return copy


# -- figures


def _figures(found: _Found) -> tuple[Figure, ...]:
    copies = [cell for cell in found.latency if cell.kind == "copy"]
    small = [cell for cell in copies if cell.size == KB]
    large = [cell for cell in copies if cell.size == MEGAPIXELS]
    views = [cell for cell in found.latency if cell.kind == "view"]
    copy_spread, view_spread, rate_spread = (
        max(control.spread for name, control in found.controls.items() if name.startswith(kind))
        for kind in ("latency_copy", "latency_view", "sustained_copy")
    )
    figures = [
        _worst_us("dipp.latency_us_copy_1k", small, copy_spread, "latency, copy, 1 KB"),
        _worst_us("dipp.latency_us_zero_copy", views, view_spread, "latency, view, any size"),
        _over_memcpy("dipp.latency_copy_7m_over_two_memcpy", large, found.memcpy, copy_spread),
        Figure(
            key="dipp.two_memcpy_us",
            value=found.memcpy.best * 1e6,
            median=found.memcpy.median * 1e6,
            unit="µs",
            what="two warm copies of 7.25 MB in one process",
        ),
    ]
    figures += [_us(f"dipp.latency_us_copy_1k_m{cell.count}", cell) for cell in small]
    figures += [_us(f"dipp.latency_us_copy_7m_m{cell.count}", cell) for cell in large]
    figures += [
        _us(f"dipp.latency_us_view_7m_m{cell.count}", cell)
        for cell in views
        if cell.size == MEGAPIXELS
    ]
    figures += [
        Figure(
            key=f"dipp.arrival_us_{name}",
            value=times.best * 1e6,
            median=times.median * 1e6,
            unit="µs",
            what=f"from taking the message to the result of the chain, journal and all, {name}",
        )
        for name, times in found.arrivals.items()
    ]
    rates = [c for c in found.sustained if c.kind == "copy" and c.size == MEGAPIXELS]
    each = [_rate(f"dipp.sustained_copy_7m_over_in_process_m{c.count}", c) for c in rates]
    worst = min(each, key=lambda figure: figure.value)
    figures.append(
        Figure(
            key="dipp.sustained_copy_7m_over_in_process",
            value=worst.value,
            median=worst.median,
            spread=rate_spread * worst.value,
            unit="×",
            what="sustained rate with copy, 7.25 MB, over that in one process (worst chain)",
        )
    )
    figures += each
    figures += [
        Figure(
            key=f"aa.{name}",
            value=control.best,
            median=control.median,
            unit="×",
            what=f"control: {name.replace('_', ' ')}, 7.25 MB, the same against itself",
        )
        for name, control in found.controls.items()
    ]
    return tuple(figures)


def _worst_us(key: str, cells: list[Cell], spread: float, what: str) -> Figure:
    worst = max(cells, key=lambda cell: cell.isolated.best)
    return Figure(
        key=key,
        value=worst.isolated.best * 1e6,
        median=max(cell.isolated.median for cell in cells) * 1e6,
        spread=spread * worst.isolated.best * 1e6,
        unit="µs",
        what=f"{what}, per module (worst: {bytes_text(worst.size)}, chain of {worst.count})",
    )


def _us(key: str, cell: Cell) -> Figure:
    return Figure(
        key=key,
        value=cell.isolated.best * 1e6,
        median=cell.isolated.median * 1e6,
        unit="µs",
        what=f"latency per module, {cell.kind}, {bytes_text(cell.size)}, chain of {cell.count}",
    )


def _over_memcpy(key: str, cells: list[Cell], memcpy: Times, spread: float) -> Figure:
    ratios = [(Ratio.of(cell.isolated, memcpy), cell.count) for cell in cells]
    worst, count = max(ratios, key=lambda pair: pair[0].best)
    return Figure(
        key=key,
        value=worst.best,
        median=max(ratio.median for ratio, _ in ratios),
        spread=spread * worst.best,
        unit="×",
        what=f"latency per module with copy, 7.25 MB, over two memcpys (worst: chain of {count})",
    )


def _rate(key: str, cell: Cell) -> Figure:
    ratio = Ratio.of(cell.in_process, cell.isolated)
    return Figure(
        key=key,
        value=ratio.best,
        median=ratio.median,
        unit="×",
        what=f"sustained rate with copy, 7.25 MB, over in-process, chain of {cell.count}",
    )


def _table(title: str, cells: list[Cell]) -> Table:
    rows = []
    for cell in cells:
        on_demand = "" if cell.on_demand is None else _pair(cell.on_demand)
        ratio = Ratio.of(cell.isolated, cell.in_process)
        rows.append(
            (
                f"{cell.kind}, {bytes_text(cell.size)}, {cell.count} modules",
                _pair(cell.isolated),
                _pair(cell.in_process),
                on_demand,
                f"{ratio.best:.2f} / {ratio.median:.2f}",
                str(len(cell.isolated.seconds)),
            )
        )
    head = ("µs per module, best / median", "isolated", "in process", "fork on demand",
            "isolated / in process", "rounds")  # fmt: skip
    return Table(title=title, head=head, rows=tuple(rows))


def _pair(times: Times) -> str:
    return f"{text_of(times.best * 1e6)} / {text_of(times.median * 1e6)}"


def _chart(name: str, title: str, cells: list[Cell]) -> Chart:
    series = []
    dashes = {1: "", 4: "7 4", 16: "2 3"}
    groups: list[tuple[str, str, Callable[[Cell], Times | None]]] = [
        ("copy", "copy", lambda cell: cell.isolated),
        ("view", "view", lambda cell: cell.isolated),
        ("copy", "in process, copy", lambda cell: cell.in_process),
        ("copy", "fork on demand, copy", lambda cell: cell.on_demand),
    ]
    for group, (kind, label, choose) in enumerate(groups):
        for count in sorted({cell.count for cell in cells}):
            points = tuple(
                (float(cell.size), cell.size / times.best / 1e6)
                for cell in cells
                if (cell.kind, cell.count) == (kind, count) and (times := choose(cell)) is not None
            )
            if points:
                series.append(
                    Line(label=f"{label}, {count}", points=points, group=group, dash=dashes[count])
                )
    svg = lines(
        series,
        Axis(label="size of the batch", is_log=True, show=bytes_text),
        Axis(label="MB/s per module, best", is_log=True),
        title,
    )
    return Chart(name=name, title=f"{title}: MB/s per module", svg=svg)
