"""Render a benchmark run as one self-contained HTML page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bench.compare import Change
from bench.figures import Figure, Run, Section, Table, text_of

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--fg:#16191f;--mut:#5b6472;--card:#fff;--line:#dfe3e8;
--ok:#2f7d4f;--bad:#c0342b;--near:#a86a00}
@media(prefers-color-scheme:dark){:root{--bg:#101318;--fg:#e7eaef;--mut:#98a2b1;--card:#191d24;
--line:#2b313b;--ok:#4cb27a;--bad:#ef6a60;--near:#e0a030}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,sans-serif}main{max-width:960px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:27px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 8px}h3{font-size:14px;
margin:18px 0 6px;color:var(--mut);font-weight:600}p{margin:6px 0}.mut{color:var(--mut)}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 16px;
margin:10px 0;overflow-x:auto}svg{width:100%;height:auto;display:block}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:var(--mut);
font-weight:500}th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);
vertical-align:top}tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok{color:var(--ok)}.bad{color:var(--bad)}.near{color:var(--near)}code{font-size:12.5px}
nav a{color:inherit;margin-right:14px;white-space:nowrap}dl{display:grid;
grid-template-columns:max-content 1fr;gap:3px 18px;margin:0;font-size:14px}dt{color:var(--mut)}
dd{margin:0}ul{margin:6px 0 6px 18px;padding:0}
"""
_HONESTY = """Emulated on the machine named below; nothing here was measured on flight hardware.
A ratio between contestants that alternated in one run means more than any absolute figure, and a
difference smaller than the A/A control (the same variant against itself) means nothing."""
_VERDICTS = {
    (True, True): ("ok", "met"),
    (True, None): ("ok", "met"),
    (True, False): ("near", "met by the best, not by the median"),
}


def render(run: Run, changes: Sequence[Change] = ()) -> str:
    """Return the page. Needs no other file, no script and no network to be read."""
    parts = [
        f'<h1>Benchmark</h1><p class="mut">{_HONESTY}</p>',
        _about(run.about),
        _failures(run.failures),
        "<h2>Required</h2>",
        _required(run.required()),
    ]
    if changes:
        parts += ["<h2>Against the other run</h2>", _changes(changes)]
    links = "".join(f'<a href="#{escape(s.name)}">{escape(s.title)}</a> ' for s in run.sections)
    parts.append(f"<nav><p>{links}</p></nav>")
    parts += [_section(section) for section in run.sections]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Benchmark of the payload emulator</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>"
    )


def verdict_of(figure: Figure) -> tuple[str, str]:
    """Return the class and the words that say whether a target is met."""
    if figure.is_met is None:
        return "", ""
    kind, words = _VERDICTS.get((figure.is_met, figure.is_met_by_median), ("bad", "not met"))
    if figure.is_in_doubt and figure.spread is not None:
        return "near", f"{words}, but the control is ±{text_of(figure.spread)}"
    return kind, words


def _about(about: Mapping[str, object]) -> str:
    rows = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd>"
        for key, value in about.items()
    )
    return f'<div class="card"><dl>{rows}</dl></div>'


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _failures(failures: Mapping[str, str]) -> str:
    if not failures:
        return ""
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in failures.items()
    )
    return f'<div class="card bad">Not measured:<ul>{items}</ul></div>'


def _required(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        kind, words = verdict_of(figure)
        rows.append(
            f"<tr><td>{escape(figure.what)}<br><code class=mut>{escape(figure.key)}</code></td>"
            f'<td class="n"><b>{text_of(figure.value)}</b> {escape(figure.unit)}</td>'
            f'<td class="n">{_optional(figure.median)}</td>'
            f'<td class="n">{escape(str(figure.target))}</td>'
            f'<td class="{kind}">{words}</td></tr>'
        )
    head = '<tr><th></th><th class="n">best</th><th class="n">median</th><th class="n">wanted</th><th></th></tr>'  # noqa: E501
    return f'<div class="card"><table>{head}{"".join(rows)}</table></div>'


def _section(section: Section) -> str:
    parts = [f'<h2 id="{escape(section.name)}">{escape(section.title)}</h2>']
    parts += [f"<p>{escape(note)}</p>" for note in section.notes]
    for chart in section.charts:
        parts.append(f'<div class="card"><h3>{escape(chart.title)}</h3>{chart.svg}</div>')
    parts += [_table(table) for table in section.tables]
    if section.figures:
        parts.append(_figures(section.figures))
    load = f"{section.wall_s:.0f} s; load of the machine at its end {section.load:.2f}"
    return "".join(parts) + f'<p class="mut">{load}</p>'


def _table(table: Table) -> str:
    top = "".join(
        f'<th class="{"n" if index else ""}">{escape(text)}</th>'
        for index, text in enumerate(table.head)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"n" if index else ""}">{escape(cell)}</td>'
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    return f'<div class="card">{title}<table><tr>{top}</tr>{rows}</table></div>'


def _figures(figures: Sequence[Figure]) -> str:
    rows = tuple(
        (
            figure.what,
            f"{text_of(figure.value)} {figure.unit}",
            _optional(figure.median),
            figure.key,
        )
        for figure in figures
    )
    return _table(Table(title="Figures", head=("", "best", "median", "key"), rows=rows))


def _changes(changes: Sequence[Change]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(change.key)}</code></td>"
        f'<td class="n">{text_of(change.old)}</td><td class="n">{text_of(change.new)}</td>'
        f'<td class="n">{change.ratio:.3f}</td><td class="{change.kind}">{change.words}</td></tr>'
        for change in changes
    )
    head = '<tr><th></th><th class="n">old</th><th class="n">new</th><th class="n">new / old</th><th></th></tr>'  # noqa: E501
    return f'<div class="card"><table>{head}{rows}</table></div>'


def _optional(value: float | None) -> str:
    return "" if value is None else text_of(value)
