"""Walk through a plan as far as it can be foreseen, and note what it switches on and when. Pure.

Theory of operation: the walker executes the call graph with the node's present registers and a
mission clock that only waits and remote accesses move. What the model knows (time, place, which
loads are on, which pipeline is busy) reads as it will be then; what nobody knows (another node's
measurement) is UNKNOWN. An UNKNOWN condition is walked both ways, each site the same way every time
until `wait_s` has passed there, then the other way: so a loop that polls for something takes that
long. An UNKNOWN wait takes `wait_s` while a load of the plan is on and nothing otherwise, the worse
of the two for the battery. Loops end at the horizon. The work is bounded: a plan that needs more
steps goes on at the average power it had so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from csp.param.spec import ParamSpec
from csp.param.types import TypeClass
from dish.isa import OPCODES, Opcode, Side, sides
from dish.link import CallGraph, is_tail_call, parse_operand
from dish.power.figures import Action, Place, PowerModel, Rule
from dish.power.forecast import Event, LoadProfile, Situation, step_of
from dish.power.unknown import Known, PlanEnds, apply, converted, kind_of, literal
from dish.program import Instruction
from dish.values import NUMERIC

# A tenth of a second of work at most, all ways together: meanwhile the node answers nobody.
MAX_STEPS = 6000
# Four undecidable conditions, each both ways.
MAX_WAYS = 16
# One pull or push over the bus, seconds of the node's clock.
_REMOTE_S = 0.02
# More does not fit through any command; what is beyond is noted as an average.
_MAX_EVENTS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a walk starts from.

    `own` is the executing node in the figures' numbering, `own_nodes` all addresses that mean it.
    `spec` and `read` look into its table: None for no such parameter, or for no known value.
    """

    model: PowerModel
    now: Situation
    own: int
    own_nodes: frozenset[int]
    spec: Callable[[str], ParamSpec | None]
    read: Callable[[str, int], Known]
    horizon_s: float
    wait_s: float
    block_timeout_s: float
    max_depth: int = 1000

    @property
    def rules(self) -> dict[Place, Rule]:
        """The rules by the parameter that is written."""
        return {rule.place: rule for rule in self.model.figures.rules}

    def place(self, node: int, name: str) -> Place:
        """Return a place with the own node under its one number."""
        return Place(self.own if node == 0 or node in self.own_nodes else node, name)


def takes_power(graph: CallGraph, world: World) -> bool:
    """Tell whether any reachable instruction writes a parameter that a rule is about."""
    rules = world.rules
    for procedure in graph.procedures.values():
        for entry in procedure.instructions:
            side = sides(entry.opcode, entry.operator)[1]
            for attribute in OPCODES[entry.opcode].writes:
                operand = parse_operand(getattr(entry, attribute))
                node = entry.node if side is Side.NODE else world.own
                if operand is not None and world.place(node, operand.name) in rules:
                    return True
    return False


