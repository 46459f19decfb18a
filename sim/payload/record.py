"""What a demo mission leaves behind, as values: the only input of the report and the summary.

Times are seconds since the mission began, on the ground's clock, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A bar on the timeline. `kind` picks its colour: ok, busy, idle, bad, link."""

    lane: str
    start_s: float
    end_s: float
    label: str
    kind: str = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image, before and after, as PNG or JPEG bytes; `after` is empty if it did not arrive.

    `is_thumbnail` says that its chain failed and `after` is the thumbnail of the raw image.
    """

    obid: int
    before: bytes
    after: bytes
    raw_bytes: int
    downlinked_bytes: int
    caption: str
    items: Mapping[str, object] = field(default_factory=dict)
    is_thumbnail: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One observation of Mars: swaths as scanned, the picture with outlines, what was found.

    `images` arrived on the ground, none if the batch was not delivered; then `view` is empty.
    `detections` are the JSON objects of aurora.md 4, strongest first.
    """

    obid: int
    swaths: bytes
    view: bytes = b""
    images: int = 0
    raw_bytes: int = 0
    mask_bytes: int = 0
    view_bytes: int = 0
    state: str = ""
    started: str = ""
    detections: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFate:
    """What became of one batch: delivered, quarantined or dropped, and the status word if bad."""

    batch_id: int
    obid: int
    pipeline_id: int
    images: int
    fate: str
    status_word: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """One thing sent up: its name and its size in each form it took (bytes)."""

    name: str
    text_bytes: int
    packed_bytes: int
    sent_bytes: int


@dataclass(slots=True, kw_only=True)
class MissionRecord:
    """Everything the mission showed, filled in while it flies."""

    started_utc: str = ""
    command: str = ""
    machine: str = ""
    mission_rate: float = 1.0
    wall_s: float = 0.0
    plan_outcome: str = "not started"
    plan_text: str = ""
    crashes_injected: int = 0
    ok: bool = False
    problems: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    fates: list[BatchFate] = field(default_factory=list)
    uplinks: list[Uplink] = field(default_factory=list)
    link: dict[str, int] = field(default_factory=dict)
    counters: dict[str, dict[str, object]] = field(default_factory=dict)
    crash_lines: list[str] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)

    def fate_count(self, fate: str) -> int:
        """How many batches ended in this fate."""
        return sum(1 for each in self.fates if each.fate == fate)

    @property
    def pictures_received(self) -> int:
        """How many pictures reached the ground: with masks of aurora, without thumbnails."""
        found = sum(each.images for each in self.findings)
        return sum(1 for each in self.pictures if each.after and not each.is_thumbnail) + found

    def summary(self) -> dict[str, object]:
        """The figures of `summary.json` (issue 2): counts, bytes and seconds."""
        return {
            "ok": self.ok,
            "batches": len(self.fates),
            "images": sum(each.images for each in self.fates),
            "delivered": self.fate_count("delivered"),
            "quarantined": self.fate_count("quarantined"),
            "dropped": self.fate_count("dropped"),
            "crashes_injected": self.crashes_injected,
            "plan_outcome": self.plan_outcome,
            "uplink_bytes": self.link.get("uplink_bytes", 0),
            "downlink_bytes": self.link.get("downlink_bytes", 0),
            "pictures_received": self.pictures_received,
            "auroras": sum(1 for each in self.findings if each.state == "aurora"),
            "wall_s": round(self.wall_s, 2),
            "problems": self.problems,
        }
