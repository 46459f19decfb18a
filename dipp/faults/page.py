"""The report of a campaign as one HTML page without anything outside it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from dipp.faults.catalogue import GROUPS
from dipp.faults.verdict import Case, Report, Verdict

_STYLE = """
:root{--ink:#17202c;--soft:#5b6878;--line:#e3e8ee;--card:#fff;--page:#f4f6f9;--ok:#157f4a;
--okbg:#e2f5ea;--bad:#b3261e;--badbg:#fde7e5;--off:#6b5a00;--offbg:#fbf3d0;--accent:#2457a6}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf2;--soft:#97a4b5;--line:#2a3442;--card:#161d27;
--page:#0e131a;--ok:#5fd39a;--okbg:#12362a;--bad:#ff8a80;--badbg:#401a18;--off:#e6cf6b;
--offbg:#3a3210;--accent:#8ab4f8}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 60px}h1{font-size:27px;margin:0}
h2{font-size:17px;margin:34px 0 10px}p.sub{color:var(--soft);margin:4px 0 20px}
.tiles{display:flex;gap:12px;flex-wrap:wrap}.tile{background:var(--card);border:1px solid
var(--line);border-radius:10px;padding:12px 18px;min-width:128px}.tile b{display:block;
font-size:26px;line-height:1.2}.tile span{color:var(--soft);font-size:13px}.tile.bad b{
color:var(--bad)}
.tile.ok b{color:var(--ok)}.map{display:flex;flex-wrap:wrap;gap:4px;margin:22px 0 0}
.map a{width:30px;height:26px;border-radius:5px;display:grid;place-items:center;font-size:11px;
text-decoration:none;color:var(--ok);background:var(--okbg)}.map a.bad{color:var(--bad);
background:var(--badbg);font-weight:700}.map a.off{color:var(--off);background:var(--offbg)}
details{background:var(--card);border:1px solid var(--line);border-radius:8px;margin:5px 0}
summary{cursor:pointer;display:grid;grid-template-columns:34px 1fr 90px 70px;gap:10px;
padding:8px 14px;align-items:center;list-style:none}summary::-webkit-details-marker{display:none}
summary .id{color:var(--soft);font-variant-numeric:tabular-nums;text-align:right}
summary .s{color:var(--soft);text-align:right;font-variant-numeric:tabular-nums}
.pill{border-radius:99px;padding:1px 10px;font-size:12px;text-align:center;color:var(--ok);
background:var(--okbg)}.pill.bad{color:var(--bad);background:var(--badbg)}.pill.off{
color:var(--off);background:var(--offbg)}
table{border-collapse:collapse;width:100%;font-size:13.5px;table-layout:fixed}
th,td{padding:7px 14px;text-align:left;vertical-align:top;border-top:1px solid var(--line);
overflow-wrap:anywhere}th{color:var(--soft);font-weight:600}th:first-child{width:19%}
th:nth-child(5){width:64px;text-align:right}td:nth-child(5){text-align:right}
code{font:12.5px ui-monospace,Menlo,Consolas,monospace;color:var(--accent)}.why{color:var(--bad)}
.none{color:var(--off)}ul{padding-left:20px}button{font:inherit;
color:var(--accent);background:var(--card);
border:1px solid var(--line);border-radius:8px;padding:5px 14px;
cursor:pointer}
footer{color:var(--soft);font-size:13px;margin-top:40px}
"""


_TOGGLE = "document.querySelectorAll('details').forEach(d=>d.open=!d.open)"


def render(report: Report, when: str) -> str:
    """Return the page; `when` says when the campaign ran."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Fault campaign</title><style>{_STYLE}</style><main>{''.join(_body(report, when))}"
        "</main></html>\n"
    )


