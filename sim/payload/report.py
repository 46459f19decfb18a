"""Render a mission record as one self-contained HTML page (pure)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from sim.payload import charts
from sim.payload.record import Finding, MissionRecord, Picture

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--fg:#16191f;--mut:#5b6472;--card:#fff;--line:#dfe3e8;
--ok:#2f7d4f;--busy:#2a63b8;--idle:#a9b3c0;--bad:#c0342b;--link:#8a5bb5;--shade:#1d2a4414}
@media(prefers-color-scheme:dark){:root{--bg:#101318;--fg:#e7eaef;--mut:#98a2b1;--card:#191d24;
--line:#2b313b;--ok:#4cb27a;--busy:#5b94e8;--idle:#566070;--bad:#ef6a60;--link:#b58ce0;
--shade:#00000055}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1140px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:27px;margin:0 0 4px}h2{font-size:18px;margin:38px 0 10px}p{margin:6px 0}
.mut,.tick,figcaption{color:var(--mut)}.badge{display:inline-block;padding:2px 10px;
border-radius:12px;color:#fff;font-size:13px;vertical-align:4px;margin-left:10px}
.badge.ok{background:var(--ok)}.badge.bad{background:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px;
margin-top:18px}.tile,.card{background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:12px 14px}.tile b{display:block;font-size:23px;line-height:1.2}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:2px;border-radius:6px;overflow:hidden}
.pair img{width:100%;display:block;aspect-ratio:6/5;object-fit:cover;background:#000}
.pair.disc img{aspect-ratio:1;object-fit:contain;background:#fff}
figcaption table{margin-top:6px;font-size:13px}b.aurora{color:var(--ok)}
.lost{display:grid;place-items:center;text-align:center;padding:20px;
background:var(--line);color:var(--bad)}.pics{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,1fr));gap:14px}
figure{margin:0;padding:10px}figcaption{font-size:13px;margin-top:8px}
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--fg)}
svg .tick{fill:var(--mut);font-size:11px}.grid,.row{stroke:var(--line)}
.bar.ok{fill:var(--ok)}.bar.busy{fill:var(--busy)}.bar.idle{fill:var(--idle)}
.bar.bad{fill:var(--bad)}.bar.link{fill:var(--link)}svg .barlabel{fill:#fff;font-size:11px}
.curve{fill:none;stroke:var(--busy);stroke-width:2}.shade{fill:var(--shade)}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:var(--mut);
font-weight:500}th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);
vertical-align:top}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;
overflow:auto;font:13px/1.45 ui-monospace,monospace;max-height:420px}
.bad{color:var(--bad)}details summary{cursor:pointer;color:var(--mut)}
"""

_POWER = (("battery_percent", "Battery", "%"), ("solar_w", "Solar", "W"), ("load_w", "Load", "W"))

# Keys of a detection and the digits they are shown with.
_DETECTION_COLUMNS = (("lat", 1), ("lon", 1), ("r", 1), ("rmax", 1), ("snr", 1))

_HONESTY = """The image pipeline, the flight-plan machine and the CSP network are the product
itself and ran here as they would on board. Camera, orbit, battery, radio and the A53's sleep are
simulated. Nothing on this page was measured on flight hardware."""


