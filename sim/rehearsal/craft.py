"""The spacecraft of a rehearsal: parameter tables with models behind them, and a list of events.

Theory of operation: between two events nothing changes but the orbit and the battery, so time jumps
from one to the next. Orbit, battery, receiver and the A53 are the models of the simulated nodes.
The camera, DIPP and the radio are durations: an exposure takes `capture_s`, a batch `batch_s` with
some seeded spread, a pass carries the downlink rate. What lives on the A53 does not answer while it
sleeps, and its work stands still.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from csp.param.table import Parameter, ParamTable
from dipp.params import make_table as make_dipp_table
from dish.params import SPECS as DISH_SPECS
from sim import nmea
from sim.a53 import SPECS as A53_SPECS
from sim.camera.capture import RequestError, parse_capture
from sim.camera.params import configured_request
from sim.camera.params import make_table as make_camera_table
from sim.clock import MissionClock
from sim.eps import Eps
from sim.figures import PayloadConfig
from sim.orbit import OrbitState
from sim.passes import Pass, find_passes
from sim.payload.record import Span
from sim.receiver import Receiver
from sim.rehearsal.faults import Faults
from sim.sleep import A53Machine, A53State, Request

# `pipeline_run` (dipp.md 9): even values take all batches, values above 2 wait for one.
_STOP, _ALL = 0, 2
# Rounding of sums of durations; far below anything that is looked at.
_INSTANT_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """What the parts without a model of their own take.

    `batch_s` is what the shipped Earth pipeline takes for one 12-megapixel picture on the board's
    class of processor, `image_bytes` what it leaves of it. Assumptions of this emulator.
    """

    capture_s: float = 0.4
    batch_s: float = 6.5
    spread: float = 0.2
    image_bytes: int = 420_000


class Craft:
    """All nodes at mission second `now`, from 0 on."""

    def __init__(
        self,
        config: PayloadConfig,
        *,
        faults: Faults,
        hours: float,
        seed: int,
        durations: Durations | None = None,
    ) -> None:
        self.config = _weakened(config, faults)
        self.durations = durations or Durations()
        self.now = 0.0
        # Whether `gnss_lat` and its like are kept up to date.
        self.reports_place = True
        self.spans: list[Span] = []
        self.shots: list[tuple[float, float, float]] = []
        self.downlinked_bytes = 0.0
        self.stored_bytes = 0.0
        self._faults = faults
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        clock = MissionClock(epoch_unix=self.config.mission.epoch_unix)
        self.epoch = self.config.mission.epoch_unix
        self.orbit = self.config.orbit()
        self.eps = Eps(self.config, clock, 0.0)
        self._machine = A53Machine(self.config.a53, 0.0)
        self._receiver = Receiver(self.config.gnss, self.epoch)
        self._make_tables()
        stop = self.epoch + hours * 3600
        self.passes: tuple[Pass, ...] = find_passes(
            self.orbit, self.config.station, self.epoch, stop
        )
        for each in self.passes:
            rise, set_ = each.rise_unix - self.epoch, each.set_unix - self.epoch
            self.at(set_, lambda rise=rise, set_=set_: self._pass(rise, set_))  # type: ignore[misc]
        for edge in faults.edges():
            self.at(edge, lambda: None)
        self._begin()

    def _begin(self) -> None:
        self._queue = 0
        self._images = 0
        self._mode = _STOP
        self._batch_left: float | None = None
        self._batch_since = self._batch_started = 0.0
        self._worked = False
        self._state: OrbitState | None = None
        self.publish()

    def _make_tables(self) -> None:
        nodes = self.config.nodes
        self.dish = ParamTable(DISH_SPECS)
        self.a53, self.dipp = ParamTable(A53_SPECS), make_dipp_table()
        self.camera = make_camera_table(1)
        self.nodes: dict[int, ParamTable] = {
            nodes.a53: self.a53, nodes.dipp: self.dipp, nodes.camera: self.camera,
            nodes.eps: self.eps.table,
        }  # fmt: skip
        self._on_a53 = frozenset((nodes.dipp, nodes.camera))
        self.dish.on_write("wake_a53", lambda parameter, _: self._request(Request.WAKE))
        self.a53.on_write("wake_a53", lambda parameter, _: self._request(Request.WAKE))
        self.a53.on_write("suspend_a53", self._suspend)
        self.dipp.on_write("pipeline_run", self._run_pipeline)
        self.camera.on_write("capture_image", self._capture)
        self.camera.on_write("capture_param", self._capture)

    # -- time

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at an instant."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, action))

    @property
    def next_event(self) -> float:
        """When something happens next by itself."""
        due = [self._events[0][0]] if self._events else []
        if self._machine.deadline is not None:
            due.append(self._machine.deadline)
        if self._batch_left is not None and self._worked:
            due.append(self._batch_since + self._batch_left)
        return min(due, default=float("inf"))

    def advance(self, until: float) -> None:
        """Let time pass to an instant, with everything that happens on the way."""
        while self.next_event <= until:
            self._go(max(self.next_event, self.now))
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self._settle()
        self._go(until)

    def _go(self, instant: float) -> None:
        self.now = max(self.now, instant)

    def _settle(self) -> None:
        """Complete what is due now."""
        if self._machine.deadline is not None and self._machine.deadline <= self.now:
            self._change_a53(lambda: self._machine.advance(self.now))
        self._accrue()
        if self._batch_left is not None and self._batch_left <= _INSTANT_S:
            self._end_batch()

    def _accrue(self) -> None:
        """Take the time that DIPP worked since the last call off its batch."""
        if self._batch_left is not None and self._worked:
            self._batch_left -= self.now - self._batch_since
        self._batch_since, self._worked = self.now, self._is_working()

    # -- A53

    def _request(self, request: Request) -> None:
        if request is Request.WAKE and self._faults.holds("a53-stuck", self.now):
            return
        self._change_a53(lambda: self._machine.request(request, self.now))

    def _suspend(self, parameter: Parameter, _index: int) -> None:
        wanted = bool(parameter.get())
        parameter.set(0)
        if wanted:
            self._request(Request.SUSPEND)

    def _change_a53(self, change: Callable[[], None]) -> None:
        before, since = self._machine.state, self._machine.since
        self._accrue()
        change()
        if self._machine.state is before:
            return
        self.eps.update(self.now)
        if any(channel.name == "a53" for channel in self.config.eps.channels):
            self.eps.set_state("a53", self._machine.state.name.lower())
        if before is not A53State.SUSPENDED:
            self.span("A53", since, before.name.lower(), "busy")
        self._accrue()
        self.publish()

    def span(self, lane: str, start: float, label: str, kind: str) -> None:
        """Note what a part did until now."""
        self.spans.append(Span(lane=lane, start_s=start, end_s=self.now, label=label, kind=kind))

    def _is_working(self) -> bool:
        return self._machine.is_running and not self._faults.holds("dipp-hangs", self.now)

    def answers(self, node: int) -> bool:
        """Tell whether a node answers now."""
        if node == self.config.nodes.camera and self._faults.holds("camera-dead", self.now):
            return False
        return node in self.nodes and (node not in self._on_a53 or self._machine.is_running)

    # -- camera and DIPP

    def _capture(self, parameter: Parameter, _index: int) -> None:
        text = parameter.get()
        try:
            request = parse_capture(text) if isinstance(text, str) else configured_request(
                self.camera
            )  # fmt: skip
        except RequestError as error:
            self.camera["error_log"].set(error.code)
            return
        if not text:
            return
        self.camera["error_log"].set(0)
        self.camera["busy"].set(1)
        one_s = self.durations.capture_s + (request.exposure_us + request.interval_us) * 1e-6
        count, started = request.num_images, self.now
        self.at(self.now + one_s * count, lambda: self._taken(count, started))

    def _taken(self, count: int, started: float) -> None:
        self.camera["busy"].set(0)
        total = self.camera["images_total"]
        total.set(int(total.get()) + count)
        place = self.orbit.state(self.epoch + self.now).place
        self.shots.append((self.now, place.lat_deg, place.lon_deg))
        channel = next((c for c in self.config.eps.channels if c.name == "camera"), None)
        if channel is not None:
            self.eps.add_energy("camera", channel.joules_per_count * count)
        self.span("camera", started, f"{count} pictures", "ok")
        self._queue += 1
        self._images += count
        self.dipp["queue_depth"].set(self._queue)
        if self._mode != _STOP:
            self._next_batch()

    def _run_pipeline(self, parameter: Parameter, _index: int) -> None:
        mode = int(parameter.get())
        if mode == _STOP or self._batch_left is None:
            self._mode = mode
        if mode != _STOP:
            self._next_batch()

    def _next_batch(self) -> None:
        if self._batch_left is not None:
            return
        if not self._queue:
            # Modes up to 2 take what is there; the others wait.
            if self._mode <= _ALL:
                self._mode = _STOP
                self.at(self.now, lambda: self.dipp["pipeline_run"].set(_STOP))
            return
        spread = 1 + self.durations.spread * (2 * self._random.random() - 1)
        slow = 10 if self._faults.holds("dipp-slow", self.now) else 1
        self._accrue()
        self._batch_left = self.durations.batch_s * spread * slow
        self._batch_started = self.now
        self.dipp["batch_running"].set(1)

    def _end_batch(self) -> None:
        self.span("DIPP", self._batch_started, "batch", "ok")
        self._batch_left = None
        images = max(1, self._images // max(1, self._queue))
        self._images -= images
        self._queue -= 1
        self.stored_bytes += images * self.durations.image_bytes
        for name, step in (("ring_count", images), ("batches_delivered", 1)):
            self.dipp[name].set(int(self.dipp[name].get()) + step)
        self.dipp["queue_depth"].set(self._queue)
        self.dipp["batch_running"].set(0)
        if self._mode == _STOP or self._mode % 2:
            self._mode = _STOP
            self.dipp["pipeline_run"].set(_STOP)
        else:
            self._next_batch()

    # -- radio

    def _pass(self, rise: float, set_: float) -> None:
        rate = self.config.link.downlink.rate_bps / 8
        sent = min(self.stored_bytes, rate * (set_ - rise))
        self.stored_bytes -= sent
        self.downlinked_bytes += sent
        self.spans.append(
            Span(lane="pass", start_s=rise, end_s=set_, label=f"{sent / 1e6:.1f} MB", kind="link")
        )

    # -- what procedures see

    def publish(self) -> None:
        """Bring the tables of DISH and the A53 up to now."""
        self.a53["a53_status"].set(int(self._machine.is_running))
        self.a53["a53_state"].set(int(self._machine.state))
        self.dish["a53_status"].set(int(self._machine.is_running))
        self.receive()

    def receive(self) -> None:
        """Bring clock and place of DISH up to now."""
        table, unix = self.dish, self.epoch + self.now
        self._receiver.block(self._faults.holds("gnss-lost", self.now), unix)
        if self.reports_place or self._state is None:
            self._state = self.orbit.state(unix)
        # Only the time counts for a plan that never asks for the place.
        state = replace(self._state, unix=unix)
        self._receiver.update(state)
        table["gnss_fix"].set(int(self._receiver.has_fix))
        if not self._receiver.has_fix:
            return
        table["gnss_lat"].set(state.place.lat_deg)
        table["gnss_lon"].set(state.place.lon_deg)
        table["gnss_alt"].set(state.place.alt_km * 1000)
        table["gnss_speed"].set(state.speed_m_s * 3.6)
        table["gnss_course"].set(state.course_deg)
        table["gnss_date"].set(nmea.date_number(unix))
        table["gnss_time"].set(nmea.time_number(unix))
        table["gnss_age"].set(0)
        table["gnss_unix"].set(int(unix))

    @property
    def clock_runs(self) -> bool:
        """Whether the clock of DISH runs now."""
        return self._receiver.has_fix

    @property
    def is_deaf(self) -> bool:
        """Whether no signal reaches the receiver of DISH."""
        return self._faults.holds("gnss-lost", self.now)

    def sample(self) -> dict[str, float]:
        """Return the curves at this instant, with the battery brought up to it."""
        self.eps.update(self.now)
        battery = self.eps.battery
        return {
            "battery_percent": 100 * battery.charge,
            "solar_w": battery.flow.solar_w,
            "load_w": battery.flow.load_w,
            "sunlight": float(self.eps.table["sunlight"].get()),
            "stored_mb": self.stored_bytes / 1e6,
            "downlinked_mb": self.downlinked_bytes / 1e6,
        }


def _weakened(config: PayloadConfig, faults: Faults) -> PayloadConfig:
    """Return the configuration with the faults that are there from the start."""
    eps = config.eps
    if faults.has("battery-weak"):
        battery = replace(eps.battery, capacity_wh=eps.battery.capacity_wh / 2)
        eps = replace(eps, battery=battery)
    if faults.has("panels-weak"):
        panels = tuple(replace(panel, watts=panel.watts / 2) for panel in eps.panels)
        eps = replace(eps, panels=panels)
    return replace(config, eps=eps)