def _body(report: Report, when: str) -> Iterator[str]:
    yield "<h1>Fault campaign</h1>"
    yield f'<p class="sub">{escape(when)} · {escape(report.machine)} · seed {report.seed}</p>'
    yield from _tiles(report)
    yield from _map(report)
    if report.not_injected:
        yield "<h2>Not injected on this machine</h2><ul>"
        for number, why in report.not_injected:
            yield f'<li id="f{number}"><b>{number}</b> <span class="none">{escape(why)}</span></li>'
        yield "</ul>"
    yield f'<p><button onclick="{_TOGGLE}">show or hide all injections</button></p>'
    starts = [start for start, _ in GROUPS]
    for (start, title), end in zip(GROUPS, [*starts[1:], 10_000], strict=True):
        cases = [case for case in report.cases if start <= case.id < end]
        if cases:
            yield f"<h2>{escape(title)}</h2>"
            for case in cases:
                yield from _case(case)
    if report.rounds:
        yield "<h2>Combinations and other seeds</h2>"
        yield from _table(report.rounds)
    yield (
        "<footer>Each line is an injection with an oracle of its own: what must come of it is"
        " checked, then a good batch or procedure runs, then nothing may be left over. The command"
        " beside a failure makes the same injection again.</footer>"
    )


def _tiles(report: Report) -> Iterator[str]:
    passed = len(report.cases) - report.failed
    injections = sum(
        not verdict.why_not for case in report.cases for verdict in case.verdicts
    ) + len(report.rounds)
    rows = [
        ("ok", passed, "faults contained"),
        ("bad" if report.failed else "", report.failed, "not contained"),
        ("", len(report.not_injected), "not injected here"),
        ("", injections, "injections"),
        ("", f"{report.seconds:.0f} s", "in all"),
    ]
    if report.rounds:
        bad = report.failed_rounds
        rows.insert(4, ("bad" if bad else "", f"{bad} of {len(report.rounds)}", "rounds failed"))
    yield '<div class="tiles">'
    for kind, value, text in rows:
        yield f'<div class="tile {kind}"><b>{value}</b><span>{text}</span></div>'
    yield "</div>"


def _map(report: Report) -> Iterator[str]:
    marks = {case.id: ("" if case.passed else "bad", case.name) for case in report.cases}
    marks |= {number: ("off", why) for number, why in report.not_injected}
    yield '<div class="map">'
    for number, (kind, text) in sorted(marks.items()):
        yield f'<a class="{kind}" href="#f{number}" title="{escape(text, quote=True)}">{number}</a>'
    yield "</div>"


def _case(case: Case) -> Iterator[str]:
    is_open = "" if case.passed else " open"
    yield f'<details id="f{case.id}"{is_open}><summary><span class="id">{case.id}</span>'
    yield f"<span>{escape(case.name)}</span>{_pill(case.passed)}"
    yield f'<span class="s">{case.seconds:.1f} s</span></summary>'
    yield from _table(case.verdicts)
    yield "</details>"


def _pill(passed: bool) -> str:
    return (
        '<span class="pill">contained</span>' if passed else '<span class="pill bad">failed</span>'
    )


def _table(verdicts: tuple[Verdict, ...]) -> Iterator[str]:
    heads = ("injection", "injected", "expected", "seen", "s")
    yield f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    for verdict in verdicts:
        yield f"<tr><td>{escape(verdict.name)}{_replay(verdict)}</td>"
        yield f"<td>{escape(verdict.injected)}</td><td>{escape(verdict.expected)}</td>"
        yield f"<td>{_seen(verdict)}</td><td>{verdict.seconds:.2f}</td></tr>"
    yield "</table>"


def _replay(verdict: Verdict) -> str:
    return f"<br><code>{escape(verdict.replay)}</code>" if verdict.problems else ""


def _seen(verdict: Verdict) -> str:
    if verdict.why_not:
        return f'<span class="none">not injected: {escape(verdict.why_not)}</span>'
    problems = "".join(f'<div class="why">{escape(text)}</div>' for text in verdict.problems)
    return escape(verdict.seen) + problems
