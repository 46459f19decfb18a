"""Draw the timeline and the power curves of a mission as SVG text (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from sim.payload.record import Span

_WIDTH = 1080
_LEFT = 110
_RIGHT = 16
_LANE_PX = 30


def _x(t_s: float, end_s: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * max(0.0, min(t_s, end_s)) / max(end_s, 1e-9)


def _tick_step(end_s: float) -> float:
    for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400):
        if end_s / step <= 14:
            return float(step)
    return end_s / 10


def _time_axis(end_s: float, height: float) -> list[str]:
    parts = []
    step = _tick_step(end_s)
    for index in range(int(end_s / step) + 1):
        x = _x(index * step, end_s)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 18:.0f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 4:.0f}" text-anchor="middle">'
            f"{index * step:g} s</text>"
        )
    return parts


def timeline(spans: Sequence[Span], end_s: float) -> str:
    """Return an SVG with one lane per distinct `lane`, in order of first appearance."""
    lanes = list(dict.fromkeys(span.lane for span in spans))
    height = len(lanes) * _LANE_PX + 26
    parts = _time_axis(end_s, height)
    for row, lane in enumerate(lanes):
        y = row * _LANE_PX
        parts.append(f'<text class="lane" x="0" y="{y + 19}">{escape(lane)}</text>')
        parts.append(f'<line class="row" x1="0" y1="{y + 29}" x2="{_WIDTH}" y2="{y + 29}"/>')
    for span in spans:
        y = lanes.index(span.lane) * _LANE_PX + 4
        x0, x1 = _x(span.start_s, end_s), _x(span.end_s, end_s)
        width = max(x1 - x0, 2.5)
        title = f"{span.label} ({span.start_s:.2f} to {span.end_s:.2f} s)"
        parts.append(
            f'<g><title>{escape(title)}</title><rect class="bar {span.kind}" x="{x0:.1f}" '
            f'y="{y}" width="{width:.1f}" height="21" rx="3"/>'
        )
        if width > 7.2 * len(span.label):
            parts.append(
                f'<text class="barlabel" x="{x0 + 5:.1f}" y="{y + 15}">{escape(span.label)}</text>'
            )
        parts.append("</g>")
    return _svg("".join(parts), height, "Timeline of the mission")


def curves(
    samples: Sequence[tuple[float, dict[str, float]]],
    names: Sequence[tuple[str, str, str]],
    end_s: float,
    shade: str | None = None,
) -> str:
    """Return an SVG of one stacked strip per (key, label, unit); `shade` darkens where it is 0."""
    strip = 74
    height = strip * len(names) + 26
    parts: list[str] = []
    if shade is not None:
        parts += _shaded(samples, shade, end_s, height - 20)
    parts += _time_axis(end_s, height)
    for row, (key, label, unit) in enumerate(names):
        points = [(t, values[key]) for t, values in samples if key in values]
        parts += _strip(points, label, unit, row * strip, strip, end_s)
    return _svg("".join(parts), height, "Power over the mission")


def _strip(
    points: Sequence[tuple[float, float]],
    label: str,
    unit: str,
    top: float,
    strip: float,
    end_s: float,
) -> list[str]:
    parts = [f'<text class="lane" x="0" y="{top + 22:.0f}">{escape(label)}</text>']
    if not points:
        return [*parts, f'<text class="tick" x="{_LEFT}" y="{top + 40:.0f}">no samples</text>']
    low = min(value for _, value in points)
    high = max(value for _, value in points)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    scale = (strip - 26) / (high - low)
    path = " ".join(
        f"{'M' if index == 0 else 'L'}{_x(t, end_s):.1f},{top + strip - 16 - (v - low) * scale:.1f}"
        for index, (t, v) in enumerate(points)
    )
    parts.append(f'<path class="curve" d="{path}"/>')
    parts.append(
        f'<text class="tick" x="0" y="{top + 38:.0f}">{low:.4g} to {high:.4g} {escape(unit)}</text>'
    )
    parts.append(
        f'<line class="row" x1="0" y1="{top + strip - 6:.0f}" x2="{_WIDTH}" '
        f'y2="{top + strip - 6:.0f}"/>'
    )
    return parts


def _shaded(
    samples: Sequence[tuple[float, dict[str, float]]], key: str, end_s: float, height: float
) -> list[str]:
    parts = []
    for (t0, values), (t1, _) in pairwise(samples):
        if values.get(key, 1.0) < 0.5:
            x0, x1 = _x(t0, end_s), _x(t1, end_s)
            parts.append(
                f'<rect class="shade" x="{x0:.1f}" y="0" width="{x1 - x0:.1f}" '
                f'height="{height:.0f}"/>'
            )
    return parts


def _svg(body: str, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{body}</svg>"
    )
