"""Fly a compiled plan through a modelled spacecraft in virtual time.

Theory of operation: the DISH machine runs as on board; its effects are answered at once from the
tables. A `block` polls four times a second on board; here time jumps to the first poll at which
something can have changed: the clock reaches the value it is compared with, an event happens, or,
for what moves with the orbit, the next second. Polls in between could only have said no.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dish.compiler import CompiledEngine
from dish.effects import (
    Done,
    Effect,
    Engine,
    Failed,
    Fault,
    LocalWrite,
    Position,
    Pull,
    Push,
    Reply,
    Resolve,
    Settings,
    Slice,
    Wait,
)
from dish.isa import Opcode
from dish.link import link, parse_operand
from dish.plan.compile import Compiled
from dish.program import Instruction
from dish.tables import cells_of
from dish.testing import World
from dish.values import Mode
from sim.payload.record import Span
from sim.rehearsal.craft import Craft
from sim.rehearsal.record import Record, Stand

_CLOCK = "gnss_unix"
# What changes with the orbit; the flown board refreshes it once per second.
_MOVING = frozenset(
    ("gnss_lat", "gnss_lon", "gnss_alt", "gnss_speed", "gnss_course", "gnss_time", "gnss_date")
)
_LOOK_S = 1.0
# One request and its reply on the bus; a node that is away costs the whole patience (dish.md 1).
_ROUND_TRIP_S = 0.013
_PATIENCE_S = 1.0
# A plan that computes this long (4 million instructions) without waiting does not end.
_MAX_SLICES = 200
_CURVE_POINTS = 1000
_TRACK_POINTS = 2000


@dataclass(slots=True)
class _Tally:
    since: float
    times: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0


class Flight:
    """One plan on one spacecraft."""

    def __init__(self, compiled: Compiled, craft: Craft, record: Record, text: str) -> None:
        self._compiled = compiled
        self._craft = craft
        self._record = record
        self._lines = text.splitlines()
        self._settings = Settings(mode=Mode.STRICT, own_nodes=frozenset((craft.config.nodes.dish,)))
        graph = link(compiled.root, dict(compiled.procedures).get)
        self._engine: Engine = CompiledEngine(graph, cells_of(craft.dish), self._settings)
        self._world = World(craft.dish, nodes=craft.nodes)
        self._end = record.hours * 3600
        self._sample_s = max(10.0, self._end / _CURVE_POINTS)
        self._next_sample = 0.0
        self._tallies: dict[tuple[int, int], _Tally] = {}
        self._at: Position | None = None
        # Counts up when the same block is executed anew.
        self._executed = -1
        self._line_since = (0, 0.0)
        self._slices = 0
        craft.reports_place = any(
            operand is not None and operand.name in _MOVING
            for procedure in compiled.procedures.values()
            for entry in procedure.instructions
            for operand in map(parse_operand, (entry.first, entry.second))
        )

    def run(self) -> Record:
        """Fly until the plan or the time ends; the craft goes on to the end of the time."""
        record, craft, engine = self._record, self._craft, self._engine
        reply: Reply = None
        effect: Effect | None = None
        while craft.now < self._end and self._slices < _MAX_SLICES:
            effect = engine.step(reply, craft.now)
            if isinstance(effect, (Done, Failed)):
                break
            reply = self._serve(effect)
        self._leave(None)
        record.ended_s = craft.now
        record.executed = engine.executed
        match effect:
            case Done():
                record.outcome = "completed"
            case Failed():
                record.outcome = "failed"
                origin = self._compiled.source.find(effect.slot, effect.index)
                record.reason = f"{origin}: {effect.reason}"
            case _ if self._slices >= _MAX_SLICES:
                record.outcome = "failed"
                record.reason = f"{self._source(engine.position)}: computes without ever waiting"
        self._close_line(craft.now)
        self._advance(self._end)
        self._finish()
        return record

    # -- effects

    def _serve(self, effect: Effect) -> Reply:
        match effect:
            case Wait(until=until):
                self._wait(until)
                return None
            case Slice():
                self._slices += 1
                return None
            case LocalWrite():
                reply = self._world.answer(effect)
                self._craft.publish()
                return reply
            case Pull(node=node) | Resolve(node=node) | Push(node=node):
                if not self._craft.answers(node):
                    self._advance(self._craft.now + _PATIENCE_S)
                    return Fault(reason=f"node {node} does not answer")
                if not isinstance(effect, Resolve):
                    self._advance(self._craft.now + _ROUND_TRIP_S)
                if node == self._craft.config.nodes.eps:
                    self._craft.eps.update(self._craft.now)
                reply = self._world.answer(effect)
                self._craft.publish()
                return reply
        return self._world.answer(effect)

    def _wait(self, until: float) -> None:
        craft, position = self._craft, self._engine.position
        if self._at != position or self._engine.executed != self._executed:
            self._leave(position)
            self._executed = self._engine.executed
        self._slices = 0
        tally = self._tallies[position.slot, position.index]
        self._follow_line(position)
        timeout = tally.since + self._settings.block_timeout_s
        look = min(self._next_look(position), timeout, self._end)
        polls = math.ceil(max(0.0, look - until) / self._settings.poll_s)
        self._advance(until + polls * self._settings.poll_s)
        craft.receive()

    def _leave(self, position: Position | None) -> None:
        """Note that the plan waits at another instruction from now on."""
        now = self._craft.now
        if self._at is not None:
            tally = self._tallies[self._at.slot, self._at.index]
            stood = now - tally.since
            tally.total_s += stood
            tally.longest_s = max(tally.longest_s, stood)
        self._at = position
        if position is not None:
            key = position.slot, position.index
            tally = self._tallies.setdefault(key, _Tally(now))
            tally.since, tally.times = now, tally.times + 1

    def _next_look(self, position: Position) -> float:
        """Return the first instant at which the block may find something changed."""
        craft = self._craft
        entry = self._compiled.procedures[position.slot].instructions[position.index]
        soon = craft.next_event
        if entry.opcode is not Opcode.BLOCK:
            return craft.now
        if entry.node not in (0, *self._settings.own_nodes):
            return min(soon, craft.now + _LOOK_S)
        names = {operand.name for operand in map(parse_operand, (entry.first, entry.second))
                 if operand is not None}  # fmt: skip
        if names & _MOVING:
            return min(soon, craft.now + _LOOK_S)
        if _CLOCK in names and craft.clock_runs:
            return min(soon, self._clock_reaches(entry))
        # A receiver that hears something will have its fix within seconds.
        return soon if craft.clock_runs or craft.is_deaf else min(soon, craft.now + _LOOK_S)

    def _clock_reaches(self, entry: Instruction) -> float:
        other = parse_operand(entry.second if entry.first == _CLOCK else entry.first)
        if other is None or other.name not in self._craft.dish:
            return self._craft.now
        value = self._craft.dish[other.name].get(other.index or 0)
        instant = float(value) - self._craft.epoch if isinstance(value, (int, float)) else 0.0
        return instant if instant > self._craft.now else self._craft.now + _LOOK_S

    def _advance(self, until: float) -> None:
        """Let time pass and take samples on the way."""
        until = min(until, max(self._end, self._craft.now))
        while self._next_sample <= until:
            self._craft.advance(self._next_sample)
            self._record.samples.append((round(self._craft.now, 3), self._craft.sample()))
            self._next_sample += self._sample_s
        self._craft.advance(until)

    # -- the report

    def _source(self, position: Position) -> str:
        origin = self._compiled.source.find(position.slot, position.index)
        return "" if origin is None else str(origin.place)

    def _follow_line(self, position: Position) -> None:
        origin = self._compiled.source.find(position.slot, position.index)
        line = 0 if origin is None else origin.place.line
        if line != self._line_since[0]:
            self._close_line(self._craft.now)
            self._line_since = line, self._craft.now

    def _close_line(self, now: float) -> None:
        line, since = self._line_since
        if 0 < line <= len(self._lines) and now > since:
            label = f"{line}: {self._lines[line - 1].split('#')[0].strip()}"
            self._record.spans.append(
                Span(lane="plan", start_s=since, end_s=now, label=label, kind="idle")
            )
        self._line_since = 0, now

    def _finish(self) -> None:
        record, craft = self._record, self._craft
        start = craft.epoch
        step = max(60.0, self._end / _TRACK_POINTS)
        track = craft.orbit.ground_track(start, start + self._end, step)
        record.track = [
            (number * step, place.lat_deg, place.lon_deg) for number, place in enumerate(track)
        ]
        record.shots = craft.shots
        record.spans = sorted(
            [*record.spans, *craft.spans], key=lambda each: (each.lane, each.start_s)
        )
        for (slot, index), tally in sorted(
            self._tallies.items(), key=lambda item: -item[1].total_s
        ):
            entry = self._compiled.procedures[slot].instructions[index]
            origin = self._compiled.source.find(slot, index)
            record.stands.append(
                Stand(
                    slot=slot, index=index, source=str(origin.place) if origin else "",
                    text=str(entry), times=tally.times, total_s=round(tally.total_s, 3),
                    longest_s=round(tally.longest_s, 3),
                )
            )  # fmt: skip
        self._total()

    def _total(self) -> None:
        """Fill in the figures and the final values of the plan's variables."""
        record, craft = self._record, self._craft
        battery = [values["battery_percent"] for _, values in record.samples]
        tally_wh = craft.eps.battery.tally
        record.figures = {
            "pictures": float(int(craft.camera["images_total"].get())),
            "batches": float(int(craft.dipp["batches_delivered"].get())),
            "battery_lowest_percent": min(battery, default=0.0),
            "battery_last_percent": battery[-1] if battery else 0.0,
            "solar_wh": tally_wh.solar_wh,
            "used_wh": tally_wh.served_wh,
            "unserved_wh": tally_wh.unserved_wh,
            "passes": float(len(craft.passes)),
            "downlinked_mb": craft.downlinked_bytes / 1e6,
            "stored_mb": craft.stored_bytes / 1e6,
        }
        record.variables = {
            name: value
            for name, text in self._compiled.variables.items()
            if isinstance(value := self._variable(text), (int, float))
        }

    def _variable(self, text: str) -> object:
        operand = parse_operand(text)
        if operand is None or operand.name not in self._craft.dish:
            return None
        return self._craft.dish[operand.name].get(operand.index or 0)
