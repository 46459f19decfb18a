"""What procedures do: flow, calls, parameters, remote operands, waiting. Source: dish.md 4-9.

Every test here runs on every engine.
"""

from __future__ import annotations

import pytest

from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from dish.asm import assemble_one
from dish.effects import Done, Failed, Pull, Push, Resolve, Settings, Slice, Wait
from dish.errors import LinkError, Ret
from dish.link import is_tail_call, parse_operand
from dish.testing import World, compiled, graph_of, interpreter
from dish.values import Mode

P = ParamType
ENGINES = {"interpreter": interpreter, "compiled": compiled}


def table(**extra):
    rows = [
        ("n", P.U32, 1), ("zero", P.U32, 1), ("one", P.U32, 1), ("a", P.U32, 1), ("b", P.U32, 1),
        ("c", P.U32, 1), ("i", P.I32, 1), ("j", P.I32, 1), ("u8", P.U8, 1), ("u16", P.U16, 1),
        ("i8", P.I8, 1), ("f", P.FLOAT, 1), ("d", P.DOUBLE, 1), ("x32", P.X32, 1),
        ("arr", P.U32, 4), ("text", P.STRING, 8), ("long", P.STRING, 64), ("raw", P.DATA, 8),
    ]  # fmt: skip
    specs = [
        ParamSpec(id=index + 1, name=name, type=type_, array_size=count)
        for index, (name, type_, count) in enumerate(rows)
    ]
    specs.append(ParamSpec(id=100, name="fixed", type=P.U32, mask=Mask.READONLY, default=7))
    made = ParamTable(specs)
    made["one"].set(1)
    for name, value in extra.items():
        made[name].set(value)
    return made


@pytest.fixture(params=sorted(ENGINES))
def make(request):
    return ENGINES[request.param]


class Bench:
    """One run on one engine."""

    def __init__(self, make, texts, *, values=None, root=0, natives=None, nodes=None, **settings):
        self.table = table(**(values or {}))
        self.world = World(self.table, nodes=nodes or {}, natives=natives or {})
        graph = graph_of(
            texts if isinstance(texts, dict) else {0: texts}, root, frozenset(natives or {})
        )
        self.make = lambda: make(graph, self.table, Settings(**settings))

    def run(self):
        self.engine = self.make()
        self.outcome = self.world.fly(self.engine)
        return self

    def __getitem__(self, name):
        return self.table[name].get_all()


def ok(*args, **kwargs):
    bench = Bench(*args, **kwargs).run()
    assert isinstance(bench.outcome, Done), bench.outcome
    return bench


def failed(*args, **kwargs):
    bench = Bench(*args, **kwargs).run()
    assert isinstance(bench.outcome, Failed), bench.outcome
    return bench


TRACE = "binop a + one a\n"  # adds one: how often it ran shows in `a`


def mark(name):
    return f"set {name} 1\n"


def test_empty_procedure_does_nothing(make):
    assert ok(make, "").engine.executed == 0


@pytest.mark.parametrize(
    ("condition", "ran"),
    [("ifelse one == one", "ac"), ("ifelse one == zero", "bc")],
)
def test_ifelse_runs_one_of_two(make, condition, ran):
    bench = ok(make, condition + "\n" + mark("a") + mark("b") + mark("c"))
    assert "".join(name for name in "abc" if bench[name]) == ran


@pytest.mark.parametrize("text", ["ifelse one == one", "ifelse one == zero\nset a 1"])
def test_fewer_than_two_instructions_after_ifelse(make, text):
    assert ok(make, text)["a"] == 0


@pytest.mark.parametrize(
    ("outer", "inner", "ran"),
    [
        # In the then-slot the inner ifelse replaces the flag.
        ("one", "one", "ac"),
        ("one", "zero", "bc"),
        ("zero", "one", "abc"),
    ],
)
def test_nested_ifelse_in_the_then_slot(make, outer, inner, ran):
    text = f"ifelse one == {outer}\nifelse one == {inner}\n" + "".join(map(mark, "abc"))
    bench = ok(make, text)
    expected = {"ac": "ac", "bc": "bc", "abc": "abc"}[ran]
    assert "".join(name for name in "abc" if bench[name]) == expected


