"""The report of a soak: JSON, a picture of what was held over time, one HTML page. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from html import escape

from dipp.soak.run import Result
from dipp.soak.samples import Sample

_WIDTH, _PANEL, _GAP, _LEFT, _RIGHT, _TOP = 1000, 150, 46, 62, 150, 30
_COLOURS = ("#2457a6", "#c2571a", "#2b8a57", "#8a3ffc")
_MOST_POINTS = 600
_STYLE = """
body{margin:0;background:#f4f6f9;color:#17202c;font:15px/1.5 system-ui,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 60px}h1{font-size:27px;margin:0}
h2{font-size:18px;margin:32px 0 10px}.sub{color:#5b6878;margin:4px 0 20px}
.tiles{display:flex;gap:12px;flex-wrap:wrap}.tile{background:#fff;border:1px solid #e3e8ee;
border-radius:10px;padding:10px 16px;min-width:120px}.tile b{display:block;font-size:23px}
.tile span{color:#5b6878;font-size:13px}.bad{color:#b3261e}.ok{color:#157f4a}
figure{background:#fff;border:1px solid #e3e8ee;border-radius:10px;margin:0;padding:12px}
svg{width:100%;height:auto}table{border-collapse:collapse;width:100%;background:#fff;font-size:13.5px}
th,td{border:1px solid #e3e8ee;padding:5px 10px;text-align:left}th{color:#5b6878}
"""
_Value = Callable[[Sample], float]
_Lines = tuple[tuple[str, _Value], ...]

_PANELS: tuple[tuple[str, _Lines], ...] = (
    ("resident memory, MB", (
        ("node", lambda each: each.node_mb), ("forge", lambda each: each.forge_mb),
        ("hosts", lambda each: each.hosts_mb))),
    ("descriptors", (
        ("node", lambda each: each.node_fds), ("forge", lambda each: each.forge_fds),
        ("host", lambda each: each.host_fds))),
    ("processes, segments", (
        ("below the node", lambda each: each.processes),
        ("segments", lambda each: each.segments))),
)  # fmt: skip


def to_json(result: Result) -> str:
    """Return everything that was seen."""
    return json.dumps({"passed": result.passed, **asdict(result)}, indent=1)


def picture(samples: Sequence[Sample]) -> str:
    """Return memory, descriptors, processes and throughput over time as SVG."""
    if len(samples) < 2:
        return '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'
    thin = samples[:: max(1, len(samples) // _MOST_POINTS)]
    rates = _rates(thin)
    height = _TOP + (len(_PANELS) + 1) * (_PANEL + _GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="system-ui,sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
    )
    parts = [head]
    for number, (title, lines) in enumerate(_PANELS):
        named = [(name, [value(each) for each in thin]) for name, value in lines]
        parts += _panel(number, title, thin, named)
    parts += _panel(len(_PANELS), "batches per second", thin, [("throughput", rates)])
    return "".join(parts) + "</svg>\n"


def _rates(samples: Sequence[Sample]) -> list[float]:
    """Return batches per second, each over the ten samples before it."""
    rates = []
    for index, sample in enumerate(samples):
        before = samples[max(0, index - 10)]
        took_s = sample.t_s - before.t_s
        rates.append(max(0, sample.batches - before.batches) / took_s if took_s > 0 else 0.0)
    return rates


def _panel(
    number: int, title: str, samples: Sequence[Sample], lines: Sequence[tuple[str, list[float]]]
) -> Iterator[str]:
    top = _TOP + number * (_PANEL + _GAP)
    first, last = samples[0].t_s, samples[-1].t_s
    most = max(max(max(values), 1.0) for _, values in lines) * 1.1
    width = _WIDTH - _LEFT - _RIGHT

    def x(t_s: float) -> float:
        return _LEFT + width * (t_s - first) / max(last - first, 1e-9)

    def y(value: float) -> float:
        return top + _PANEL * (1 - value / most)

    yield from _bands(samples, x, top)
    yield f'<text x="{_LEFT}" y="{top - 8}" font-weight="600">{escape(title)}</text>'
    for share in (0.0, 0.5, 1.0):
        value = most * share
        yield (
            f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
            f' stroke="#e3e8ee"/><text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end"'
            f' fill="#5b6878">{value:.0f}</text>'
        )
    for (_, values), colour in zip(lines, _COLOURS, strict=False):
        points = " ".join(
            f"{x(each.t_s):.1f},{y(value):.1f}" for each, value in zip(samples, values, strict=True)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for place, ((label, values), colour) in enumerate(zip(lines, _COLOURS, strict=False)):
        yield (
            f'<text x="{_LEFT + width + 12}" y="{top + 14 + 18 * place}" fill="{colour}">'
            f"{escape(label)} {values[-1]:.0f}</text>"
        )
    bottom = top + _PANEL + 16
    yield f'<text x="{_LEFT}" y="{bottom}" fill="#5b6878">{first:.0f} s</text>'
    yield (
        f'<text x="{_LEFT + width}" y="{bottom}" text-anchor="end" fill="#5b6878">'
        f"{last:.0f} s</text>"
    )


def _bands(samples: Sequence[Sample], x: Callable[[float], float], top: int) -> Iterator[str]:
    """Yield a shade for the time in which faults struck."""
    quiet = ("start", "nominal", "heal", "load")
    struck = [each.t_s for each in samples if each.phase not in quiet]
    if struck:
        yield (
            f'<rect x="{x(struck[0]):.1f}" width="{x(struck[-1]) - x(struck[0]):.1f}" y="{top}"'
            f' height="{_PANEL}" fill="#fbf3d0"/>'
        )


def render(result: Result, when: str, machine: str) -> str:
    """Return the page."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Soak</title>'
        f"<style>{_STYLE}</style><main>{''.join(_body(result, when, machine))}</main></html>\n"
    )


def _body(result: Result, when: str, machine: str) -> Iterator[str]:
    yield f'<h1>Soak</h1><p class="sub">{escape(when)} · {escape(machine)} · seed {result.seed}</p>'
    delivered, quarantined, dropped = result.fates
    bad_rounds = sum(bool(each.problems) for each in result.rounds)
    tiles = (
        ("passed" if result.passed else "failed", "all invariants"),
        (f"{result.batches}", "batches"),
        (f"{delivered} / {quarantined} / {dropped}", "delivered / quarantined / dropped"),
        (f"{len(result.rounds)}", f"rounds of faults, {bad_rounds} bad"),
        (f"{result.restarts}", "starts after a kill"),
        (f"{result.nominal:g} → {result.healed:g}", "batches/s before and after"),
        (f"{result.longest_ping_s:.2f} s", "longest ping"),
        (f"{result.seconds / 60:.1f} min", "in all"),
    )
    yield '<div class="tiles">'
    for value, text in tiles:
        kind = {"passed": "ok", "failed": "bad"}.get(value, "")
        yield f'<div class="tile"><b class="{kind}">{value}</b><span>{text}</span></div>'
    yield "</div>"
    if result.problems:
        yield '<h2 class="bad">What was wrong</h2><ul>'
        yield from (f"<li>{escape(text)}</li>" for text in result.problems)
        yield "</ul>"
    yield "<h2>Over time</h2><figure>"
    yield picture(result.samples)
    yield "</figure><p class='sub'>Shaded: faults strike.</p>"
    if result.rounds:
        yield "<h2>Rounds</h2><table><tr><th>seed</th><th>what struck together</th><th>batches</th>"
        yield "<th>s</th><th>problems</th></tr>"
        for each in result.rounds:
            problems = escape("; ".join(each.problems)) or "none"
            kind = ' class="bad"' if each.problems else ""
            yield (
                f"<tr><td>{each.seed}</td><td>{escape(' + '.join(each.strikes))}</td>"
                f"<td>{each.batches}</td><td>{each.seconds:.1f}</td><td{kind}>{problems}</td></tr>"
            )
        yield "</table>"
