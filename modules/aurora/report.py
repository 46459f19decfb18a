"""What people look at after a chain ran over EMUS files: pictures, tables, one page of HTML."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from modules.aurora.detections import Detection, listed
from modules.aurora.emus_fits import read_swath
from modules.aurora.picture import Scale, draw_detections, heat_map
from modules.aurora.planes import DISC_HEIGHT, DISC_PLANES, DISC_WIDTH, MASK_FORMAT, Array
from modules.aurora.raster import Frame, clean_slit, despike, rasterise

_COLUMNS = (
    "obs", "orbit", "state", "number", "kind", "snr", "score", "lat", "lon", "sza", "lt",
    "mean_r", "peak_r", "km2", "px", "x", "y", "width", "height",
)  # fmt: skip
# What the page shows of a detection: heading, column, digits.
_SHOWN = (
    ("no.", "number", 0), ("kind", "kind", 0), ("lat °", "lat", 1), ("lon °", "lon", 1),
    ("SZA °", "sza", 0), ("local time h", "lt", 1), ("mean R", "mean_r", 1),
    ("peak R", "peak_r", 1), ("area 1000 km²", "km2", 0), ("SNR", "snr", 1), ("score", "score", 0),
)  # fmt: skip
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;
background:#111;color:#ddd}h2{margin-top:2.5rem}img{max-width:100%;border:1px solid #444}
table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right;
border-bottom:1px solid #333;font-variant-numeric:tabular-nums}
.aurora{color:#8f8}.note{color:#999}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One observation: its files, its items, its mask if there is one."""

    files: tuple[Path, ...]
    items: Mapping[str, Any]
    orbit: int
    mask: Array | None

    @property
    def state(self) -> str:
        """Return aurora, none, no_night or bad_data, or nothing if no detector ran."""
        return str(self.items.get("aurora_state", ""))


def write(out: Path, done: Sequence[tuple[tuple[Path, ...], tuple[Path, ...]]]) -> list[Path]:
    """Write detections.json, detections.csv, pictures and index.html; return them.

    `done` holds input files and written files of every observation. Raises OSError.
    """
    findings = [_finding(files, written) for files, written in done]
    pictures = [_picture(out, finding) for finding in findings]
    table, listing, page = out / "detections.csv", out / "detections.json", out / "index.html"
    rows = [row for finding in findings for row in _rows(finding)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    listing.write_text(json.dumps([_summary(finding) for finding in findings], indent=1) + "\n")
    page.write_text(_page(findings, pictures), "utf-8")
    return [*pictures, table, listing, page]


def _finding(files: tuple[Path, ...], written: tuple[Path, ...]) -> Finding:
    found = Finding(files=files, items={}, orbit=0, mask=None)
    for path in written:
        metadata = json.loads(path.with_suffix(".json").read_text("utf-8"))
        items = metadata["items"]
        if items.get("fmt") == MASK_FORMAT and path.suffix == ".png":
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            return Finding(files=files, items=items, orbit=metadata["obid"], mask=mask)
        if not found.items:
            found = Finding(files=files, items=items, orbit=metadata["obid"], mask=None)
    return found


def draw(files: Sequence[Path], written: Sequence[Path]) -> Array:
    """Return the heat map of an observation with outlines, RGB. Raises OSError, ValueError."""
    return cv2.cvtColor(_drawn(_finding(tuple(files), tuple(written))), cv2.COLOR_BGR2RGB)


def _drawn(finding: Finding) -> Array:
    """Make the disc anew from the swaths: what went down is only the mask."""
    swaths = [clean_slit(read_swath(path).planes) for path in finding.files]
    for planes in swaths:
        despike(planes)
    disc = np.empty((DISC_HEIGHT, DISC_WIDTH, DISC_PLANES), np.float32)
    rasterise(swaths, Frame(), disc)
    picture = heat_map(np.ascontiguousarray(disc[..., 0]), Scale())
    boxes = [found.box for found in listed(finding.items)]
    return draw_detections(picture, finding.mask, boxes)


def _picture(out: Path, finding: Finding) -> Path:
    path = out / f"{_stem(finding.files[0])}-view.png"
    cv2.imwrite(str(path), _drawn(finding))
    return path


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _rows(finding: Finding) -> list[dict[str, object]]:
    first = {
        "obs": finding.items.get("obs", ""),
        "orbit": finding.orbit,
        "state": finding.state,
    }
    return [
        {**first, "number": number, **_fields(found)}
        for number, found in enumerate(listed(finding.items))
    ]


def _fields(found: Detection) -> dict[str, object]:
    x, y, width, height = found.box
    return {
        "kind": found.kind, "snr": found.snr, "score": found.score, "lat": found.latitude,
        "lon": found.longitude, "sza": found.solar_zenith, "lt": found.local_time,
        "mean_r": found.mean_r, "peak_r": found.peak_r, "km2": found.area_km2,
        "px": found.pixels, "x": x, "y": y, "width": width, "height": height,
    }  # fmt: skip


def _summary(finding: Finding) -> dict[str, object]:
    plain = {key: value for key, value in finding.items.items() if not key.startswith("aurora_")}
    return {
        "files": [path.name for path in finding.files],
        "orbit": finding.orbit,
        "state": finding.state,
        "detections": [_fields(found) for found in listed(finding.items)],
        "more": finding.items.get("aurora_more", 0),
        "items": plain,
    }


def _page(findings: Sequence[Finding], pictures: Sequence[Path]) -> str:
    count = sum(finding.state == "aurora" for finding in findings)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Aurora on Mars</title><style>{_STYLE}</style><h1>Aurora on Mars</h1>",
        f"<p>{len(findings)} observations, {count} with aurora. Brightness at 130.4 nm, log scale.",
        "<p class=note>Outlines are detections, boxes carry their numbers. R = Rayleigh above the",
        "background; SNR of the physical detector, score of the network. What only the network",
        "sees has no SNR and decides nothing.",
    ]
    for finding, picture in zip(findings, pictures, strict=True):
        obs = html.escape(str(finding.items.get("obs", finding.files[0].name)))
        state = html.escape(finding.state or "no detector")
        parts.append(f"<h2>{obs}, orbit {finding.orbit}: <span class={state!r}>{state}</span></h2>")
        if finding.state == "none" and finding.items.get("aurora_n"):
            parts.append("<p class=note>Only the network sees something here.")
        parts.append(f"<img src='{html.escape(picture.name)}' alt='{obs}' width=640 height=480>")
        rows = _rows(finding)
        if rows:
            head = "".join(f"<th>{heading}" for heading, _, _ in _SHOWN)
            body = "".join("<tr>" + _cells(row) for row in rows)
            parts.append(f"<table><tr>{head}{body}</table>")
        files = ", ".join(html.escape(path.name) for path in finding.files)
        parts.append(f"<p class=note>{files}")
    return "\n".join(parts) + "\n"


def _cells(row: dict[str, object]) -> str:
    """Return the cells of one detection; areas in thousands, unknown figures empty."""
    cells = []
    for _, column, digits in _SHOWN:
        value = row[column]
        if isinstance(value, int | float):
            value = f"{value / 1000 if column == 'km2' else value:.{digits}f}"
        cells.append("<td>" + ("" if value is None else html.escape(str(value))))
    return "".join(cells)