def test_nested_ifelse_in_the_else_slot(make):
    text = "ifelse one == zero\nnoop\nifelse one == zero\n" + "".join(map(mark, "abc"))
    bench = ok(make, text)
    assert "".join(name for name in "abc" if bench[name]) == "bc"


def test_skipped_instructions_have_no_effect(make):
    bench = ok(make, {0: "ifelse one == zero\ncall 1\nset b 1\nset c 1", 1: "set a 1"})
    assert (bench["a"], bench["b"], bench["c"]) == (0, 1, 1)
    ok(make, "ifelse one == zero\nset nowhere 1")


FIBONACCI = {
    0: "set zero 0\nset a 0\nset b 1\nifelse n > zero\ncall 1",
    1: "binop a + b c\nunop b idt a\nunop c idt b\nunop n -- n\nifelse n == zero\nnoop\ncall 1",
}


def test_fibonacci(make):
    bench = ok(make, FIBONACCI, values={"n": 10})
    assert (bench["a"], bench["b"], bench["n"]) == (55, 89, 0)


def test_tail_loop_of_100_000_turns_does_not_grow(make):
    bench = ok(make, FIBONACCI, values={"n": 100_000}, slice_instructions=10**9)
    assert bench["n"] == 0
    assert bench.engine.position.depth == 0


def test_then_slot_call_skips_the_else_slot_afterwards(make):
    texts = {0: "ifelse one == one\ncall 1\nset b 1\nset c 1", 1: "set a 1"}
    bench = ok(make, texts)
    assert (bench["a"], bench["b"], bench["c"]) == (1, 0, 1)


def test_call_ignores_its_node(make):
    assert ok(make, {0: "call 1 99\nset b 1", 1: "set a 1"})["a"] == 1


def test_callee_starts_without_flag_and_returns_to_the_callers(make):
    texts = {
        0: "ifelse one == one\ncall 1\nset b 1\nset c 1\nset i 3",
        1: "set a 1\nifelse one == zero\nset a 9\nset j 4",
    }
    bench = ok(make, texts)
    assert [bench[name] for name in ("a", "b", "c", "i", "j")] == [1, 0, 1, 3, 4]


def test_depth_limit_is_1001_frames(make):
    nested = {0: "unop n -- n\nifelse n > zero\ncall 0\nnoop\nset c 1"}
    assert ok(make, nested, values={"n": 1001})["n"] == 0
    bench = failed(make, nested, values={"n": 1002})
    assert (bench.outcome.ret, bench.outcome.index) == (Ret.ERROR, 2)


def test_missing_slots_fail_before_anything_runs():
    for texts in ({0: "set a 1\ncall 9"}, {0: "call 1\nnoop", 1: "call 2\nnoop", 2: "call 9"}):
        with pytest.raises(LinkError) as caught:
            graph_of(texts)
        assert caught.value.callee == 9


def test_error_in_a_callee_ends_all_callers(make):
    bench = failed(make, {0: "call 1\nset c 1", 1: "noop\nbinop a / zero a\nset b 1"})
    assert (bench.outcome.slot, bench.outcome.index) == (1, 1)
    assert (bench["b"], bench["c"]) == (0, 0)
    assert bench.engine.step(None, 0.0) == bench.outcome


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("call 1", True),
        ("call 1\nnoop\nnoop", True),
        ("call 1\nset a 1", False),
        ("ifelse a == b\ncall 1", True),
        ("ifelse a == b\ncall 1\nset a 1", True),
        ("ifelse a == b\ncall 1\nset a 1\nnoop", True),
        ("ifelse a == b\ncall 1\nset a 1\nset a 1", False),
        ("ifelse a == b\nnoop\ncall 1\nnoop", True),
        ("ifelse a == b\nnoop\ncall 1\nset a 1", False),
    ],
)
def test_tail_position(text, tail):
    procedure = assemble_one(text)
    index = next(at for at, entry in enumerate(procedure.instructions) if entry.slot == 1)
    assert is_tail_call(procedure, index) is tail


