"""`payload demo`: fly the mission, then write the report, the summary and the pictures."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from csp.shell.session import Progress
from dipp.errors import Code, describe, split_status
from dipp.eventlog import read_events
from dipp.pictures import load_metadata
from dipp.policy.raw import BATCH_ITEM
from sim.payload import up
from sim.payload.mars import AURORA_PIPELINE, for_page, is_of_mars, load_findings
from sim.payload.mission import Mission, MissionError, read_link
from sim.payload.record import BatchFate, MissionRecord, Picture, Span
from sim.payload.report import render

_CAPTION_ITEMS = ("scene", "exposure_us", "cloud_frac", "brightness", "clipped", "enc")
_FRAME_BYTES = 2464 * 2056 * 2


def fly(options: argparse.Namespace, state: Path) -> int:
    """Fly and write everything. Returns 0 only if every batch met its fate and all was written."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    say = _speaker(quiet=options.json)
    record = MissionRecord(
        started_utc=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        command=shlex.join(["payload", *sys.argv[1:]]),
        machine=machine(),
    )
    layout = up.make_layout(state, options.config, options.rate)
    record.mission_rate = layout.rate
    began = time.monotonic()
    mission: Mission | None = None
    with up.running(layout, say) as payload:
        ground = layout.settings.nodes.ground
        with up.session_on(
            payload.ground_hub, ground, progress=_progress_bar(options.json), timeout_s=3.0
        ) as session:
            mission = Mission(
                payload=payload, session=session, record=record, captures=options.captures,
                auroras=options.auroras, out=out, say=say, began=began,
            )  # fmt: skip
            try:
                mission.fly()
            except MissionError as error:
                record.problems.append(str(error))
        record.link = read_link(payload)
    record.wall_s = time.monotonic() - began
    _collect(record, layout, out, began, options.captures + options.auroras)
    _write(record, out)
    _conclude(record, out, say, as_json=options.json)
    return 0 if record.ok else 1


