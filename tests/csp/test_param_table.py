"""The parameter table: typed storage, checks, callbacks, sharing with forked children."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import MisuseError
from csp.param.errors import (
    BadIndex,
    OutOfRange,
    ParamError,
    ReadOnlyParam,
    SpecError,
    TypeMismatch,
    UnknownParam,
)
from csp.param.table import ParamSpec, ParamTable
from csp.param.types import TYPE_BY_LABEL, TYPES, Mask, ParamType


def make_table() -> ParamTable:
    """One parameter of each type, an array of each type, and some special ones."""
    specs = [ParamSpec(id=row.type, name=f"one_{row.label}", type=row.type) for row in TYPES[:14]]
    specs += [
        ParamSpec(id=100 + row.type, name=f"many_{row.label}", type=row.type, array_size=5)
        for row in TYPES[:14]
    ]
    specs += [
        ParamSpec(id=14, name="text", type=ParamType.STRING, array_size=8),
        ParamSpec(id=15, name="data", type=ParamType.DATA, array_size=6),
        ParamSpec(id=1100, name="fixed", type=ParamType.U8, mask=Mask.READONLY, default=7),
    ]
    return ParamTable(specs)


def test_type_table_is_indexed_by_number_and_has_the_names_csh_shows():
    assert [row.type for row in TYPES] == list(range(16))
    labels = "u08 u16 u32 u64 i08 i16 i32 i64 x08 x16 x32 x64 flt dbl str dat"
    assert list(TYPE_BY_LABEL) == labels.split()
    assert [row.size for row in TYPES] == [1, 2, 4, 8] * 3 + [4, 8, 1, 1]


@pytest.mark.parametrize("row", [row for row in TYPES if row.is_integer], ids=lambda row: row.label)
@pytest.mark.parametrize("method", ["set", "write"])
def test_integer_limits_are_stored_and_beyond_is_refused(row, method):
    table = make_table()
    parameter = table[f"one_{row.label}"]
    store = getattr(parameter, method)
    for value in (row.low, row.high, 0, 1):
        store(value)
        assert parameter.get() == value
        assert parameter.get_all() == value
    for value in (row.low - 1, row.high + 1, 1 << 70):
        with pytest.raises(OutOfRange):
            store(value)
    for wrong in (1.5, "1", b"1", None):
        with pytest.raises(TypeMismatch):
            store(wrong)
    assert parameter.get() == 1


def test_neighbours_stay_untouched_when_every_parameter_is_filled():
    table = make_table()
    for parameter in table:
        before = {other.name: other.get_all() for other in table if other is not parameter}
        value = "x" if parameter.name == "text" else b"x" * 6 if parameter.name == "data" else 1
        parameter.set(value)
        assert {o.name: o.get_all() for o in table if o is not parameter} == before


FLOATS = make_table()


@given(st.floats(width=32), st.floats())
def test_floats_round_to_their_width(single, double):
    for name, value in (("one_flt", single), ("one_dbl", double)):
        FLOATS[name].set(value)
        got = FLOATS[name].get()
        assert got == value or (math.isnan(got) and math.isnan(value))


@pytest.mark.parametrize(
    ("value", "fits"),
    [(3.4028234663852886e38, True), (3.40282351e38, True), (3.4028236e38, False), (1e300, False),
     (-1e300, False), (math.inf, True), (-math.inf, True)],
)  # fmt: skip
def test_client_float_too_big_for_single_is_refused_and_owner_gets_infinity(value, fits):
    parameter = make_table()["one_flt"]
    if fits:
        parameter.write(value)
    else:
        with pytest.raises(OutOfRange):
            parameter.write(value)
        parameter.set(value)
        assert parameter.get() == math.copysign(math.inf, value)


def test_scalar_without_index_fills_an_array_and_list_writes_from_the_start():
    parameter = make_table()["many_i16"]
    parameter.set(-3)
    assert parameter.get_all() == [-3] * 5
    parameter.set([1, 2])
    assert parameter.get_all() == [1, 2, -3, -3, -3]
    parameter.set([7, 8], index=3)
    assert parameter.get_all() == [1, 2, -3, 7, 8]
    parameter.set(9, index=1)
    assert parameter.get(1) == 9


@pytest.mark.parametrize("bad", [[1, 2, 3, 4, 5, 6], [1, 2, 40000], [1, "x"], [1, [2]]])
def test_bad_list_leaves_the_array_as_it_was(bad):
    parameter = make_table()["many_i16"]
    parameter.set([5, 4, 3, 2, 1])
    with pytest.raises(ParamError):
        parameter.write(bad)
    assert parameter.get_all() == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("index", [-1, 5, 6, 255, 1 << 40])
def test_index_outside_the_array_is_refused_for_get_and_set(index):
    parameter = make_table()["many_u08"]
    with pytest.raises(BadIndex):
        parameter.get(index)
    with pytest.raises(BadIndex):
        parameter.set(1, index)
    with pytest.raises(ParamError):
        parameter.set([1], index)


def test_text_keeps_room_for_its_nul_and_clears_the_rest():
    text = make_table()["text"]
    text.set("abcdefg")
    assert text.get() == "abcdefg"
    text.set("ä€")
    assert text.get_all() == "ä€"
    text.set("x", index=0)
    assert bytes(text.view[text.base : text.base + text.count]) == b"x" + bytes(7)
    for bad, error in (("abcdefgh", OutOfRange), (5, TypeMismatch), (b"a", TypeMismatch)):
        with pytest.raises(error):
            text.set(bad)
    with pytest.raises(OutOfRange):
        text.set("a\0b")
    with pytest.raises(BadIndex):
        text.set("a", 1)
    with pytest.raises(BadIndex):
        text.get(1)
    assert text.get() == "x"


def test_text_that_is_not_utf8_survives_a_read_and_a_write_back():
    text = make_table()["text"]
    text.view[text.base : text.base + 4] = b"\xff\xfe\x80\0"
    text.set(text.get())
    assert bytes(text.view[text.base : text.base + 4]) == b"\xff\xfe\x80\0"


def test_short_data_clears_the_rest_and_long_data_is_refused():
    data = make_table()["data"]
    data.set(b"\xaa" * 6)
    data.set(bytearray(b"\x01\x00\x02"))
    assert data.get() == b"\x01\x00\x02\0\0\0"
    with pytest.raises(OutOfRange):
        data.set(bytes(7))
    with pytest.raises(TypeMismatch):
        data.set("text")


def test_read_only_is_enforced_for_clients_only():
    fixed = make_table()["fixed"]
    with pytest.raises(ReadOnlyParam):
        fixed.write(1)
    assert fixed.get() == 7
    fixed.set(8)
    assert fixed.get() == 8


def test_callbacks_run_after_the_store_once_per_element_and_not_for_the_owner():
    table = make_table()
    seen = []
    for name in ("many_u16", "one_u16", "text"):
        table.on_write(name, lambda p, index: seen.append((p.name, index, p.get(index))))
    table["many_u16"].write(6)
    table["one_u16"].write(5)
    table["text"].write("hey")
    assert seen == [("many_u16", i, 6) for i in range(5)] + [("one_u16", 0, 5), ("text", 0, "hey")]
    seen.clear()
    table["many_u16"].write([1, 2], index=2)
    assert seen == [("many_u16", 2, 1), ("many_u16", 3, 2)]
    seen.clear()
    table["many_u16"].set(1)
    with pytest.raises(OutOfRange):
        table["many_u16"].write([1, 1 << 16])
    assert seen == []


def test_change_hook_hears_every_store_before_the_callbacks():
    table = make_table()
    seen = []
    table.on_change(lambda p, first, stop: seen.append((p.name, first, stop)))
    table.on_write("many_u32", lambda p, index: seen.append(("callback", index)))
    table["many_u32"].set(1, index=4)
    table["many_u32"].write(1, index=4)
    table["text"].set("a")
    assert seen == [
        ("many_u32", 4, 5), ("many_u32", 4, 5), ("callback", 4), ("text", 0, 1)
    ]  # fmt: skip


def test_callback_may_clamp_the_value_it_was_called_for():
    table = make_table()
    table.on_write("one_u08", lambda p, index: p.set(min(p.get(), 10)))
    table["one_u08"].write(200)
    assert table["one_u08"].get() == 10


def test_lookup_by_name_and_id_and_unknown_ones():
    table = make_table()
    assert table["fixed"] is table.by_id(1100) is table.find_id(1100)
    assert "fixed" in table
    assert "nothing" not in table
    assert table.find_id(4000) is None
    assert len(table) == len(list(table)) == 31
    with pytest.raises(UnknownParam):
        table["nothing"]
    with pytest.raises(UnknownParam):
        table.by_id(4000)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": -1}, {"id": 65536}, {"array_size": 0}, {"array_size": 255}, {"name": ""},
        {"name": "a" * 36}, {"name": "a b"}, {"name": "a\0"}, {"name": "ä" * 18},
        {"unit": "u" * 10}, {"help": "h" * 150}, {"help": "a\0b"}, {"area": "x"}, {"address": 4},
        {"area": "x", "address": -1},
    ],
)  # fmt: skip
def test_spec_that_does_not_fit_the_wire_is_refused(changes):
    with pytest.raises(SpecError):
        ParamSpec(**{"id": 1, "name": "a", "type": ParamType.U8, **changes})


def test_spec_limits_themselves_are_accepted():
    ParamSpec(
        id=65535, name="n" * 35, type=ParamType.U64, array_size=254, unit="u" * 9, help="h" * 149
    )


def test_duplicates_and_bad_defaults_are_refused():
    one = ParamSpec(id=1, name="a", type=ParamType.U8)
    for specs in (
        [one, ParamSpec(id=1, name="b", type=ParamType.U8)],
        [one, ParamSpec(id=2, name="a", type=ParamType.U8)],
        [ParamSpec(id=1, name="a", type=ParamType.U8, default=256)],
        [ParamSpec(id=1, name="a", type=ParamType.U8, default="x")],
    ):
        with pytest.raises(SpecError):
            ParamTable(specs)


def test_param_errors_are_misuse_errors():
    assert issubclass(ParamError, MisuseError)


def test_forked_child_and_parent_see_each_others_stores():
    table = make_table()
    table["many_u64"].set(5)
    to_child, to_parent = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if table["many_u64"].get(2) == 5 and os.read(to_child[0], 1):
                code = 0 if table["many_u64"].get(3) == 99 else 2
            view, base = table["one_i32"].view, table["one_i32"].base
            view[base] = -42
            table["text"].store("child")
            os.write(to_parent[1], b"x")
        finally:
            os._exit(code)
    table["many_u64"].set(99, index=3)
    os.write(to_child[1], b"x")
    os.read(to_parent[0], 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert table["one_i32"].get() == -42
    assert table["text"].get() == "child"
    for descriptor in (*to_child, *to_parent):
        os.close(descriptor)


def test_empty_table_is_fine():
    assert list(ParamTable([])) == []


def test_needs_owner_says_whether_a_store_by_a_child_must_be_reported():
    table = ParamTable(
        [
            ParamSpec(id=1, name="plain", type=ParamType.U8),
            ParamSpec(id=2, name="kept", type=ParamType.U8, area="a", address=0),
            ParamSpec(id=3, name="heard", type=ParamType.U8),
        ]
    )
    table.on_write("heard", lambda p, index: None)
    assert [p.needs_owner for p in table] == [False, True, True]