def test_flown_inconsistency_of_tail_rule_a(make):
    # The call runs as the else-slot, yet counts as a tail call, so `b` is lost (dish.md 6).
    bench = ok(make, {0: "ifelse one == zero\nifelse one == one\ncall 1\nset b 1", 1: "set a 1"})
    assert (bench["a"], bench["b"]) == (1, 0)


def test_native_procedures(make):
    calls = []
    natives = {5: lambda: calls.append(5) or 0, 6: lambda: 3}
    bench = ok(make, {0: "call 5\nset a 1"}, natives=natives)
    assert (calls, bench["a"]) == ([5], 1)
    bench = failed(make, {0: "call 6\nset a 1"}, natives=natives)
    assert (bench.outcome.ret, bench["a"]) == (Ret.ERROR, 0)
    ok(make, {0: "noop"}, root=6, natives=natives)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arr", ("arr", None)), ("arr[0]", ("arr", 0)), ("arr[12]", ("arr", 12)),
        ("arr[007]", None), ("arr[x]", None), ("arr[]", None), ("arr[ 1]", None),
        ("arr[1", None), ("arr[1][2]", None),
        ("arr[-1]", None), ("arr[+1]", None), ("arr[1] ", None), ("[1]", None), ("", None),
        ("arr[99999999999999999999]", None), ("arr[1]\n", None), ("arr[१]", None),
    ],
)  # fmt: skip
def test_names(text, expected):
    operand = parse_operand(text)
    assert (operand and (operand.name, operand.index)) == expected


@pytest.mark.parametrize("name", ["nope", "1", "ar*", "arr[x]", "arr[4]", "arr[5]", ""])
def test_unknown_operands_are_errors(make, name):
    word = name or '""'
    assert failed(make, f"unop {word} idt a").outcome.ret is Ret.ERROR
    assert failed(make, f"set {word} 1").outcome.ret is Ret.ERROR
    assert failed(make, f"unop a idt {word}").outcome.ret is Ret.ERROR
    assert failed(make, f"ifelse a == {word}").outcome.ret is Ret.CONDITION
    assert failed(make, f"block a == {word}").outcome.ret is Ret.CONDITION


def test_reading_without_index_reads_element_0_and_writing_writes_all(make):
    bench = ok(make, "unop arr idt a\nset arr 5", values={"arr": [9, 8, 7, 6]})
    assert (bench["a"], bench["arr"]) == (9, [5, 5, 5, 5])
    bench = ok(make, "unop arr[2] ++ arr[3]", values={"arr": [9, 8, 7, 6]})
    assert bench["arr"] == [9, 8, 7, 8]


def test_index_beyond_the_array_in_flight_mode(make):
    for index in (4, 5, 4000):
        bench = ok(make, f"unop arr[{index}] idt a\nset arr[{index}] 3\nset b 1",
                   values={"a": 5, "arr": [9, 8, 7, 6]}, mode=Mode.FLIGHT)  # fmt: skip
        assert (bench["a"], bench["arr"], bench["b"]) == (0, [9, 8, 7, 6], 1)


def test_callbacks_run_once_per_element_in_order_and_once_for_text(make):
    bench = Bench(make, "set arr 5\nset arr[2] 6\nset long hello\nunop a idt arr[1]")
    seen = []
    for name in ("arr", "long"):
        bench.table.on_write(name, lambda param, index: seen.append((param.name, index)))
    bench.run()
    assert isinstance(bench.outcome, Done)
    assert seen == [*(("arr", index) for index in range(4)), ("arr", 2), ("long", 0), ("arr", 1)]
    assert bench["long"] == "hello"


def test_read_only_parameters_cannot_be_written(make):
    for text in ("set fixed 1", "unop a idt fixed", "binop a + b fixed"):
        bench = failed(make, text)
        assert (bench.outcome.ret, bench["fixed"]) == (Ret.ERROR, 7)
    assert ok(make, "unop fixed idt a")["a"] == 7


