"""Draw a rehearsal as one self-contained HTML page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise

from sim.payload import charts
from sim.rehearsal.record import Record

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--fg:#16191f;--mut:#5b6472;--card:#fff;--line:#dfe3e8;
--ok:#2f7d4f;--busy:#2a63b8;--idle:#a9b3c0;--bad:#c0342b;--link:#8a5bb5;--shade:#1d2a4414}
@media(prefers-color-scheme:dark){:root{--bg:#101318;--fg:#e7eaef;--mut:#98a2b1;--card:#191d24;
--line:#2b313b;--ok:#4cb27a;--busy:#5b94e8;--idle:#566070;--bad:#ef6a60;--link:#b58ce0;
--shade:#00000055}}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1140px;margin:0 auto;padding:28px 24px 60px}h1{font-size:27px;margin:0}
h2{font-size:18px;margin:34px 0 10px}.mut{color:var(--mut)}.bad{color:var(--bad)}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;
overflow:auto}svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--fg)}svg .tick{fill:var(--mut);font-size:11px}
.grid,.row{stroke:var(--line)}.bar.ok{fill:var(--ok)}.bar.busy{fill:var(--busy)}
.bar.idle{fill:var(--idle)}.bar.bad{fill:var(--bad)}.bar.link{fill:var(--link)}
svg .barlabel{fill:#fff;font-size:11px}.curve{fill:none;stroke:var(--busy);stroke-width:2}
.shade{fill:var(--shade)}.track{fill:none;stroke:var(--idle)}.shot{fill:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:var(--mut)}
th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
pre{font:13px/1.45 ui-monospace,monospace;margin:0}
"""
_CURVES = (
    ("battery_percent", "Battery", "%"),
    ("solar_w", "Solar", "W"),
    ("load_w", "Load", "W"),
    ("stored_mb", "Stored", "MB"),
    ("downlinked_mb", "Downlinked", "MB"),
)
_HONESTY = (
    "The plan ran on the machine of DISH itself. Orbit, sunlight, battery, receiver, camera, DIPP"
    " and radio are models; their durations and powers are assumptions of this emulator, not"
    " measurements on flight hardware."
)
_MOST_STANDS = 20


def render(record: Record, plan_text: str) -> str:
    """Return the page."""
    end_s = record.hours * 3600
    body = "".join(
        (
            _head(record),
            _section("Figures", _table(("figure", "value"), _figures(record))),
            _section("Timeline", charts.timeline(record.spans, end_s)),
            _section(
                "Power and data (dark: shadow of the Earth)",
                charts.curves(record.samples, _CURVES, end_s, shade="sunlight"),
            ),
            _section("Ground track, with the pictures taken", _track(record)),
            _section(
                "Where it blocked",
                _table(
                    ("source", "instruction", "times", "altogether", "longest"),
                    (
                        (
                            each.source,
                            each.text,
                            str(each.times),
                            _time(each.total_s),
                            _time(each.longest_s),
                        )
                        for each in record.stands[:_MOST_STANDS]
                    ),
                ),
            ),
            _section("Plan", f"<pre>{escape(plan_text)}</pre>"),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Rehearsal of {escape(record.plan)}</title><style>{_STYLE}</style></head>"
        f'<body><main>{body}<p class="mut">{_HONESTY}</p></main></body></html>'
    )


def _head(record: Record) -> str:
    start = datetime.fromtimestamp(record.start_unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    faults = ", ".join(record.faults) or "none"
    reason = f'<p class="bad">{escape(record.reason)}</p>' if record.reason else ""
    return (
        f"<h1>{escape(record.plan)}: {escape(record.outcome)}</h1>"
        f'<p class="mut">{escape(record.satellite)}, from {start}, {record.hours:g} hours;'
        f" faults: {escape(faults)}; seed {record.seed}; ended after {_time(record.ended_s)},"
        f" {record.executed} instructions</p>{reason}"
    )


def _section(title: str, inner: str) -> str:
    return f'<h2>{escape(title)}</h2><div class="card">{inner}</div>'


def _figures(record: Record) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in record.figures.items()]
    return rows + [(f"variable {name}", str(value)) for name, value in record.variables.items()]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"


def _track(record: Record) -> str:
    """Return an equirectangular map: one path, broken at the date line."""
    commands: list[str] = []
    for (_, _, before), (_, lat, lon) in pairwise([(0.0, 0.0, 1e9), *record.track]):
        letter = "M" if abs(lon - before) > 180 else "L"
        commands.append(f"{letter}{3 * (lon + 180):.1f},{3 * (90 - lat):.1f}")
    grid = "".join(
        f'<line class="grid" x1="{x}" y1="0" x2="{x}" y2="540"/>' for x in range(0, 1081, 90)
    ) + "".join(
        f'<line class="grid" x1="0" y1="{y}" x2="1080" y2="{y}"/>' for y in range(0, 541, 90)
    )
    shots = "".join(
        f'<circle class="shot" cx="{3 * (lon + 180):.1f}" cy="{3 * (90 - lat):.1f}" r="4">'
        f"<title>{_time(t)}</title></circle>"
        for t, lat, lon in record.shots
    )
    return (
        '<svg viewBox="0 0 1080 540" role="img" aria-label="Ground track">'
        f'{grid}<path class="track" d="{" ".join(commands)}"/>{shots}</svg>'
    )