def render(record: MissionRecord) -> str:
    """Return the whole page. Needs no other file, no script and no network to be read."""
    body = "".join(
        (
            _header(record),
            _tiles(record),
            _pictures(record.pictures),
            _mars(record.findings),
            _section("Timeline", f'<div class="card">{_timeline(record)}</div>'),
            _section("Power", f'<div class="card">{_power(record)}</div>'),
            _section("Batches", _fates(record)),
            _crashes(record),
            _section("Link", _link(record)),
            _section("Flight plan", f"<pre>{escape(record.plan_text)}</pre>"),
            _counters(record),
            _transcript(record),
            f'<p class="mut" style="margin-top:36px">{_HONESTY}</p>',
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Payload mission report</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}"


def _header(record: MissionRecord) -> str:
    badge = ("ok", "mission complete") if record.ok else ("bad", "mission failed")
    problems = "".join(f'<p class="bad">{escape(each)}</p>' for each in record.problems)
    return (
        f'<h1>Mission report<span class="badge {badge[0]}">{badge[1]}</span></h1>'
        f'<p class="mut">{escape(record.started_utc)} &middot; <code>{escape(record.command)}'
        f"</code> &middot; {escape(record.machine)} &middot; mission clock at "
        f"{record.mission_rate:g} times real time</p>{problems}"
    )


def _tiles(record: MissionRecord) -> str:
    figures = record.summary()
    tiles = [
        (f"{figures['batches']}", "batches taken"),
        (f"{figures['delivered']}", "delivered"),
        (f"{figures['quarantined']}", "quarantined"),
        (f"{figures['dropped']}", "dropped"),
        (f"{figures['crashes_injected']}", "module crashes injected"),
        (f"{figures['pictures_received']}", "pictures on the ground"),
        (_bytes(record.link.get("uplink_bytes", 0)), "sent up"),
        (_bytes(record.link.get("downlink_bytes", 0)), "received"),
        (f"{record.wall_s:.1f} s", "wall time"),
    ]
    cells = "".join(f'<div class="tile"><b>{escape(v)}</b>{escape(k)}</div>' for v, k in tiles)
    return f'<div class="tiles">{cells}</div>'


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return _section("Pictures", '<p class="bad">No picture reached the ground.</p>')
    cells = "".join(_picture(each) for each in pictures)
    note = (
        '<p class="mut">Left: the raw frame of the sensor, a colour mosaic: averaged over its '
        "cells it is grey. Right: the picture as it arrived on the ground.</p>"
    )
    return _section("Pictures", f'{note}<div class="pics">{cells}</div>')


def _picture(picture: Picture) -> str:
    if not picture.after:
        return (
            f'<figure class="card"><div class="pair">{_image(picture.before, "raw frame")}'
            f'<div class="lost">not delivered: the batch is in quarantine</div></div><figcaption>'
            f"<b>Observation {picture.obid}</b> {escape(picture.caption)}</figcaption></figure>"
        )
    ratio = picture.raw_bytes / max(1, picture.downlinked_bytes)
    items = ", ".join(f"{key} {_value(value)}" for key, value in picture.items.items())
    return (
        f'<figure class="card"><div class="pair">{_image(picture.before, "raw frame")}'
        f"{_image(picture.after, 'downlinked picture')}</div><figcaption>"
        f"<b>Observation {picture.obid}</b> {escape(picture.caption)}<br>"
        f"{_bytes(picture.raw_bytes)} raw, {_bytes(picture.downlinked_bytes)} downlinked "
        f"({ratio:.0f} times less). {escape(items)}</figcaption></figure>"
    )


def _mars(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    note = (
        '<p class="mut">The second pipeline, on synthetic scans of Mars in far-ultraviolet oxygen '
        "light (130.4 nm). Left: the two swaths as scanned. Right: the disc made of them, with "
        "outlines of what the detectors found, as it arrived on the ground. Logarithmic "
        "colours, white is no data, R is Rayleigh above the background.</p>"
    )
    cells = "".join(_finding(each) for each in findings)
    return _section("Aurora on Mars", f'{note}<div class="pics">{cells}</div>')


def _finding(finding: Finding) -> str:
    view = '<div class="lost">not delivered</div>'
    if finding.view:
        view = _image(finding.view, "disc with outlines")
    swaths = _image(finding.swaths, "swaths as scanned") if finding.swaths else "<div></div>"
    return (
        f'<figure class="card"><div class="pair disc">{swaths}{view}</div><figcaption>'
        f"<b>Observation {finding.obid}</b> of {escape(finding.started[:19])}: "
        f'<b class="{escape(finding.state)}">{escape(finding.state.replace("_", " "))}</b><br>'
        f"{_bytes(finding.raw_bytes)} of swaths; downlinked: mask and detections "
        f"{_bytes(finding.mask_bytes)}, picture {_bytes(finding.view_bytes)}."
        f"{_detections(finding)}</figcaption></figure>"
    )


def _detections(finding: Finding) -> str:
    head = ("kind", "lat", "lon", "mean R", "peak R", "SNR", "1000 km²")
    rows = [
        (
            str(each.get("c", "")),
            *(_number(each.get(key), digits) for key, digits in _DETECTION_COLUMNS),
            _number(each.get("km2"), 0, scale=1e-3),
        )
        for each in finding.detections
        # What only the network sees decides nothing.
        if each.get("snr") is not None
    ]
    return _table(head, rows) if rows else ""


def _number(value: object, digits: int, scale: float = 1.0) -> str:
    return f"{value * scale:.{digits}f}" if isinstance(value, int | float) else ""


def _image(data: bytes, alt: str) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f'<img alt="{alt}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _timeline(record: MissionRecord) -> str:
    return charts.timeline(record.spans, record.wall_s)


def _power(record: MissionRecord) -> str:
    return charts.curves(record.samples, _POWER, record.wall_s, shade="sunlight")


def _fates(record: MissionRecord) -> str:
    rows = [
        (
            str(each.batch_id),
            str(each.obid),
            str(each.pipeline_id),
            str(each.images),
            each.fate,
            str(each.status_word) if each.status_word else "",
            each.reason,
        )
        for each in record.fates
    ]
    head = ("batch", "observation", "pipeline", "images", "fate", "status", "reason")
    return f'<div class="card">{_table(head, rows)}</div>'


def _crashes(record: MissionRecord) -> str:
    if not record.crash_lines:
        return ""
    return _section("Crash records", f"<pre>{escape(chr(10).join(record.crash_lines))}</pre>")


def _link(record: MissionRecord) -> str:
    uplinks = [
        (each.name, _bytes(each.text_bytes), _bytes(each.packed_bytes), _bytes(each.sent_bytes))
        for each in record.uplinks
    ]
    totals = [(key.replace("_", " "), f"{value:,}") for key, value in record.link.items()]
    return (
        f'<div class="card">{_table(("uplinked", "as text", "packed", "in the slot"), uplinks)}'
        f"</div><br><div class=card>{_table(('radio link', ''), totals)}</div>"
    )


def _counters(record: MissionRecord) -> str:
    tables = "".join(
        f"<details><summary>{escape(node)}</summary>"
        f"{_table(('parameter', 'value'), [(k, _value(v)) for k, v in values.items()])}</details>"
        for node, values in record.counters.items()
    )
    return _section("Parameters at the end", f'<div class="card">{tables}</div>')


def _transcript(record: MissionRecord) -> str:
    text = escape("\n".join(record.transcript))
    return _section(
        "Shell",
        f"<details><summary>what the ground typed and read</summary><pre>{text}</pre></details>",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