def test_mixed_classes(make):
    assert failed(make, "binop a + i c").outcome.ret is Ret.ERROR
    assert failed(make, "binop a + f c").outcome.ret is Ret.ERROR
    for text in ("ifelse a == i", "block a == i", "ifelse i == f", "ifelse a == text"):
        assert failed(make, text).outcome.ret is Ret.MISMATCH
    assert ok(make, "binop u8 + u16 a", values={"u8": 200, "u16": 100})["a"] == 300
    assert ok(make, "ifelse u8 == x32\nset a 1")["a"] == 1


def test_data_cannot_be_an_operand_but_can_be_set(make):
    assert failed(make, "unop raw idt a").outcome.ret is Ret.ERROR
    assert failed(make, "unop a idt raw").outcome.ret is Ret.ERROR
    assert failed(make, "ifelse raw == raw").outcome.ret is Ret.CONDITION
    assert ok(make, "set raw 0102")["raw"] == b"\1\2" + bytes(6)


def test_strings(make):
    bench = ok(make, "set long 'hi there'\nset text hi\nifelse text < long\nset a 1\nset b 1")
    assert (bench["long"], bench["a"], bench["b"]) == ("hi there", 1, 0)
    assert ok(make, "set long seven77\nunop long idt text")["text"] == "seven77"
    for text in ("set text 12345678", "set long 12345678\nunop long idt text"):
        assert failed(make, text).outcome.ret is Ret.ERROR
    assert failed(make, "unop text ++ text").outcome.ret is Ret.ERROR
    assert failed(make, "binop text + text text").outcome.ret is Ret.ERROR


def test_failed_set_keeps_the_old_value(make):
    bench = failed(make, "set a nonsense", values={"a": 5})
    assert (bench.outcome.index, bench["a"]) == (0, 5)


@pytest.mark.parametrize(
    ("values", "text", "name", "strict", "flight"),
    [
        ({"i8": -1}, "unop i8 idt i", "i", -1, 255),
        ({"u8": 255}, "unop u8 ++ a", "a", 256, 0),
        ({"u8": 255}, "unop u8 ++ u8", "u8", 0, 0),
        ({"f": 1.5}, "unop f idt a", "a", 1, 0x3FC00000),
        ({"u8": 3}, "set u16 8\nbinop u8 << u16 a", "a", 768, 0),
    ],
)
def test_modes_differ_where_the_specification_says(make, values, text, name, strict, flight):
    assert ok(make, text, values=values)[name] == strict
    assert ok(make, text, values=values, mode=Mode.FLIGHT)[name] == flight


def test_modes_differ_in_shifts_and_nan(make):
    text = "set c 64\nbinop a << c b"
    assert failed(make, text, values={"a": 9}).outcome.ret is Ret.ERROR
    assert ok(make, text, values={"a": 9}, mode=Mode.FLIGHT)["b"] == 9
    for mode, expected in ((Mode.STRICT, 1), (Mode.FLIGHT, 0)):
        values = {"d": float("nan")}
        assert ok(make, "ifelse d != f\nset a 1", values=values, mode=mode)["a"] == expected


def peer(**values):
    return table(**values)


def test_operands_of_own_addresses_are_local(make):
    bench = ok(make, "set a 5 4\nunop a idt b 9\nset c 1 0", own_nodes=frozenset({4, 9}))
    assert (bench["a"], bench["b"], bench["c"]) == (5, 5, 1)
    assert bench.world.effects == []


def test_remote_operands_take_one_pull_for_both(make):
    other = peer(a=2, b=3)
    bench = ok(make, "binop a + b c 9\nifelse a < b 9\nset a 1\nset b 1", nodes={9: other})
    assert other["c"].get() == 5
    assert (bench["a"], bench["b"], bench["c"]) == (1, 0, 0)
    kinds = [type(effect) for effect in bench.world.effects]
    assert kinds == [Pull, Resolve, Push, Pull]
    assert [read.name for read in bench.world.effects[0].reads] == ["a", "b"]


