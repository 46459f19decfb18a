"""Generated programs end the same on both engines: outcome, place, count, memory, effects."""

from __future__ import annotations

import os
import random
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import TYPES, Mask, ParamType, TypeClass
from dish.asm import assemble_one
from dish.effects import Done, Settings, Slice
from dish.isa import OPCODES, Opcode
from dish.link import CallGraph
from dish.program import Instruction, Procedure
from dish.testing import World, compiled, interpreter
from dish.values import Mode

# Seconds matter here; set DISH_EXAMPLES for a long run.
EXAMPLES = int(os.environ.get("DISH_EXAMPLES", "60"))
NUMERIC = [row.type for row in TYPES if not row.is_text]
OWN, OTHER = 4, 9


def make_table(values):
    specs = []
    for type_ in NUMERIC:
        number = 10 * (type_ + 1)
        specs += [
            ParamSpec(id=number, name=f"{type_.name}a", type=type_),
            ParamSpec(id=number + 1, name=f"{type_.name}b", type=type_),
            ParamSpec(id=number + 2, name=f"{type_.name}arr", type=type_, array_size=3),
        ]
    specs += [
        ParamSpec(id=500, name="text", type=ParamType.STRING, array_size=6, default="ab"),
        ParamSpec(id=501, name="long", type=ParamType.STRING, array_size=12, default="abcdefgh"),
        ParamSpec(id=502, name="raw", type=ParamType.DATA, array_size=4),
        ParamSpec(id=503, name="ro", type=ParamType.U16, mask=Mask.READONLY, default=5),
        ParamSpec(id=504, name="seen", type=ParamType.U16, array_size=2),
    ]
    table = ParamTable(specs)
    for (name, index), value in values.items():
        table[name].set(value, index)
    return table


def samples(type_):
    row = TYPES[type_]
    if row.kind is TypeClass.FLOAT:
        special = [0.0, -0.0, 1.5, -2.0, float("inf"), float("nan"), 1e-7, 2e-7, 1e300, 70000.9]
        return st.sampled_from(special)
    edges = [row.low, row.low + 1, row.high, row.high - 1, 0, 1, 2, 7]
    return st.sampled_from([edge for edge in edges if row.low <= edge <= row.high])


# Mostly one type, so that most instructions do something; sometimes any name at all.
@st.composite
def names(draw, kind):
    type_ = draw(st.sampled_from([row.type for row in TYPES if row.kind is kind]))
    if draw(st.integers(0, 24)) == 0:
        odd = [
            "text",
            "long",
            "raw",
            "ro",
            "seen",
            "seen[1]",
            "nope",
            "U8a[1]",
            "I8arr[3]",
            "x[",
            "",
        ]
        return draw(st.sampled_from(odd))
    return draw(st.sampled_from([
        f"{type_.name}a", f"{type_.name}b", f"{type_.name}arr", f"{type_.name}arr[2]",
    ]))  # fmt: skip


SET_TEXTS = ["0", "1", "7", "200", "-5", "0x1F", "1.5", "1e400", "abc", "", "65"]


@st.composite
def instructions(draw, slots):
    opcode = draw(st.sampled_from([
        Opcode.IFELSE, Opcode.IFELSE, Opcode.SET, Opcode.UNOP, Opcode.UNOP, Opcode.BINOP,
        Opcode.BINOP, Opcode.CALL, Opcode.NOOP, Opcode.BLOCK,
    ]))  # fmt: skip
    row = OPCODES[opcode]
    kind = draw(st.sampled_from([TypeClass.UINT, TypeClass.UINT, TypeClass.INT, TypeClass.FLOAT]))
    result_kind = draw(st.sampled_from([kind, kind, kind, TypeClass.UINT, TypeClass.FLOAT]))
    node = OTHER if draw(st.integers(0, 15)) == 0 else draw(st.sampled_from([0, OWN]))
    return Instruction(
        opcode=opcode,
        node=node,
        first=draw(names(kind)) if "first" in row.typed else "",
        second=draw(names(kind)) if "second" in row.typed else "",
        result=draw(names(result_kind)) if "result" in row.typed else "",
        value=draw(st.sampled_from(SET_TEXTS)) if "value" in row.typed else "",
        operator=draw(st.integers(0, len(row.operators) - 1)) if row.operators else 0,
        slot=draw(st.sampled_from(slots)) if opcode is Opcode.CALL else 0,
    )


@st.composite
def programs(draw):
    slots = list(range(draw(st.integers(1, 3))))
    native = 200
    procedures = {
        slot: Procedure(instructions=tuple(
            draw(st.lists(instructions([*slots, *slots, native]), max_size=9))
        ))
        for slot in slots
    }  # fmt: skip
    return CallGraph(root=0, procedures=procedures, natives=frozenset({native}))


@st.composite
def memories(draw):
    values = {}
    for type_ in NUMERIC:
        for name, index in ((f"{type_.name}a", None), (f"{type_.name}b", None),
                            (f"{type_.name}arr", 0), (f"{type_.name}arr", 2)):  # fmt: skip
            if draw(st.booleans()):
                values[name, index] = draw(samples(type_))
    return values