def machine() -> str:
    """Say in one line what this ran on."""
    return (
        f"{platform.machine()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _speaker(*, quiet: bool) -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        if not quiet:
            print(f"[{time.monotonic() - began:5.1f} s] {text}", flush=True)

    return say


def _progress_bar(quiet: bool) -> Callable[[str, float], object]:
    """Bars on a terminal; a line per picture where there is none."""
    from csp.shell.session import no_progress, rich_progress

    if quiet:
        return no_progress
    return rich_progress if sys.stderr.isatty() else _line_progress


@contextmanager
def _line_progress(text: str, total: float) -> Iterator[Progress]:
    began = time.monotonic()

    class Silent:
        def advance(self, amount: float) -> None:
            del amount

    yield Silent()
    elapsed_s = max(time.monotonic() - began, 1e-3)
    print(f"  {text}: {total / 1000:.0f} kB in {elapsed_s:.1f} s "
          f"({total * 8 / elapsed_s / 1000:.0f} kbit/s)", flush=True)  # fmt: skip


# -- what the mission left behind


def _collect(
    record: MissionRecord, layout: up.Layout, out: Path, began: float, captures: int
) -> None:
    diary = layout.state / "dipp" / "log"
    events = read_events(diary) if diary.exists() else []
    _add_fates(record, events)
    _add_stage_spans(record, events, began)
    record.pictures = load_pictures(out / "pictures", layout.previews)
    record.pictures += missing_pictures(record, layout.previews)
    record.pictures.sort(key=lambda picture: picture.obid)
    record.findings = load_findings(record.fates, out / "pictures", layout.previews)
    record.crashes_injected = sum(
        1 for fate in record.fates if split_status(fate.status_word).code == Code.SIGNAL
    )
    record.crash_lines = [
        f"batch {fate.batch_id}, observation {fate.obid}: status {fate.status_word} "
        f"({describe(split_status(fate.status_word).code)}), last words: {fate.reason}"
        for fate in record.fates
        if fate.status_word
    ]
    record.problems += problems(record, captures)
    record.ok = not record.problems


def _add_fates(record: MissionRecord, events: list[dict[str, object]]) -> None:
    starts = {event["batch"]: event for event in events if event["event"] == "start"}
    for event in events:
        if event["event"] != "fate":
            continue
        start = starts.get(event["batch"], {})
        record.fates.append(
            BatchFate(
                batch_id=_number(event, "batch"),
                obid=_number(start, "obid"),
                pipeline_id=_number(start, "pipeline"),
                images=_number(start, "images"),
                fate=str(event["fate"]),
                status_word=_number(event, "status"),
                reason=str(event.get("reason", "")),
            )
        )


def _number(event: dict[str, object], key: str) -> int:
    value = event.get(key, 0)
    return value if isinstance(value, int) else 0


def _add_stage_spans(record: MissionRecord, events: list[dict[str, object]], began: float) -> None:
    """One bar per module execution, one after the other from the start of its batch."""
    start_s = 0.0
    for event in events:
        at_s = float(str(event["t"])) - began
        if event["event"] == "start":
            start_s = at_s
        elif event["event"] == "stages" and isinstance(event["stages"], list):
            for name, wall_s, _ in event["stages"]:
                end_s = start_s + float(wall_s)
                record.spans.append(
                    Span(lane="DIPP", start_s=start_s, end_s=end_s, label=name, kind="busy")
                )
                start_s = end_s
        elif event["event"] == "fate":
            kind = "ok" if event["fate"] == "delivered" else "bad"
            label = f"batch {event['batch']} {event['fate']}"
            record.spans.append(
                Span(lane="Batches", start_s=at_s - 0.25, end_s=at_s, label=label, kind=kind)
            )


def load_pictures(folder: Path, previews: Path) -> list[Picture]:
    """Pair what the ground received with what the sensor saw. Raises ContentError, OSError."""
    found: list[Picture] = []
    indices: dict[int, int] = {}
    for path in sorted(folder.glob("*.json")):
        metadata = load_metadata(path)
        if is_of_mars(metadata):
            continue
        index = indices.get(metadata.obid, 0)
        indices[metadata.obid] = index + 1
        preview = previews / f"{metadata.obid}_{index}.png"
        after = path.with_suffix(".png")
        is_thumbnail = metadata.item(BATCH_ITEM) is not None
        what = "thumbnail, its batch is in quarantine: " if is_thumbnail else ""
        found.append(
            Picture(
                obid=metadata.obid,
                before=preview.read_bytes() if preview.exists() else b"",
                after=for_page(after),
                raw_bytes=_FRAME_BYTES,
                downlinked_bytes=metadata.size,
                caption=f"image {index + 1}, {what}{metadata.width} x {metadata.height} pixels",
                items={key: value for key, value in metadata.items if key in _CAPTION_ITEMS},
                is_thumbnail=is_thumbnail,
            )
        )
    return found


def missing_pictures(record: MissionRecord, previews: Path) -> list[Picture]:
    """Return what the sensor saw of what came neither as a picture nor as a thumbnail."""
    shown = Counter(picture.obid for picture in record.pictures)
    return [
        Picture(
            obid=fate.obid,
            before=(previews / f"{fate.obid}_{index}.png").read_bytes(),
            after=b"",
            raw_bytes=_FRAME_BYTES,
            downlinked_bytes=0,
            caption=f"image {index + 1}: {fate.fate}, status {fate.status_word}",
        )
        for fate in record.fates
        if fate.fate != "delivered" and fate.pipeline_id != AURORA_PIPELINE
        for index in range(shown[fate.obid], fate.images)
        if (previews / f"{fate.obid}_{index}.png").exists()
    ]


def problems(record: MissionRecord, captures: int) -> list[str]:
    """Return what is not as a mission must be; empty if all is well."""
    found: list[str] = []
    if len(record.fates) != captures:
        found.append(f"{captures} captures, but {len(record.fates)} batches have a fate")
    if len({fate.batch_id for fate in record.fates}) != len(record.fates):
        found.append("a batch has more than one fate")
    if record.plan_outcome != "completed":
        found.append(f"the flight plan {record.plan_outcome}")
    delivered = record.counters.get("dipp", {}).get("images_delivered")
    if delivered != record.pictures_received:
        found.append(f"{delivered} images delivered, {record.pictures_received} on the ground")
    return found


# -- writing


def _write(record: MissionRecord, out: Path) -> None:
    (out / "report.html").write_text(render(record), "utf-8")
    (out / "summary.json").write_text(json.dumps(record.summary(), indent=1) + "\n")
    (out / "transcript.txt").write_text("\n".join(record.transcript) + "\n")


def _conclude(
    record: MissionRecord, out: Path, say: Callable[[str], None], *, as_json: bool
) -> None:
    if as_json:
        print(json.dumps(record.summary(), indent=1))
        return
    for problem in record.problems:
        say(f"problem: {problem}")
    figures = record.summary()
    say(
        f"{figures['batches']} batches: {figures['delivered']} delivered, "
        f"{figures['quarantined']} quarantined, {figures['dropped']} dropped; "
        f"{figures['crashes_injected']} module crash injected; "
        f"{figures['pictures_received']} pictures on the ground; "
        f"aurora in {figures['auroras']} of {len(record.findings)} observations of Mars; "
        f"up {figures['uplink_bytes']} bytes, down {figures['downlink_bytes']} bytes"
    )
    say(f"report: {out / 'report.html'}")