def test_which_node_reads_and_writes(make):
    other = peer(a=2)
    bench = ok(make, "unop a ++ b 9\nunop b rmt c 9\nset arr[1] 7 9\nset arr 3 9",
               nodes={9: other})  # fmt: skip
    assert bench["b"] == 3
    assert (other["c"].get(), other["b"].get(), other["arr"].get_all()) == (3, 0, [3, 3, 3, 3])


def test_remote_faults(make):
    nodes = {9: peer()}
    for text in (
        "set nope 1 9", "set a 1 8", "set fixed 1 9", "set arr[4] 1 9", "unop nope idt a 9",
        "unop arr[4] idt a 9", "set a x 9", "unop raw idt a 9", "unop a idt b[1] 9",
        "unop a rmt text 9", "set arr[x] 1 9",
    ):  # fmt: skip
        assert failed(make, text, nodes=nodes).outcome.ret is Ret.ERROR, text
    assert failed(make, "block a == nope 9", nodes=nodes).outcome.ret is Ret.CONDITION
    assert failed(make, "ifelse a == i 9", nodes=nodes).outcome.ret is Ret.MISMATCH


def test_remote_index_beyond_the_array_in_flight_mode(make):
    other = peer()
    bench = ok(make, "unop arr[4] idt a 9\nset arr[9] 1 9", nodes={9: other}, values={"a": 4},
               mode=Mode.FLIGHT)  # fmt: skip
    assert (bench["a"], other["arr"].get_all()) == (0, [0, 0, 0, 0])


def test_remote_strings(make):
    other = peer(long="remote text")
    bench = ok(make, "unop long idt long 9\nset text abc\nunop text rmt long 9\nset text xyz 9",
               nodes={9: other})  # fmt: skip
    assert bench["long"] == "remote text"
    assert (other["long"].get(), other["text"].get()) == ("abc", "xyz")


def test_block_polls_every_quarter_second_from_now_on(make):
    bench = Bench(make, "block a == one\nset b 1")
    bench.world.at.append((0.6, lambda: bench.table["a"].set(1)))
    bench.run()
    assert isinstance(bench.outcome, Done)
    waits = [effect.until for effect in bench.world.effects if isinstance(effect, Wait)]
    assert (waits, bench["b"]) == ([0.25, 0.5, 0.75], 1)
    assert ok(make, "block one == one").world.effects == []


def test_block_times_out_at_the_first_poll_after_the_limit(make):
    bench = failed(make, "noop\nblock a == one", block_timeout_s=1.2)
    assert (bench.outcome.ret, bench.outcome.index, bench.world.now) == (Ret.ERROR, 1, 1.25)
    assert failed(make, "block a == one").world.now == 5000.0


def test_block_on_a_remote_node_pulls_once_per_poll(make):
    other = peer()
    bench = Bench(make, "block a == b 9", nodes={9: other}, values={})
    other["a"].set(5)
    bench.world.at.append((0.3, lambda: other["b"].set(5)))
    bench.run()
    assert isinstance(bench.outcome, Done)
    kinds = [type(effect) for effect in bench.world.effects]
    assert kinds == [Pull, Wait, Pull, Wait, Pull]


def test_slices_bound_how_long_a_busy_loop_computes(make):
    bench = Bench(make, {0: "call 0"}, slice_instructions=100)
    engine = bench.make()
    for turn in range(1, 5):
        assert engine.step(None, 0.0) == Slice()
        assert 100 * turn <= engine.executed <= 100 * turn + 300
        assert engine.position.slot == 0


def test_budget_ends_an_endless_loop(make):
    bench = failed(make, {0: "noop\ncall 0"}, budget=1000)
    assert bench.outcome.ret is Ret.BUDGET
    assert bench.engine.executed <= 1000


def test_position_names_the_instruction_that_waits(make):
    bench = Bench(make, {0: "noop\ncall 1\nnoop\nset a 1", 1: "noop\nblock a == one"})
    engine = bench.make()
    assert isinstance(engine.step(None, 0.0), Wait)
    assert (engine.position.slot, engine.position.index, engine.position.depth) == (1, 1, 1)
