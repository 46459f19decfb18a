"""What the verifier finds, and that it finds nothing in plans that are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from csp.param.spec import ParamSpec
from csp.param.types import Mask, ParamType
from dish.asm import assemble, assemble_one
from dish.cli import main
from dish.params import SPECS
from dish.problems import Check, Severity
from dish.profile import PROFILES
from dish.verify import Target, has_errors, verify

P = ParamType
PLAN = Path(__file__).parents[2] / "configs" / "plans" / "listing1.csh"
LISTING = Path(__file__).with_name("listing1.csh")
CATALOGUE = {
    4: {
        **{spec.name: spec for spec in SPECS},
        "label": ParamSpec(id=900, name="label", type=P.STRING, array_size=8),
        "blob": ParamSpec(id=901, name="blob", type=P.DATA, array_size=8),
    },
    162: {"pipeline_run": ParamSpec(id=1, name="pipeline_run", type=P.U8, mask=Mask.CONF)},
    163: {"capture_image": ParamSpec(id=10, name="capture_image", type=P.U8)},
    161: {"suspend_a53": ParamSpec(id=1, name="suspend_a53", type=P.U8)},
}
TARGET = Target(own=4, profile=PROFILES["m7"], catalogue=CATALOGUE)


def found(texts, target=TARGET):
    if isinstance(texts, str):
        texts = {30: texts}
    procedures = {slot: assemble_one(text) for slot, text in texts.items()}
    return [(problem.check, problem.slot, problem.index) for problem in verify(procedures, target)]


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("set p_uint8[x] 1", Check.BAD_NAME),
        ("set p_uint8[01] 1", Check.BAD_NAME),
        ("block a53_status == 1", Check.LITERAL),
        ("unop nowhere idt p_uint8", Check.UNKNOWN_NAME),
        ("set p_uint8[32] 1", Check.BAD_INDEX),
        ("unop label[1] idt label", Check.BAD_INDEX),
        ("set gnss_lat 1", Check.READ_ONLY),
        ("unop blob idt p_uint8", Check.NOT_LOADABLE),
        ("binop p_uint8 + p_int8 p_uint8", Check.CLASS_MISMATCH),
        ("ifelse p_float == p_uint8", Check.CLASS_MISMATCH),
        ("unop p_uint8 - p_uint8", Check.BAD_OPERATOR),
        ("binop p_float % p_float p_float", Check.BAD_OPERATOR),
        ("unop label ++ label", Check.BAD_OPERATOR),
        ("unop p_uint8 idt label", Check.BAD_RESULT),
        ("unop label idt p_uint8", Check.BAD_RESULT),
        ("set p_uint8 -1", Check.BAD_VALUE),
        ("set label 12345678", Check.BAD_VALUE),
        ("set x 1 99", Check.UNKNOWN_NODE),
        ("call 31", Check.MISSING_SLOT),
        ("call 30\nset p_uint8 1", Check.RECURSION),
        ("ifelse p_uint8 == p_uint16\nifelse p_uint8 == p_uint16\nnoop", Check.NESTED_IFELSE),
        ("block p_uint8[0] < p_uint8[0]", Check.NEVER_TRUE),
        ("set p_uint32[0] 1744407764\nblock gnss_time >= p_uint32[0]", Check.NEVER_TRUE),
        ("set p_uint16[0] 300\nblock a53_status == p_uint16[0]", Check.NEVER_TRUE),
        ("ifelse p_uint8[0] == p_uint8[0]\nnoop", Check.CONSTANT),
        ("set p_uint16 0\nblock gnss_unix >= p_uint16", Check.CONSTANT),
        ("block p_uint8[0] == p_uint8[1]", Check.ALONE),
        ("noop\n" * 51, Check.TOO_LONG),
        ("set p_uint32[31] 1234567890\n" * 10, Check.TOO_BIG),
    ],
)
def test_each_kind_of_problem(text, check):
    checks = [row[0] for row in found(text)]
    assert checks == [check]


def test_all_problems_come_at_once_with_their_places():
    texts = {30: "set nope 1\nnoop\ncall 40", 20: "set p_uint8 1", 31: "set p_uint8 x"}
    assert found(texts) == [
        (Check.BAD_SLOT, 20, None),
        (Check.UNKNOWN_NAME, 30, 0),
        (Check.MISSING_SLOT, 30, 2),
        (Check.BAD_VALUE, 31, 0),
    ]


def test_slots_that_are_on_the_node_already_may_be_called():
    assert found("call 40", replace(TARGET, present=frozenset({40}))) == []


def test_recursion_through_several_slots():
    texts = {30: "call 31\nset p_uint8 1", 31: "call 32", 32: "call 30"}
    assert found(texts) == [(Check.RECURSION, 30, 0)]
    assert found({30: "call 31", 31: "unop p_uint8 ++ p_uint8\ncall 30"}) == []


def test_operands_of_rmt_are_local_and_its_result_is_remote():
    assert found("unop p_uint8 rmt pipeline_run 162") == []
    assert found("unop pipeline_run rmt p_uint8 162")[0][0] is Check.UNKNOWN_NAME
    assert found("unop pipeline_run idt p_uint8 162") == []


def test_constants_need_a_single_writer():
    wait = "block gnss_time >= p_uint32[0]"
    assert found(f"set p_uint32[0] 99999999\nset p_uint32[0] 5\n{wait}") == []
    assert found(f"set p_uint32[0] 99999999\nset p_uint32 5\n{wait}") == []
    assert found(f"set p_uint32 99999999\n{wait}")[0][0] is Check.NEVER_TRUE


def test_memory_of_the_board():
    tiny = replace(PROFILES["m7"], heap_bytes=4000)
    checks = [row[0] for row in found("set p_uint8 1", replace(TARGET, profile=tiny))]
    assert checks == [Check.HEAP]


def test_the_listing_as_printed_cannot_complete_and_the_verifier_says_why():
    procedures = {entry.slot: entry.procedure for entry in assemble(LISTING.read_text())}
    problems = verify(procedures, TARGET)
    assert [(each.check, each.index) for each in problems] == [
        (Check.NEVER_TRUE, 1),
        (Check.LITERAL, 3),
        (Check.LITERAL, 7),
    ]
    assert str(problems[1]).startswith("slot 42 instruction 3: error: 1 is a literal")


def test_the_shipped_plan_is_clean():
    procedures = {entry.slot: entry.procedure for entry in assemble(PLAN.read_text())}
    assert verify(procedures, TARGET) == []


def test_severities():
    assert {check for check in Check if check.severity is Severity.WARNING} == {
        Check.UNKNOWN_NODE, Check.UNREACHABLE, Check.CONSTANT, Check.ALONE,
    }  # fmt: skip
    assert not has_errors(verify({30: assemble_one("set x 1 99")}, TARGET))


def test_command_line(tmp_path, capsys):
    lists = tmp_path / "lists.json"
    lists.write_text(json.dumps({
        "162": [{"name": "pipeline_run", "type": "u08", "mask": 4}],
        "163": [{"name": "capture_image", "type": "uint8"}],
        "161": [{"name": "suspend_a53", "type": "u08"}],
    }))  # fmt: skip
    assert main(["verify", str(PLAN), "--params", str(lists)]) == 0
    assert capsys.readouterr().out == "4 procedures, 0 problems\n"
    assert main(["verify", str(LISTING)]) == 1
    assert f"{LISTING}:5: slot 42 instruction 1: error" in capsys.readouterr().out
    assert main(["verify", str(LISTING), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert (rows[0]["code"], rows[0]["line"]) == ("never-true", 5)
    lists.write_text("[]")
    assert main(["verify", str(PLAN), "--params", str(lists)]) == 1
    assert "no parameter list" in capsys.readouterr().err
