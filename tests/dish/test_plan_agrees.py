"""Generated plans end the same compiled as executed directly: outcome, variables, parameters."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from dish.effects import Done, Settings
from dish.link import link
from dish.params import SPECS
from dish.plan.compile import Options, compile_plan, read_plan
from dish.plan.oracle import Oracle, PlanFailure
from dish.plan.problems import PlanError
from dish.profile import PROFILES
from dish.testing import World, compiled, interpreter
from dish.values import Mode

EXAMPLES = int(os.environ.get("DISH_EXAMPLES", "20"))
# Roomy, so that few random plans are refused for their size.
ROOMY = replace(PROFILES["default"], name="roomy", buffer_bytes=120)
OTHER = 162
OTHER_SPECS = (
    ParamSpec(id=1, name="level", type=ParamType.U16, default=300),
    ParamSpec(id=2, name="small", type=ParamType.I8, default=-3),
    ParamSpec(id=3, name="fixed", type=ParamType.U8, mask=Mask.READONLY, default=9),
    ParamSpec(id=4, name="scratch", type=ParamType.U16, array_size=2),
)
HEAD = """
node other = 162 { level: u16
    small: i8
    fixed: u8 readonly
    REGISTERS }
param out = p_uint32[31]
"""
UINTS, INTS, FLOATS = ("a", "b", "c"), ("i", "j"), ("f", "g")
DECLARE = """
var a: u8 = 3
var b: u16 = 500
var c: u32 = 70000
var i: i8 = -5
var j: i32 = 1000
var f: f32 = 1.5
var g: f64 = -2.25
"""


class Surface:
    """Tables and a clock for the oracle."""

    def __init__(self):
        self.own, self.other = make_tables()
        self.now = 0.0

    def _parameter(self, ref):
        table = self.other if ref.node else self.own
        name, _, index = ref.text.partition("[")
        return table[name], int(index.rstrip("]") or 0)

    def read(self, ref):
        parameter, index = self._parameter(ref)
        return parameter.get(index)

    def write(self, ref, value):
        parameter, index = self._parameter(ref)
        parameter.set(value, index)

    def advance(self, seconds):
        self.now += seconds
        self.own["gnss_unix"].set(1000 + int(self.now))


def make_tables():
    own, other = ParamTable(SPECS), ParamTable(OTHER_SPECS)
    own["gnss_unix"].set(1000)
    return own, other


class Clock(World):
    """A world whose clock parameter follows virtual time."""

    def _pass_time(self, until):
        super()._pass_time(until)
        self.local["gnss_unix"].set(1000 + int(self.now))


OPERATORS = ["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"]


@st.composite
def values(draw, kind, depth=0):
    names, literals, operators, remote = {
        "u": (UINTS, ["0", "1", "2", "7", "200"], OPERATORS, ["other.level", "other.fixed"]),
        "i": (INTS, ["0", "1", "-1", "5", "-100"], OPERATORS[:8], ["other.small"]),
        "f": (FLOATS, ["0.5", "1.0", "-3.25"], OPERATORS[:3], []),
    }[kind]
    choice = draw(st.integers(0, 9))
    if depth < 2 and choice < 4:
        left = draw(values(kind, depth + 1))
        right = draw(values(kind, depth + 1))
        return f"({left} {draw(st.sampled_from(operators))} {right})"
    if depth < 2 and choice == 4:
        inner = draw(values(kind, depth + 1))
        if kind == "u":
            return f"~{inner}" if draw(st.booleans()) else f"u8({inner})"
        return f"-{inner}"
    if choice == 5:
        return draw(st.sampled_from(literals))
    if choice == 6 and kind == "i":
        return f"i32({draw(values('u', depth + 1))})" if depth < 2 else draw(st.sampled_from(names))
    if choice == 7 and remote:
        return draw(st.sampled_from(remote))
    return draw(st.sampled_from(names))


@st.composite
def conditions(draw, depth=0):
    choice = draw(st.integers(0, 8))
    if depth < 2 and choice < 2:
        word = draw(st.sampled_from(["and", "or"]))
        return f"({draw(conditions(depth + 1))} {word} {draw(conditions(depth + 1))})"
    if depth < 2 and choice == 2:
        return f"not ({draw(conditions(depth + 1))})"
    if choice == 3:
        return draw(st.sampled_from(["true", "false"]))
    kind = draw(st.sampled_from("uif"))
    sign = draw(st.sampled_from(["==", "!=", "<", ">", "<=", ">="]))
    return f"{draw(values(kind))} {sign} {draw(values(kind))}"


@st.composite
def statements(draw, depth, loop, function):
    choice = draw(st.integers(0, 15))
    block = blocks(depth + 1, loop, function)
    if depth < 3 and choice < 3:
        other = f" else {{\n{draw(block)}}}" if draw(st.booleans()) else ""
        return f"if {draw(conditions())} {{\n{draw(block)}}}{other}"
    if depth < 2 and choice == 3:
        body = draw(blocks(depth + 1, True, function))
        return f"repeat {draw(st.integers(1, 3))} {{\n{body}}}"
    if depth < 2 and choice == 4:
        body = draw(blocks(depth + 1, True, function))
        return f"while {draw(conditions())} {{\n{body}c = c / 2\nif c == 0 {{ break }}\n}}"
    if depth < 3 and choice == 5:
        return f"try {{\n{draw(block)}}} on failure {{\n{draw(block)}}}"
    if choice == 6:
        return draw(st.sampled_from(["fail", "break" if loop else "fail", "continue"])) if (
            loop and draw(st.booleans())
        ) else f"wait for {draw(st.integers(1, 9))}"  # fmt: skip
    if choice == 7 and depth < 3:
        condition = draw(conditions())
        other = f" else {{\n{draw(block)}}}" if draw(st.booleans()) else ""
        return f"wait until {condition} within {draw(st.integers(1, 20))} every 3{other}"
    if choice == 8 and not function:
        return draw(st.sampled_from(["act()", "c = twice(u32(a))", "act()"]))
    if choice == 9:
        return f"out = {draw(values('u'))}"
    if choice == 10:
        lines = ["other.level = 7", "other.level = u16(c)", "other.small = i8(j)"]
        return draw(st.sampled_from(lines))
    kind = draw(st.sampled_from("uif"))
    target, type_ = draw(
        st.sampled_from(
            {
                "u": [("a", "u8"), ("b", "u16"), ("c", "u32")],
                "i": [("i", "i8"), ("j", "i32")],
                "f": [("f", "f32"), ("g", "f64")],
            }[kind]
        )
    )
    return f"{target} = {type_}({draw(values(kind))})"


@st.composite
def blocks(draw, depth, loop, function):
    lines = draw(st.lists(statements(depth, loop, function), min_size=1, max_size=3))
    cut = next(
        (n for n, line in enumerate(lines) if line in ("fail", "break", "continue")), len(lines)
    )
    return "\n".join(lines[: cut + 1]) + "\n"


@st.composite
def plans(draw):
    registers = draw(st.sampled_from(["", "scratch: u16[2] registers"]))
    act = draw(blocks(1, False, True))
    body = draw(blocks(0, False, False))
    functions = (
        f"func act() {{\n{act}}}\n"
        "func twice(n: u32) -> u32 {\nif n > 100 { return 1 }\nreturn n * 2\n}\n"
    )
    return HEAD.replace("REGISTERS", registers) + functions + DECLARE + body


OPTIONS = Options(profile=ROOMY)


def outcome_of(text):
    """Run the oracle; return whether it failed and what it left."""
    plan = read_plan(text, OPTIONS)
    surface = Surface()
    oracle = Oracle(plan, surface, budget=3000)
    try:
        oracle.run()
        failed = False
    except PlanFailure:
        failed = True
    variables = {each.name: value for each, value in oracle.variables.items()}
    return failed, variables, surface


@given(text=plans())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_compiled_plan_does_what_the_source_says(text):
    # Without this the registers of variables that are not needed at the end would be reused.
    text += "".join(f"p_{t}[{n}] = {v}\n" for t, n, v in KEEP)
    try:
        failed, variables, surface = outcome_of(text)
        result = compile_plan(text, OPTIONS)
    except (PlanError, TimeoutError):
        # Some random conditions are never true, which the verifier refuses.
        return
    graph = link(result.root, dict(result.procedures).get)
    # Flight defines shift counts beyond 63 and comparisons of infinities otherwise (dish.md 8).
    is_portable = not any(
        ("<<" in text, ">>" in text, *(not math.isfinite(value) for value in variables.values()))
    )
    for make, mode in itertools.product((interpreter, compiled), Mode):
        if mode is Mode.FLIGHT and not is_portable:
            continue
        own, other = make_tables()
        world = Clock(own, nodes={OTHER: other})
        engine = make(graph, own, Settings(mode=mode, own_nodes=frozenset({4})))
        end = world.fly(engine, max_steps=20_000)
        assert isinstance(end, Done) is not failed, (end, text)
        if not failed:
            for type_, number, name in KEEP:
                found = own[f"p_{type_}"].get(number)
                is_nan = found != found
                assert is_nan or found == variables[name], (name, text)
        assert own["p_uint32"].get(31) == surface.own["p_uint32"].get(31)
        for name in ("level", "small"):
            assert other[name].get() == surface.other[name].get()


KEEP = (
    ("uint8", 31, "a"), ("uint16", 31, "b"), ("uint32", 30, "c"), ("int8", 31, "i"),
    ("int32", 31, "j"), ("float", 31, "f"), ("double", 15, "g"),
)  # fmt: skip