def bits(table):
    """The memory of a table, so that NaN equals NaN and -0.0 differs from 0.0."""
    return {
        parameter.name: struct.pack(
            f"<{parameter.count}{parameter.row.code}",
            *parameter.view[parameter.base : parameter.base + parameter.count].tolist(),
        )
        for parameter in table
    }


def fly(make, graph, memory, options):
    table, other = make_table(memory), make_table(memory)
    calls = []
    table.on_write("seen", lambda parameter, index: calls.append((index, parameter.get(index))))
    natives = {200: lambda: table["U8a"].set(9) or len(calls) % 3 // 2}
    world = World(table, nodes={OTHER: other}, natives=natives)
    engine = make(graph, table, Settings(own_nodes=frozenset({OWN}), **options))
    outcome = world.fly(engine)
    effects = [effect for effect in world.effects if not isinstance(effect, Slice)]
    # Reasons may be worded differently; everything else is one meaning.
    end = None if isinstance(outcome, Done) else (outcome.ret, outcome.slot, outcome.index)
    return {
        "end": end,
        "executed": engine.executed,
        "memory": bits(table),
        "peer": bits(other),
        "effects": effects,
        "callbacks": calls,
        "now": world.now,
    }


def differences(left, right):
    """The entries that differ, for a failure one can read."""
    return {
        key: (left[key], right[key])
        if key != "memory"
        else {name: (raw, right[key][name]) for name, raw in left[key].items()
              if raw != right[key][name]}
        for key in left
        if repr(left[key]) != repr(right[key])
    }  # fmt: skip


@given(
    programs(),
    memories(),
    st.sampled_from(Mode),
    st.integers(1, 150),
    st.sampled_from([1, 7, 30, 10_000]),
    st.sampled_from([3, 1000]),
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_engines_agree(graph, memory, mode, budget, slice_instructions, max_depth):
    options = {
        "mode": mode,
        "budget": budget,
        "slice_instructions": slice_instructions,
        "max_depth": max_depth,
        "block_timeout_s": 0.6,
    }
    oracle = fly(interpreter, graph, memory, {**options, "slice_instructions": 10_000})
    assert differences(fly(compiled, graph, memory, options), oracle) == {}


ALL_PAIRS = [
    (opcode, operator.number, type_)
    for opcode in (Opcode.UNOP, Opcode.BINOP, Opcode.IFELSE)
    for operator in OPCODES[opcode].operators
    for type_ in NUMERIC
]


def edges(type_):
    row = TYPES[type_]
    if row.kind is TypeClass.FLOAT:
        return [0.0, 1.5, -2.0, float("inf"), float("nan"), 1e-7, 2e-7, 1e300, 70000.9]
    return [row.low, row.high, row.high - 1, 0, 1, 2, 63, 64]


@pytest.mark.parametrize("mode", Mode)
def test_every_operator_on_every_type(mode):
    chance = random.Random(7)
    tables = {make: make_table({}) for make in (interpreter, compiled)}
    for opcode, operator, type_ in ALL_PAIRS:
        target = chance.choice([type_, *NUMERIC])
        rows = (
            Instruction(
                opcode=opcode,
                first=f"{type_.name}a",
                second=f"{type_.name}b" if opcode is not Opcode.UNOP else "",
                result=f"{target.name}arr[1]" if opcode is not Opcode.IFELSE else "",
                operator=operator,
            ),
            Instruction(opcode=Opcode.SET, first="U8arr[0]", value="1"),
            Instruction(opcode=Opcode.SET, first="U8arr[0]", value="2"),
        )
        graph = CallGraph(root=0, procedures={0: Procedure(instructions=rows)})
        for _ in range(2):
            pair = chance.choice(edges(type_)), chance.choice(edges(type_))
            found = []
            for make, table in tables.items():
                table[f"{type_.name}a"].set(pair[0])
                table[f"{type_.name}b"].set(pair[1])
                outcome = World(table).fly(make(graph, table, Settings(mode=mode)))
                end = None if isinstance(outcome, Done) else (outcome.ret, outcome.index)
                values = table[f"{target.name}arr"].get_all(), table["U8arr"].get_all()
                found.append(repr((end, values)))
            assert found[0] == found[1], (opcode, operator, type_, target, pair)


def text(*lines):
    return assemble_one("\n".join(lines))


@given(st.integers(1, 60), st.integers(1, 20))
@example(13, 5)
@settings(max_examples=40, deadline=None)
def test_budget_and_slices_stop_at_the_same_instruction(budget, slice_instructions):
    graph = CallGraph(root=0, procedures={
        0: text("unop U32a ++ U32a", "ifelse U32a < U32b", "call 1", "noop", "call 0"),
        1: text("unop U32b -- U32b", "noop", "call 2", "unop I8a ++ I8a"),
        2: text("binop U8a + U8b U8a"),
    })  # fmt: skip
    memory = {("U32b", None): 9, ("U8b", None): 1}
    oracle = fly(interpreter, graph, memory, {"budget": budget})
    options = {"budget": budget, "slice_instructions": slice_instructions}
    assert differences(fly(compiled, graph, memory, options), oracle) == {}
