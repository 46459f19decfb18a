"""Fly the demo mission: uplink, plan, watching, downlink - through the shell's own code path."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from csp.errors import CspError
from csp.param.types import Value
from csp.shell.session import Session
from dipp.config.codec import encode_module, encode_pipeline
from dipp.config.yaml import parse_module, parse_pipeline
from dipp.index import fetch_count
from sim.payload.record import MissionRecord, Span, Uplink
from sim.payload.up import Payload

PLAN_SLOT = 40
_PLAN_WAIT_S = 120.0
_SAMPLE_S = 0.7
# Mission seconds from the push of the plan to the time it waits for, in real seconds.
_START_IN_S = 2.5
_IDLE_SLOT = 65535

# What the ground samples over the link while the plan flies: node name, parameters.
_WATCHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dish", ("gnss_unix", "gnss_lat", "gnss_lon", "a53_status", "proc_running", "proc_run_at",
              "proc_run_index", "proc_completed", "proc_failed")),
    ("eps", ("battery_percent", "solar_w", "load_w", "sunlight")),
    ("radio", ("obs_count", "obs_stored_bytes")),
)  # fmt: skip
_REPORTED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dipp", ("log_status", "batches_taken", "batches_delivered", "batches_quarantined",
              "batches_dropped", "images_delivered", "module_failures", "crash_total")),
    ("dish", ("proc_completed", "proc_failed", "proc_last_ret", "proc_last_error",
              "proc_last_count", "proc_pulls", "proc_pushes", "proc_lists")),
    ("radio", ("obs_count", "obs_stored_bytes", "mirror_copied", "mirror_faults")),
    ("eps", ("battery_percent", "battery_wh", "solar_wh", "used_wh", "lost_wh")),
    ("camera", ("images_total", "batches_sent", "captures_failed")),
    ("a53", ("wake_count", "suspend_count", "boot_count")),
)  # fmt: skip


class MissionError(Exception):
    """The mission cannot go on; the text says at which step and why."""


@dataclass(slots=True)
class Mission:
    """One flight of the demo. `say` shows a line of progress to whoever watches."""

    payload: Payload
    session: Session
    record: MissionRecord
    captures: int
    auroras: int
    out: Path
    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    _sampling: bool = False
    _instructions: dict[int, list[str]] = field(default_factory=dict)

    def now_s(self) -> float:
        """Seconds since the mission began."""
        return time.monotonic() - self.began

    def fly(self) -> None:
        """Do everything up to the downloaded pictures. Raises MissionError."""
        self.session.out = self._transcribe
        configs = Path(str(resources.files("configs")))
        self.session.variables["CONFIGS"] = str(configs)
        self._uplink(configs)
        self._sampling = True
        sampler = self.session.scheduler.spawn_background(self._sample_all(), "telemetry")
        try:
            self._upload_plan(configs)
            self._await_plan()
            self._download()
            self._report_parameters()
        finally:
            self._sampling = False
            sampler.cancel()

    def _transcribe(self, text: str) -> None:
        self.record.transcript.append(f"{self.now_s():7.2f}  {text}")

    def _script(self, name: str, path: Path) -> None:
        began = self.now_s()
        if not self.session.run_script(path.read_text("utf-8"), path.name):
            raise MissionError(f"{name} failed: {self.record.transcript[-2]}")
        self.record.spans.append(
            Span(lane="Ground", start_s=began, end_s=self.now_s(), label=name, kind="link")
        )

    def _uplink(self, configs: Path) -> None:
        self.say("uplinking the configuration: YAML, protobuf, brotli, 188-byte slots")
        self._script("configuration", configs / "demo" / "uplink.csh")
        script = (configs / "demo" / "uplink.csh").read_text("utf-8")
        self.record.uplinks.extend(slot_sizes(script, configs))

    def _upload_plan(self, configs: Path) -> None:
        layout = self.payload.layout
        start_unix = layout.mission_unix(time.monotonic() + _START_IN_S)
        self.session.variables |= {
            "START": str(int(start_unix)),
            "PAUSE": str(max(1, round(layout.rate * 0.2))),
            "CAPTURES": str(self.captures + self.auroras),
            "AURORAS": str(self.auroras),
        }
        path = configs / "demo" / "plan.csh"
        text = path.read_text("utf-8")
        self.record.plan_text = _without_comments(text)
        self._instructions = instructions_of(text)
        self.say(f"uplinking the flight plan: {self.captures} captures from mission time "
                 f"{int(start_unix)} on, then {self.auroras} of Mars")  # fmt: skip
        self._script("flight plan", path)
        self.record.plan_outcome = "running"

    # -- watching

    async def _sample_all(self) -> None:
        while self._sampling:
            values: dict[str, float] = {}
            for name, names in _WATCHED:
                values |= await self._sample(name, names)
            if values:
                self.record.samples.append((self.now_s(), values))
            await self.session.scheduler.sleep(_SAMPLE_S)

    async def _sample(self, node: str, names: tuple[str, ...]) -> dict[str, float]:
        number = self.payload.layout.settings.nodes.number(node)
        try:
            found = await self.session.remote.get_many(number, [(name, 0) for name in names])
        except CspError:
            return {}  # a sample lost on the link is only a gap in a curve
        return {
            name: float(value)
            for name, value in zip(names, found, strict=True)
            if isinstance(value, int | float)
        }

    def _await_plan(self) -> None:
        self.say(
            "the plan flies: it waits for its time, wakes the A53, takes and processes pictures"
        )
        deadline = time.monotonic() + _PLAN_WAIT_S
        told: tuple[float, ...] = ()
        while True:
            self.session.loop.run_until(self.session.scheduler.sleep(0.1), 5.0)
            for node in self.payload.fleet.poll():
                raise MissionError(f"node {node.spec.name} ended ({node.exit_status})")
            latest = self.record.samples[-1][1] if self.record.samples else {}
            told = self._tell(latest, told)
            if latest.get("proc_completed", 0) + latest.get("proc_failed", 0) >= 1:
                break
            if time.monotonic() > deadline:
                self.record.plan_outcome = "not finished"
                raise MissionError(f"the plan did not end within {_PLAN_WAIT_S:g} s")
        failed = latest.get("proc_failed", 0) > 0
        self.record.plan_outcome = "failed" if failed else "completed"
        self.record.spans.extend(spans_of_samples(self.record.samples, self._instructions))

    def _tell(self, latest: dict[str, float], told: tuple[float, ...]) -> tuple[float, ...]:
        seen = (latest.get("a53_status", 0.0), latest.get("obs_count", 0.0))
        if seen != told and latest:
            state = "awake" if seen[0] else "asleep"
            self.say(f"  A53 {state}, {seen[1]:.0f} images at the radio, battery "
                     f"{latest.get('battery_percent', 0.0):.1f} %")  # fmt: skip
        return seen

    # -- downlink

    def _download(self) -> None:
        radio = self.payload.layout.settings.nodes.radio
        count = self.session.loop.run_until(
            self.session.scheduler.spawn(fetch_count(self.session.stack, radio)), 20.0
        )
        self.say(f"the ground downloads {count} observations over the radio link")
        pictures = self.out / "pictures"
        # Pictures of an earlier flight must not be taken for this one's.
        shutil.rmtree(pictures, ignore_errors=True)
        pictures.mkdir(parents=True)
        self._run(f"obs list -n {radio}")
        for index in range(count):
            began = self.now_s()
            self._run(f"obs get -n {radio} -o {pictures / f'image_{index:02}'} {index}")
            self.record.spans.append(
                Span(lane="Ground", start_s=began, end_s=self.now_s(), label=f"{index}", kind="ok")
            )

    def _run(self, line: str) -> None:
        self._transcribe(f"> {line}")
        if not self.session.run_line(line):
            raise MissionError(f"`{line}` failed: {self.record.transcript[-1]}")

    def _report_parameters(self) -> None:
        """Wake the A53 for its last words and read what every node counted."""
        numbers = self.payload.layout.settings.nodes
        self._run(f"set -n {numbers.a53} wake_a53 1")
        self._run("timeout 3000")
        for node, names in _REPORTED:
            found = self._pull(numbers.number(node), names)
            self.record.counters[node] = dict(zip(names, found, strict=True))
            self._transcribe(f"read {len(names)} parameters of {node}")

    def _pull(self, number: int, names: tuple[str, ...]) -> list[Value]:
        wanted = [(name, None) for name in names]
        task = self.session.scheduler.spawn(self.session.remote.get_many(number, wanted))
        return self.session.loop.run_until(task, 30.0)


def read_link(payload: Payload) -> dict[str, int]:
    """Return the counters the radio link wrote, under the names of the summary."""
    try:
        found = json.loads(payload.layout.link_stats_file.read_text())
    except (OSError, ValueError):
        return {}
    counters = {key: int(value) for key, value in found.items() if isinstance(value, int)}
    return {
        "uplink_bytes": counters.get("up_bytes", 0),
        "downlink_bytes": counters.get("down_bytes", 0),
        **{key: value for key, value in counters.items() if not key.endswith("_bytes")},
    }


def spans_of_samples(
    samples: list[tuple[float, dict[str, float]]], instructions: dict[int, list[str]]
) -> list[Span]:
    """Turn sampled A53 state and plan position into bars that begin where the value changed."""
    return [
        *_runs(samples, "A53", _a53_state),
        *_runs(samples, "Plan", lambda values: _plan_state(values, instructions)),
    ]


def instructions_of(script: str) -> dict[int, list[str]]:
    """Return slot to instruction texts of a script of `proc` lines."""
    found: dict[int, list[str]] = {}
    current: list[str] = []
    for line in script.splitlines():
        words = line.split(maxsplit=2)
        if words[:2] == ["proc", "new"]:
            current = []
        elif words[:2] == ["proc", "push"]:
            found[int(words[2])] = current
        elif words[:1] == ["proc"] and words[1] != "run":
            current.append(line.removeprefix("proc "))
    return found


def _runs(
    samples: list[tuple[float, dict[str, float]]],
    lane: str,
    state: Callable[[dict[str, float]], tuple[str, str] | None],
) -> list[Span]:
    spans: list[Span] = []
    current: tuple[str, str] | None = None
    start_s = 0.0
    for time_s, values in [*samples, (samples[-1][0] if samples else 0.0, {})]:
        found = state(values) if values else None
        if found == current and values:
            continue
        if current is not None:
            label, kind = current
            spans.append(Span(lane=lane, start_s=start_s, end_s=time_s, label=label, kind=kind))
        current, start_s = found, time_s
    return spans


def _a53_state(values: dict[str, float]) -> tuple[str, str] | None:
    if "a53_status" not in values:
        return None
    return ("awake", "ok") if values["a53_status"] else ("asleep", "idle")


def _plan_state(
    values: dict[str, float], instructions: dict[int, list[str]]
) -> tuple[str, str] | None:
    if not values.get("proc_running"):
        return None
    slot, index = int(values.get("proc_run_at", 0)), int(values.get("proc_run_index", 0))
    lines = instructions.get(slot, [])
    return lines[index] if index < len(lines) else f"slot {slot}", "busy"


def slot_sizes(script: str, configs: Path) -> list[Uplink]:
    """Return what each `ippc` line of a script sends: as text, packed, and in its slot."""
    found: list[Uplink] = []
    for line in script.splitlines():
        words = line.split()
        if words[:1] != ["ippc"]:
            continue
        path = Path(words[-1].replace("$(CONFIGS)", str(configs)))
        text = path.read_text("utf-8")
        is_pipeline = words[1] == "pipeline"
        slot = encode_pipeline(parse_pipeline(text)) if is_pipeline else encode_module(
            parse_module(text))  # fmt: skip
        found.append(
            Uplink(name=path.name, text_bytes=len(text.encode()), packed_bytes=slot[0] + 1,
                   sent_bytes=len(slot))
        )  # fmt: skip
    return found


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
