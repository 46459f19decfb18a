"""Draw the charts of the report as SVG text: stacked bars, and lines on plain or log axes. Pure.

Every picture carries its own style, so that the file can stand alone; it follows the reader's
choice of a light or dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bench.figures import text_of

_WIDTH, _LEFT, _RIGHT = 860, 66, 16
_BAR_LEFT, _BAR_PX = 190, 34
_PLOT_PX, _TOP = 300, 12
_LEGEND_ROW_PX, _CHARACTER_PX = 20, 6.7
# Distinguishable also with a red-green weakness (after Okabe and Ito).
_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#7f8c8d",
)  # fmt: skip
_STYLE = """<style>
svg{--fg:#16191f;--mut:#5b6472;--line:#dfe3e8;--bg:#fff}
@media(prefers-color-scheme:dark){svg{--fg:#e7eaef;--mut:#98a2b1;--line:#2b313b;--bg:#191d24}}
.bg{fill:var(--bg)}text{font:12px system-ui,sans-serif;fill:var(--fg)}
.t{fill:var(--mut);font-size:11px}.g{stroke:var(--line);stroke-width:1}
.l{fill:none;stroke-width:2.2;stroke-linejoin:round}.v{font-size:11px}.in{fill:#fff;font-size:11px}
.limit{stroke:#c0342b;stroke-width:1.5;stroke-dasharray:6 4}.limitt{fill:#c0342b;font-size:11px}
</style>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of parts that add up: (name of the part, value)."""

    label: str
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series of points. `group` lines share a colour; `dash` tells them apart."""

    label: str
    points: tuple[tuple[float, float], ...]
    group: int = 0
    dash: str = ""
    has_marks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis; `show` turns a value into what stands beside a tick."""

    label: str
    is_log: bool = False
    show: Callable[[float], str] = "{:,g}".format
    starts_at_zero: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A horizontal line that should not be crossed."""

    value: float
    label: str


def stacked(bars: Sequence[Bar], unit: str, title: str) -> str:
    """Return horizontal bars whose parts lie one behind the other."""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    longest = max(1e-9, *(sum(value for _, value in bar.parts) for bar in bars), 0.0)
    scale = (_WIDTH - _BAR_LEFT - 96) / longest
    out = []
    for row, bar in enumerate(bars):
        y, x = _TOP + row * _BAR_PX, float(_BAR_LEFT)
        out.append(_text(_BAR_LEFT - 10, y + 17, bar.label, anchor="end"))
        for name, value in bar.parts:
            width = value * scale
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            said = text_of(value)
            out.append(
                f"<g><title>{escape(f'{bar.label}: {name} {said} {unit}')}</title>"
                f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="24" '
                f'fill="{colour}"/></g>'
            )
            if width > _CHARACTER_PX * len(said) + 6:
                out.append(_text(x + width / 2, y + 16, said, kind="in", anchor="middle"))
            x += width
        total = sum(value for _, value in bar.parts)
        out.append(_text(x + 6, y + 17, f"{text_of(total)} {unit}", kind="v"))
    height = float(_TOP + len(bars) * _BAR_PX + 8)
    legend, height = _legend([(name, index, "") for index, name in enumerate(names)], height)
    return _svg("".join(out) + legend, height, title)


def lines(
    series: Sequence[Line], x_axis: Axis, y_axis: Axis, title: str, limit: Limit | None = None
) -> str:
    """Return curves over a common pair of axes, drawn as if they were time or size."""
    points = [point for line in series for point in line.points]
    if not points:
        return _svg(_text(_LEFT, 30, "nothing was measured", kind="t"), 50, title)
    limits = [limit.value] if limit else []
    to_x, x_ticks = _scale([x for x, _ in points], x_axis, _LEFT, _WIDTH - _RIGHT)
    to_y, y_ticks = _scale([y for _, y in points] + limits, y_axis, _TOP + _PLOT_PX, _TOP)
    out = [_grid(to_x, x_ticks, x_axis, to_y, y_ticks, y_axis)]
    if limit is not None:
        y = to_y(limit.value)
        out.append(f'<line class="limit" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" '
                   f'y2="{y:.1f}"/>')  # fmt: skip
        out.append(_text(_WIDTH - _RIGHT, y - 5, limit.label, kind="limitt", anchor="end"))
    out += [_curve(line, to_x, to_y) for line in series]
    keys = [(line.label, line.group, line.dash) for line in series]
    legend, height = _legend(keys, _TOP + _PLOT_PX + 44)
    return _svg("".join(out) + legend, height, title)


def _curve(line: Line, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    colour = _COLOURS[line.group % len(_COLOURS)]
    places = [(to_x(x), to_y(y)) for x, y in line.points]
    path = " ".join(f"{'L' if i else 'M'}{x:.1f},{y:.1f}" for i, (x, y) in enumerate(places))
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>'
        f"{escape(f'{line.label}: {text_of(value)}')}</title></circle>"
        for (x, y), (_, value) in zip(places, line.points, strict=True)
    )
    return f'<path class="l" d="{path}" stroke="{colour}"{dash}/>' + marks * line.has_marks


def _scale(
    values: Sequence[float], axis: Axis, start: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Return the function from values to places, and the values of the ticks."""
    low, high = min(values), max(values)
    if axis.is_log:
        low, high = max(low, 1e-12), max(high, 1e-12)
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) - 1e-9)
        last = max(last, first + 1)
        ticks = [10.0**power for power in range(first, last + 1)]

        def of_log(value: float) -> float:
            share = (math.log10(max(value, 1e-12)) - first) / (last - first)
            return start + share * (end - start)

        return of_log, ticks
    low = min(low, 0.0) if axis.starts_at_zero else low
    step = _step(high - low)
    low, high = math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step
    high = max(high, low + step)
    ticks = [low + step * index for index in range(round((high - low) / step) + 1)]
    return lambda value: start + (value - low) / (high - low) * (end - start), ticks


def _step(span: float) -> float:
    """Return a round distance of ticks, of which about five fit."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * each for each in (1, 2, 5, 10) if power * each * 6 >= span)


def _grid(
    to_x: Callable[[float], float],
    x_ticks: Sequence[float],
    x_axis: Axis,
    to_y: Callable[[float], float],
    y_ticks: Sequence[float],
    y_axis: Axis,
) -> str:
    out, bottom = [], _TOP + _PLOT_PX
    for value in x_ticks:
        x = to_x(value)
        out.append(f'<line class="g" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        out.append(_text(x, bottom + 15, x_axis.show(value), kind="t", anchor="middle"))
    for value in y_ticks:
        y = to_y(value)
        out.append(
            f'<line class="g" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        )
        out.append(_text(_LEFT - 6, y + 4, y_axis.show(value), kind="t", anchor="end"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(_text(middle, bottom + 33, x_axis.label, kind="t", anchor="middle"))
    turned = f'transform="rotate(-90 13 {_TOP + _PLOT_PX / 2})"'
    out.append(
        f'<text class="t" x="13" y="{_TOP + _PLOT_PX / 2}" text-anchor="middle" {turned}>'
        f"{escape(y_axis.label)}</text>"
    )
    return "".join(out)


def _legend(keys: Sequence[tuple[str, int, str]], top: float) -> tuple[str, float]:
    """Return the legend below `top` and the height it leads to."""
    out, x, y = [], float(_LEFT), top + 12
    for name, group, dash in keys:
        width = 34 + _CHARACTER_PX * len(name) + 14
        if x + width > _WIDTH - _RIGHT and x > _LEFT:
            x, y = float(_LEFT), y + _LEGEND_ROW_PX
        colour = _COLOURS[group % len(_COLOURS)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out.append(
            f'<line x1="{x:.0f}" y1="{y - 4:.0f}" x2="{x + 24:.0f}" y2="{y - 4:.0f}" '
            f'stroke="{colour}" stroke-width="{3 if dash else 6}"{dashes}/>'
        )
        out.append(_text(x + 30, y, name))
        x += width
    return "".join(out), y + 12


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "") -> str:
    extra = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(text)}</text>'


def _svg(body: str, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'role="img" aria-label="{escape(title)}">{_STYLE}'
        f'<rect class="bg" width="{_WIDTH}" height="{height:.0f}"/>{body}</svg>'
    )


def bytes_text(size: float) -> str:
    """Return a number of bytes as it stands beside a tick."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size:g} B"