def walk(graph: CallGraph, world: World) -> list[LoadProfile]:
    """Return what the plan does, one profile for every way it may go (at most `MAX_WAYS`)."""
    profiles: list[LoadProfile] = []
    pending: list[tuple[bool, ...]] = [()]
    steps = MAX_STEPS
    while pending and len(profiles) < MAX_WAYS:
        forced = pending.pop()
        # Every way gets its share, else the first one that loops would leave nothing for others.
        way = _Way(graph, world, forced, max(steps // 2, MAX_STEPS // MAX_WAYS // 2))
        way.run()
        steps -= way.steps
        profiles.append(LoadProfile(events=tuple(way.events)))
        taken = list(way.taken)
        pending += [
            (*taken[:number], False)
            for number in range(len(forced), len(taken))
            if len(profiles) + len(pending) < MAX_WAYS
        ]
    return profiles


@dataclass(slots=True)
class _Frame:
    slot: int
    index: int = 0
    flag: bool | None = None


@dataclass(slots=True)
class _Site:
    """An undecidable condition: which way it goes, since when."""

    choice: bool
    since: float


@dataclass(slots=True, init=False)
class _Way:
    """One way through the plan."""

    graph: CallGraph
    world: World
    forced: tuple[bool, ...]
    limit: int
    at: float
    end: float
    steps: int
    events: list[Event]
    taken: list[bool]
    frames: list[_Frame]
    values: dict[tuple[Place, int], Known]
    whole: dict[Place, Known]
    rules: dict[Place, Rule]
    on_since: dict[str, float]
    busy: dict[Place, tuple[float, Known]]
    sites: dict[tuple[int, int], _Site] = field(default_factory=dict)

    def __init__(
        self, graph: CallGraph, world: World, forced: tuple[bool, ...], limit: int
    ) -> None:
        self.graph, self.world, self.forced, self.limit = graph, world, forced, limit
        self.at, self.end = world.now.unix, world.now.unix + world.horizon_s
        self.steps = 0
        self.events, self.taken, self.frames = [], [], []
        self.values, self.whole, self.busy, self.sites = {}, {}, {}, {}
        self.rules = world.rules
        self.on_since = dict.fromkeys(world.now.on, -math.inf)

    # -- flow

    def run(self) -> None:
        """Go until the run ends, the horizon comes, or the work is too much."""
        if self.graph.root not in self.graph.procedures:
            return
        self.frames.append(_Frame(self.graph.root))
        try:
            while self.frames and self.at < self.end:
                if self.steps >= self.limit or len(self.events) >= _MAX_EVENTS:
                    self._go_on_as_before()
                    return
                self.steps += 1
                self._step(self.frames[-1])
        except PlanEnds:
            return

    def _go_on_as_before(self) -> None:
        begin = self.world.now.unix
        joules = sum(event.joules for event in self.events)
        if joules and self.at > begin:
            self.events.append(Event(at_unix=self.at, drain_w=joules / (self.at - begin)))

    def _step(self, frame: _Frame) -> None:
        rows = self.graph.procedures[frame.slot].instructions
        if frame.index >= len(rows):
            self.frames.pop()
            return
        entry, index = rows[frame.index], frame.index
        frame.index += 1
        if frame.flag is False:
            frame.flag = None
            return
        if frame.flag:
            frame.flag = False
        match entry.opcode:
            case Opcode.BLOCK:
                self._block(entry)
            case Opcode.IFELSE:
                frame.flag = self._ifelse(entry, (frame.slot, index))
            case Opcode.CALL:
                self._call(frame, index, entry.slot)
            case Opcode.SET | Opcode.UNOP | Opcode.BINOP:
                self._assign(entry)

    def _call(self, frame: _Frame, index: int, slot: int) -> None:
        if slot in self.graph.natives:
            return
        if is_tail_call(self.graph.procedures[frame.slot], index):
            frame.slot, frame.index, frame.flag = slot, 0, None
        elif len(self.frames) > self.world.max_depth:
            raise PlanEnds
        else:
            self.frames.append(_Frame(slot))

    def _ifelse(self, entry: Instruction, site: tuple[int, int]) -> bool:
        holds = self._holds(entry)
        if holds is not None:
            return holds
        known = self.sites.get(site)
        if known is None:
            number = len(self.taken)
            choice = self.forced[number] if number < len(self.forced) else True
            self.taken.append(choice)
            known = self.sites[site] = _Site(choice, self.at)
        if self.at - known.since >= self.world.wait_s:
            return not known.choice
        return known.choice

    # -- waiting

    def _block(self, entry: Instruction) -> None:
        timeout = self.at + self.world.block_timeout_s * self.world.model.figures.rate
        stop = min(timeout, self.end)
        holds = self._holds(entry)
        if holds is None:
            changed = any(event.load and event.is_on for event in self.events)
            self.at = min(stop, self.at + self.world.wait_s) if changed else self.at
            return
        if holds:
            return
        for moment in self._moments(entry, stop):
            self.at = moment
            if self._holds(entry):
                return
        self.at = stop
        raise PlanEnds

    def _moments(self, entry: Instruction, stop: float) -> Iterator[float]:
        """Return the times at which the condition of a block can change, ascending."""
        begin = self.at
        moments = {until for until, _ in self.busy.values()}
        for load in self.world.model.figures.loads:
            moments.add(self.on_since.get(load.name, -math.inf) + load.delay_s)
        node = self._node(entry, Side.NODE)
        for text in (entry.first, entry.second):
            value = self._operand(text, node)[0]
            if isinstance(value, (int, float)):
                # Clocks count whole seconds: the condition may turn at the value or just after.
                moments |= {float(value), float(value) + 1.0}
            operand = parse_operand(text)
            if operand and self.world.place(node, operand.name) in self._position:
                step = step_of(self.world.horizon_s)
                first = math.floor(begin / step) + 0.5
                count = int((stop - begin) / step) + 1
                moments |= {(first + number) * step for number in range(count)}
        yield from sorted(moment for moment in moments if begin < moment <= stop)

    def _holds(self, entry: Instruction) -> bool | None:
        """Return whether the condition is true now, None if nobody knows."""
        node = self._node(entry, Side.NODE)
        self._spend(node)
        operator = OPCODES[entry.opcode].operators[entry.operator]
        pairs = (self._operand(entry.first, node), self._operand(entry.second, node))
        result = apply(operator.strict, *pairs)
        return result if isinstance(result, bool) else None

    # -- values

    @property
    def _position(self) -> Mapping[Place, str]:
        return self.world.model.figures.position

    def _node(self, entry: Instruction, side: Side) -> int:
        return entry.node if side is Side.NODE else self.world.own

    def _spend(self, node: int) -> None:
        if self.world.place(node, "").node != self.world.own:
            self.at += _REMOTE_S * self.world.model.figures.rate

    def _operand(self, text: str, node: int) -> tuple[Known, TypeClass | None]:
        operand = parse_operand(text)
        if operand is None:
            raise PlanEnds
        place = self.world.place(node, operand.name)
        value = self._read(place, operand.index or 0)
        spec = self.world.spec(operand.name) if place.node == self.world.own else None
        return value, spec.row.kind if spec is not None else kind_of(value)

    def _read(self, place: Place, index: int) -> Known:
        figures = self.world.model.figures
        if place in figures.clock:
            return int(self.at)
        if place in self._position:
            return float(getattr(self.world.model.sky(self.at), self._position[place]))
        for load in figures.loads:
            if place in load.status:
                since = self.on_since.get(load.name, math.inf)
                return int(self.at >= since + load.delay_s)
        if place in self.busy:
            until, value = self.busy[place]
            return value if self.at < until else 0
        if (place, index) in self.values:
            return self.values[place, index]
        if place in self.whole:
            return self.whole[place]
        return self.world.read(place.parameter, index) if place.node == self.world.own else None

    def _assign(self, entry: Instruction) -> None:
        read_side, write_side = sides(entry.opcode, entry.operator)
        target = entry.first if entry.opcode is Opcode.SET else entry.result
        operand = parse_operand(target)
        if operand is None:
            raise PlanEnds
        read_node, node = self._node(entry, read_side), self._node(entry, write_side)
        place = self.world.place(node, operand.name)
        spec = self.world.spec(operand.name) if place.node == self.world.own else None
        if entry.opcode is Opcode.SET:
            value = literal(entry.value, spec)
        else:
            value = self._computed(entry, read_node)
            self._spend(read_node)
        self._spend(node)
        if spec is not None and isinstance(value, (int, float)) and spec.row.kind in NUMERIC:
            value = converted(value, spec)
        if operand.index is None:
            self.whole[place] = value
            for key in [key for key in self.values if key[0] == place]:
                del self.values[key]
        else:
            self.values[place, operand.index] = value
        if place in self.rules:
            self._cause(self.rules[place], value)

    def _computed(self, entry: Instruction, node: int) -> Known:
        texts = (entry.first,) if entry.opcode is Opcode.UNOP else (entry.first, entry.second)
        operator = OPCODES[entry.opcode].operators[entry.operator]
        result = apply(operator.strict, *(self._operand(text, node) for text in texts))
        return result if isinstance(result, (int, float, bytes)) else None

    # -- effects

    def _cause(self, rule: Rule, value: Known) -> None:
        if rule.action is Action.PULSE:
            if value == 0:
                return
            count = self._count(rule, value)
            self.events.append(Event(at_unix=self.at, joules=rule.joules * count))
            self.busy[rule.place] = (self.at + rule.busy_s, value)
            return
        # An unknown value may be the one that costs.
        is_on = rule.action is Action.ON or (rule.action is Action.SWITCH and value != 0)
        if rule.action is Action.OFF and (value == 0 or value is None):
            return
        if is_on == (rule.load in self.on_since):
            return
        if is_on:
            self.on_since[rule.load] = self.at
        else:
            del self.on_since[rule.load]
        self.events.append(Event(at_unix=self.at, load=rule.load, is_on=is_on))

    def _count(self, rule: Rule, value: Known) -> float:
        if rule.count_of is not None:
            known = self._read(rule.count_of, 0)
            if isinstance(known, (int, float)):
                return max(1.0, known)
        if rule.count_key and isinstance(value, bytes):
            for part in value.split(b";"):
                key, _, number = part.partition(b"=")
                if key.strip() == rule.count_key.encode() and number.strip().isdigit():
                    return max(1.0, float(number))
        return 1.0
