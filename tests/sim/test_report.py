"""The mission report: self-contained, honest about failure, safe with hostile text."""

from __future__ import annotations

import re

from sim.payload.record import BatchFate, Finding, MissionRecord, Picture, Span, Uplink
from sim.payload.report import render

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


def _record(**changes: object) -> MissionRecord:
    record = MissionRecord(
        started_utc="2026-11-21 07:00:00",
        command="payload demo",
        machine="test",
        wall_s=12.5,
        plan_outcome="done",
        ok=True,
        spans=[Span(lane="plan", start_s=1.0, end_s=3.0, label="block <gnss_time>", kind="busy")],
        samples=[
            (0.0, {"battery_percent": 90.0, "solar_w": 6.0, "load_w": 3.0, "sunlight": 1.0}),
            (5.0, {"battery_percent": 89.5, "solar_w": 0.0, "load_w": 4.0, "sunlight": 0.0}),
            (9.0, {"battery_percent": 89.0, "solar_w": 0.0, "load_w": 2.0, "sunlight": 0.0}),
        ],
        pictures=[
            Picture(
                obid=3,
                before=_PNG,
                after=_PNG,
                raw_bytes=10_131_968,
                downlinked_bytes=140_000,
                caption="coast",
                items={"cloud_frac": 0.25},
            )
        ],
        fates=[
            BatchFate(
                batch_id=1, obid=3, pipeline_id=1, images=2, fate="delivered", status_word=0,
                reason="",
            ),
            BatchFate(
                batch_id=2, obid=4, pipeline_id=1, images=1, fate="quarantined",
                status_word=600102, reason="signal 11 <script>",
            ),
        ],
        uplinks=[Uplink(name="earth.yaml", text_bytes=200, packed_bytes=60, sent_bytes=64)],
        link={"uplink_bytes": 900, "downlink_bytes": 150_000},
        counters={"dipp": {"batches_taken": 2}},
        crashes_injected=1,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def test_page_needs_nothing_but_itself() -> None:
    page = render(_record())
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == 2


def test_text_from_modules_cannot_become_markup() -> None:
    page = render(_record())
    assert "signal 11 &lt;script&gt;" in page
    assert "block &lt;gnss_time&gt;" in page


def test_summary_counts_every_fate_once() -> None:
    summary = _record().summary()
    assert (summary["batches"], summary["images"]) == (2, 3)
    assert (summary["delivered"], summary["quarantined"], summary["dropped"]) == (1, 1, 0)
    assert summary["uplink_bytes"] == 900


def test_a_failed_mission_says_so_on_top() -> None:
    page = render(_record(ok=False, problems=["the plan never ended"], pictures=[]))
    assert "mission failed" in page
    assert "the plan never ended" in page
    assert "No picture reached the ground" in page


def _findings() -> list[Finding]:
    seen = {"c": "<b>", "lat": -23.61, "lon": 7.9, "r": 8.9, "rmax": 36.2, "snr": 35.4, "km2": 5e6}
    return [
        Finding(
            obid=5, swaths=_PNG, view=_PNG, images=2, raw_bytes=210_816, mask_bytes=1200,
            view_bytes=131_000, state="aurora", started="2021-06-01T02:00:00.000",
            detections=(seen, {"c": "patchy", "snr": None, "p": 40.0}),
        ),
        Finding(obid=6, swaths=b""),
    ]  # fmt: skip


def test_an_aurora_is_listed_with_its_figures() -> None:
    page = render(_record(findings=_findings()))
    assert '<td class="n">&lt;b&gt;</td><td class="n">-23.6</td>' in page
    assert '<td class="n">5000</td>' in page
    assert "patchy" not in page
    assert "1.2 kB" in page
    assert page.count("not delivered") == 1
    assert _record(findings=_findings()).summary()["pictures_received"] == 3


def test_an_empty_record_still_renders() -> None:
    assert "mission failed" in render(MissionRecord())
