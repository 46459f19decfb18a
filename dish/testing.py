"""Test procedures without a node: a virtual world of parameter tables, and generators.

`World` answers every effect of an engine from plain tables in virtual time; it counts what would
have been traffic. The generators need the package `hypothesis`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from csp.errors import NoResponse
from csp.param.errors import ParamError
from csp.param.spec import encode_text
from csp.param.table import Parameter, ParamTable
from csp.param.types import TypeClass
from csp.param.types import Value as ParamValue
from csp.services import PORT_PING
from csp.stack import Stack
from dish.asm import assemble_one
from dish.compiler import CompiledEngine
from dish.effects import (
    Done,
    Effect,
    Engine,
    Failed,
    Fault,
    LocalWrite,
    Native,
    Pull,
    Push,
    Reading,
    Remote,
    Reply,
    Resolve,
    Settings,
    Wait,
)
from dish.isa import OPCODES, FieldKind
from dish.link import CallGraph, link
from dish.machine import Interpreter
from dish.program import Instruction, Procedure
from dish.tables import cells_of
from dish.values import Value

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

EngineFactory = Callable[[CallGraph, ParamTable, Settings], Engine]


def interpreter(graph: CallGraph, table: ParamTable, settings: Settings) -> Engine:
    """Make the plain engine over a table."""
    return Interpreter(graph, cells_of(table), settings)


def compiled(graph: CallGraph, table: ParamTable, settings: Settings) -> Engine:
    """Make the compiled engine over a table."""
    return CompiledEngine(graph, cells_of(table), settings)


@dataclass(slots=True)
class World:
    """The tables an engine can reach, a clock, and what happened.

    `local` is the executing node's table, `nodes` the others by number; `natives` the native
    functions by slot. `at` holds actions for instants of virtual time.
    """

    local: ParamTable
    nodes: dict[int, ParamTable] = field(default_factory=dict)
    natives: dict[int, Callable[[], int]] = field(default_factory=dict)
    now: float = 0.0
    effects: list[Effect] = field(default_factory=list)
    at: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def fly(self, engine: Engine, max_steps: int = 100_000) -> Done | Failed:
        """Drive an engine to its end in virtual time. Raises TimeoutError after `max_steps`."""
        reply: Reply = None
        for _ in range(max_steps):
            effect = engine.step(reply, self.now)
            if isinstance(effect, (Done, Failed)):
                return effect
            self.effects.append(effect)
            reply = self.answer(effect)
        raise TimeoutError(f"still running after {max_steps} effects")

    def answer(self, effect: Effect) -> Reply:
        """Return the reply to an effect, or a Fault for what this world does not have."""
        try:
            return self._answer(effect)
        except (ParamError, KeyError) as error:
            return Fault(reason=str(error))

    def _answer(self, effect: Effect) -> Reply:
        match effect:
            case Wait(until=until):
                self._pass_time(until)
            case Pull(node=node, reads=reads):
                table = self.nodes[node]
                return [_reading(table[read.name], read.index) for read in reads]
            case Resolve(node=node, name=name):
                parameter = self.nodes[node][name]
                return Remote(
                    type=parameter.spec.type,
                    count=parameter.count,
                    read_only=parameter.is_readonly,
                )
            case Push(node=node, name=name, index=index, value=value):
                parameter = self.nodes[node][name]
                parameter.write(_for_table(parameter, value), index)
            case LocalWrite(id=number, index=index, value=value):
                parameter = self.local.by_id(number)
                parameter.write(_for_table(parameter, value), index)
            case Native(slot=slot):
                return self.natives[slot]()
        return None

    def _pass_time(self, until: float) -> None:
        due = sorted((entry for entry in self.at if entry[0] <= until), key=lambda entry: entry[0])
        self.at = [entry for entry in self.at if entry[0] > until]
        for when, action in due:
            self.now = max(self.now, when)
            action()
        self.now = max(self.now, until)


def _reading(parameter: Parameter, index: int) -> Reading:
    elements = parameter.elements
    value: Value | None = None
    if index < elements:
        raw = parameter.get(index)
        value = encode_text(raw) if isinstance(raw, str) else raw
    return Reading(type=parameter.spec.type, value=value)


def _for_table(parameter: Parameter, value: Value) -> ParamValue:
    if isinstance(value, bytes) and parameter.row.kind is TypeClass.STRING:
        return value.decode("utf-8", "surrogateescape")
    return value


async def reach(stack: Stack, node: int, attempts: int = 40) -> None:
    """Ping a node until it answers; a fresh subscription may need a while to reach the hub.

    Raises NoResponse after `attempts`, a quarter of a second each.
    """
    for _ in range(attempts - 1):
        with contextlib.suppress(NoResponse):
            await stack.request(node, PORT_PING, b"reach", timeout_s=0.25)
            return
    await stack.request(node, PORT_PING, b"reach", timeout_s=0.25)


def graph_of(
    texts: dict[int, str], root: int = 0, natives: frozenset[int] = frozenset()
) -> CallGraph:
    """Assemble procedures by slot and link them."""
    procedures = {slot: assemble_one(text) for slot, text in texts.items()}
    return link(root, procedures.get, natives)


def instructions(max_text: int = 12) -> SearchStrategy[Instruction]:
    """Generate instructions with any text (undecodable bytes included), operator and node."""
    from hypothesis import strategies as st

    odd = ["", "p_uint8[3]", "a b", "it's", '"', "#x", "-n", "--", "'\"'", "x\ny"]
    texts = st.sampled_from(odd) | st.binary(max_size=max_text).map(
        lambda raw: raw.replace(b"\0", b"'").decode("utf-8", "surrogateescape")
    )

    @st.composite
    def build(draw: Callable[..., object]) -> Instruction:
        row = OPCODES[draw(st.integers(0, len(OPCODES) - 1))]  # type: ignore[call-overload]
        values: dict[str, object] = {"node": draw(st.integers(0, 65535))}
        for entry in row.fields:
            if entry.kind is FieldKind.OPERATOR:
                values[entry.attribute] = draw(st.integers(0, len(row.operators) - 1))
            elif entry.kind is FieldKind.SLOT:
                values[entry.attribute] = draw(st.integers(0, 255))
            else:
                values[entry.attribute] = draw(texts)
        return Instruction(opcode=row.opcode, **values)  # type: ignore[arg-type]

    return build()


def procedures(max_size: int = 8) -> SearchStrategy[Procedure]:
    """Generate procedures of up to `max_size` such instructions."""
    from hypothesis import strategies as st

    return st.lists(instructions(), max_size=max_size).map(
        lambda rows: Procedure(instructions=tuple(rows))
    )
