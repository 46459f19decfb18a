"""The plan language: what is refused and where, what comes out, and that it fits the board."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from dish.cli import main
from dish.effects import Done, Failed, Settings
from dish.link import link
from dish.params import SPECS
from dish.plan import sourcemap
from dish.plan.compile import Options, compile_plan
from dish.plan.problems import PlanError
from dish.problems import Severity
from dish.profile import PROFILES
from dish.program import size_bytes
from dish.testing import World, compiled, interpreter
from dish.verify import Target, verify

PLANS = sorted((Path(__file__).parents[2] / "configs" / "plans").glob("*.dish"))
M7 = PROFILES["m7"]
DIPP = "node dipp = 162 { pipeline_run: u8\n ring: u32 readonly\n name: string[8] }\n"

WRONG = [
    ("x = 1", "line 1, column 1: no variable, constant or own parameter is called x: declare"),
    ("gnss_lat = 1.0", "line 1, column 1: gnss_lat is read-only"),
    ("if gns_lat > 1.0 { }", "parameter is called gns_lat: did you mean gnss_lat?"),
    ("var a: u8 = 300", "column 13: 300 does not fit a, which is u8"),
    ("var a: u8 = 3\nvar b: i8 = -1\nif a == b { }", "line 3, column 6: == needs two of a kind"),
    ("var a: u8 = 3\nvar b: u32 = 4\na = b", "column 5: u32 does not fit a, which is u8: u8(...)"),
    ("var f: f32 = 1.0\nf = f % 2.0", "line 2, column 7: % does not take f32"),
    ("var a: u8 = 1\na = -a", "line 2, column 5: u8 has no negative values: convert it, i32(...)"),
    ("var a: u8 = 1 / 0", "column 15: division by zero"),
    ("if gnss_fix { }", "column 4: this is no condition: compare it, such as x != 0"),
    ("p_uint8 = 1", "column 1: p_uint8 has 32 elements: say which, p_uint8[0]"),
    ("p_uint8[32] = 1", "column 1: p_uint8 has 32 elements, 0..31"),
    ("dipp.x = 1", "column 1: no node dipp: declare it, node dipp = NUMBER"),
    (DIPP + "dipp.x = 1", "line 4, column 1: nothing is known of dipp.x: declare it"),
    (DIPP + "dipp.ring = 1", "line 4, column 1: dipp.ring is read-only"),
    (DIPP + "dipp.name = 1", "line 4, column 13: dipp.name is string: assign a quoted text"),
    (DIPP + 'dipp.name = "much too long"', "line 4, column 13: name: string of 13 bytes"),
    ("break", "column 1: break belongs into while or repeat"),
    ("stop\nwake_a53 = 1", "line 2, column 1: this is never executed: remove it"),
    ("func f() { f() }\nf()", "line 1, column 1: f calls itself"),
    ("func f(a: u8) { }\nf()", "line 2, column 1: f takes 1 arguments"),
    ("func f() -> u8 { return 1 }\nvar x = 1 + f()", "line 2, column 13: call f in an assignment"),
    ("while gnss_fix == 1 {", "column 21: this { is never closed: add a }"),
    ("wake_a53 = ", "column 12: expected a value, found the end of the line"),
    ("var while = 1", "column 5: `while` is a word of the language: choose another name"),
    ("wake_a53 = 1 $", "column 14: unexpected '$': remove it"),
    ('wake_a53 = "1', "column 12: unexpected '\"': close the text with another quote"),
    ("const C = 2025-13-01T00:00Z", "column 11: 2025-13-01T00:00Z is no date"),
    ("repeat 0 { }", "column 8: repeat needs a count above 0"),
    ("wait until gnss_lat > 91.0 and gnss_fix == 1 within 1.5", "column 53: 1.5 does not fit u32"),
    ("wait until gnss_fix == 3", "column 1: gnss_fix == "),
    ("slots 1..9\nwake_a53 = 1", "slots 1..9: node profile m7 has 25..50"),
    ("var x = 1\nvar x = 2", "line 2, column 1: x is already a variable: choose another name"),
    ("p_uint8[0] = " + "(" * 100 + "1", "nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_mistakes_have_a_place_and_a_remedy(text, message):
    with pytest.raises(PlanError) as caught:
        compile_plan(text)
    assert message in str(caught.value)


def test_all_mistakes_are_said_at_once_in_order():
    text = "x = 1\nvar a: u8 = 300\nif a == { }\nwhile b > 1 { c = 2 }\n"
    with pytest.raises(PlanError) as caught:
        compile_plan(text)
    assert [problem.place.line for problem in caught.value.problems] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_plan_cut_anywhere_compiles_or_says_why(cut):
    text = PLANS[0].read_text()[:cut]
    with contextlib.suppress(PlanError):
        assert compile_plan(text).procedures


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_shipped_plans_fit_the_board_and_the_verifier_finds_nothing(path):
    result = compile_plan(path.read_text())
    assert result.warnings == ()
    assert all(len(procedure) <= M7.max_instructions for procedure in result.procedures.values())
    assert all(size_bytes(procedure) <= 250 for procedure in result.procedures.values())
    own = {spec.name: spec for spec in SPECS}
    problems = verify(result.procedures, Target(own=4, profile=M7, catalogue={4: own}))
    errors = [each for each in problems if each.check.severity is Severity.ERROR]
    assert errors == []
    for slot, procedure in result.procedures.items():
        assert all(result.source.find(slot, index) for index in range(len(procedure)))


def test_there_are_five_plans():
    names = {path.stem for path in PLANS}
    assert {"capture", "geofence", "photogrammetry", "campaign", "aurora"} <= names


NAMES = ("n", "_zero", "rx0", "rx1", "rx2")
README_TABLE = [
    ParamSpec(id=number + 1, name=name, type=ParamType.U32) for number, name in enumerate(NAMES)
]
FIBONACCI = """
registers rx0, rx1, rx2, _zero
var a = 0
var b = 1
while n > 0 {
    var t = a + b
    a = b
    b = t
    n = n - 1
}
"""
README_OPTIONS = Options(
    own={spec.name: spec for spec in README_TABLE}, profile=PROFILES["default"]
)


@pytest.mark.parametrize("make", [interpreter, compiled])
@pytest.mark.parametrize(("n", "value"), [(0, 1), (1, 1), (10, 89), (40, 165580141)])
def test_fibonacci_is_smaller_than_by_hand(make, n, value):
    result = compile_plan(FIBONACCI, README_OPTIONS)
    assert result.size_bytes < 114
    table = ParamTable(README_TABLE)
    table["n"].set(n)
    engine = make(link(result.root, dict(result.procedures).get), table, Settings())
    assert isinstance(World(table).fly(engine), Done)
    assert table[result.variables["b"]].get() == value


def test_a_sequence_too_long_for_a_slot_goes_on_in_the_next():
    text = "".join(f"p_uint32[{n}] = {n + 100000}\n" for n in range(32))
    result = compile_plan(text)
    assert len(result.procedures) > 2
    table = ParamTable(SPECS)
    engine = interpreter(link(result.root, dict(result.procedures).get), table, Settings())
    assert isinstance(World(table).fly(engine), Done)
    assert table["p_uint32"].get_all() == [n + 100000 for n in range(32)]


def test_too_few_slots_and_registers_are_said():
    text = "".join(f"p_uint32[{n}] = {n + 100000}\n" for n in range(32))
    with pytest.raises(PlanError, match=r"needs 4 slots, 25\.\.26 are 2"):
        compile_plan(text, Options(slots=(25, 26)))
    with pytest.raises(PlanError, match="line 3, column 1: no register left: this node has 1"):
        compile_plan("registers p_uint32[0]\nvar a = 1\nvar b = 2\np_uint32[1] = a + b")


def test_constants_are_placed_where_they_are_compared():
    text = "node other = 9 { level: u16\n scratch: u16[2] registers }\nwait until other.level == 7"
    rows = [
        str(entry)
        for procedure in compile_plan(text).procedures.values()
        for entry in procedure.instructions
        if entry.node == 9
    ]
    assert rows == ["set   : scratch[0] = 7", "block : level == scratch"]


def test_a_failure_is_explained(tmp_path, capsys):
    text = 'var a = 1\nwake_a53 = 1\nif gnss_fix == 0 {\n    fail "no fix"\n}\n'
    result = compile_plan(text)
    table = ParamTable(SPECS)
    engine = interpreter(link(result.root, dict(result.procedures).get), table, Settings())
    end = World(table).fly(engine)
    assert isinstance(end, Failed)
    assert str(result.source.find(end.slot, end.index)) == "line 4, column 5: no fix"
    assert sourcemap.decode(sourcemap.encode(result.source)) == result.source
    path, map_ = tmp_path / "p.dish", tmp_path / "p.map"
    path.write_text(text)
    assert main(["compile", str(path), "--map", str(map_), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == 25
    for source in (path, map_):
        assert main(["explain", str(source), str(end.slot), str(end.index)]) == 0
        assert "line 4, column 5: no fix" in capsys.readouterr().out
    assert main(["explain", str(path), "99", "0"]) == 1


def test_the_script_assembles_to_the_same_bytes(tmp_path, capsys):
    out = tmp_path / "out.csh"
    assert main(["compile", str(PLANS[0]), "-o", str(out)]) == 0
    assert "run slot 25" in capsys.readouterr().out
    result = compile_plan(PLANS[0].read_text())
    assert main(["asm", str(out)]) == 0
    total = sum(int(line.split()[4]) for line in capsys.readouterr().out.splitlines())
    assert total == result.size_bytes
    path = tmp_path / "bad.dish"
    path.write_text("x = 1\ny = 2\n")
    assert main(["compile", str(path)]) == 1
    assert "line 2, column 1" in capsys.readouterr().err
