"""The parameter server: captured exchanges, semantics of pull and push, hostile packets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from csp.errors import MisuseError
from csp.param.codec import Item, QueueWriter, decode_queue
from csp.param.entry import decode_entry
from csp.param.msgpack import encode_value
from csp.param.server import REFUSALS_KEPT, ParamServer
from csp.param.table import ParamSpec, ParamTable
from csp.param.types import TYPES, Mask, ParamType

VECTORS = json.loads((Path(__file__).parent / "param_vectors.json").read_text())
OWN = 9


def spec(number, name, kind, **kwargs):
    return ParamSpec(id=number, name=name, type=kind, mask=kwargs.pop("mask", Mask.CONF), **kwargs)


def make_table():
    return ParamTable(
        [
            spec(1, "t_u8", ParamType.U8, unit="V", help="unsigned 8 bit"),
            spec(2, "t_i16", ParamType.I16),
            spec(11, "t_f", ParamType.FLOAT, unit="degC"),
            spec(12, "t_d", ParamType.DOUBLE),
            spec(14, "t_str", ParamType.STRING, array_size=16),
            spec(15, "t_dat", ParamType.DATA, array_size=8),
            spec(16, "t_arr16", ParamType.U16, array_size=16, default=[100 * i for i in range(16)]),
            spec(17, "t_long", ParamType.U64, array_size=200),
            spec(18, "t_ro", ParamType.U8, mask=Mask.READONLY | Mask.TELEM, default=5),
            spec(19, "t_hw", ParamType.U32, mask=Mask.HWREG),
            spec(20, "t_hidden", ParamType.U8, mask=Mask.HIDDEN | Mask.CONF),
            spec(21, "t_config", ParamType.DATA, array_size=188),
            spec(1100, "t_far", ParamType.U32, area="storage", address=0),
        ]
    )


def make_server(**kwargs):
    return ParamServer(make_table(), {OWN}, storage_kinds={"storage": 7}, **kwargs)


def queue(*items, version=2, node=OWN):
    """Each item is (id, index, type or None, value)."""
    writer = QueueWriter(version, limit=10_000)
    for number, index, kind, value in items:
        raw = b"" if kind is None else encode_value(TYPES[kind], value)
        assert writer.add(number, node=node, index=index, value=raw)
    return writer.take()


def pull(server, *items, node=OWN):
    items = [(number, index, None, None) for number, index in items]
    return server.answer(b"\x05\x00" + queue(*items, node=node))


def push(server, *items, flags=1, node=OWN):
    return server.answer(bytes((7, flags)) + queue(*items, node=node))


def values(packets):
    """Decode response packets, checking type, node and END flags."""
    result = {}
    for position, packet in enumerate(packets):
        assert packet[0] == 6
        assert packet[1] == (0x80 if position == len(packets) - 1 else 0)
        assert len(packet) <= 202
        for item in decode_queue(packet[2:], has_values=True):
            assert item.node == 0
            result[item.id, item.index] = item.value
    return result


@pytest.mark.parametrize("vector", VECTORS["exchanges"], ids=lambda v: v["name"])
def test_captured_exchange_gives_the_captured_answer(vector):
    answers = make_server().answer(bytes.fromhex(vector["request"]))
    assert [answer.hex() for answer in answers] == vector["responses"]


def test_pull_returns_what_exists_and_skips_the_rest():
    server = make_server()
    assert values(pull(server, (18, None), (999, None), (16, 3), (16, 16), (16, 127))) == {
        (18, None): 5,
        (16, 3): 300,
    }
    assert pull(server, (999, None)) == [b"\x06\x80"]
    assert server.answer(b"\x05\x00") == [b"\x06\x80"]
    assert server.counters.items_refused == 4


@pytest.mark.parametrize(("node", "found"), [(0, True), (OWN, True), (10, False), (16383, False)])
def test_only_node_0_and_the_own_address_are_served(node, found):
    server = make_server()
    assert bool(values(pull(server, (18, None), node=node))) is found
    assert bool(push(server, (1, None, 0, 7), node=node)) is found
    assert (server.table["t_u8"].get() == 7) is found


def test_item_without_any_node_is_not_resolvable():
    assert make_server().answer(bytes.fromhex("0500cd0100")) == [b"\x06\x80"]


def test_long_response_is_split_at_200_bytes_and_each_packet_names_the_node():
    server = make_server()
    server.table["t_config"].set(bytes(range(188)))
    server.table["t_str"].set("hello")
    packets = pull(server, (16, None), (21, None), (14, None), (11, None))
    assert len(packets) == 3
    got = values(packets)
    assert got[21, None] == bytes(range(188))
    assert got[14, None] == "hello"


def test_value_that_fits_no_packet_is_left_out_and_counted():
    server = make_server()
    server.table["t_long"].set((1 << 64) - 1)
    assert values(pull(server, (17, None), (18, None))) == {(18, None): 5}
    assert "do not fit" in server.refusals[-1].reason


def test_pull_all_obeys_masks_hides_the_hidden_and_keeps_table_order():
    server = make_server()

    def ids(include, exclude):
        request = b"\x08\0\0\0" + include.to_bytes(4, "big") + exclude.to_bytes(4, "big")
        return [number for number, _ in values(server.answer(request))]

    everything = [parameter.id for parameter in server.table if parameter.name != "t_hidden"]
    assert ids(0xFFFFFFFF, 0) == [i for i in everything if i != 17]
    assert 19 not in ids(0xFFFFFFFF, 0x12)
    assert ids(Mask.TELEM, 0) == [18]
    assert ids(0, 0) == []
    assert values(pull(server, (20, None))) == {(20, None): 0}


def test_short_pull_all_is_refused():
    server = make_server()
    assert server.answer(b"\x08\0\0\0\xff\xff\xff\xff") == []
    assert server.counters.packets_refused == 1


def test_push_answers_by_flag():
    server = make_server()
    assert push(server, (1, None, 0, 5), flags=0) == [b"\x03\x80"]
    assert values(push(server, (1, None, 0, 6), flags=1)) == {(1, None): 6}
    assert push(server, (1, None, 0, 7), flags=0x40) == []
    assert push(server, (1, None, 0, 8), flags=0x41) == []
    assert server.table["t_u8"].get() == 8


def test_acknowledgement_has_whole_values_once_per_parameter_after_callbacks():
    server = make_server()
    server.table.on_write("t_u8", lambda p, index: p.set(min(p.get(), 100)))
    answer = push(server, (16, 0, 1, 7), (1, 0, 0, 200), (16, 1, 1, 8))
    got = values(answer)
    assert list(got) == [(16, None), (1, None)]
    assert got[16, None][:3] == [7, 8, 200]
    assert got[1, None] == 100


def test_acknowledgement_longer_than_a_packet_is_split():
    server = make_server()
    answer = push(server, (21, None, 15, bytes(188)), (16, None, 1, [60000] * 16))
    assert len(answer) == 2
    assert set(values(answer)) == {(21, None), (16, None)}


REFUSED = [
    (1, None, 0, 256),
    (1, None, 4, -1),
    (1, None, 12, 1.0),
    (1, None, 14, "1"),
    (1, 1, 0, 1),
    (2, None, 0, 32768),
    (2, None, 4, -32769),
    (11, None, 14, "1.5"),
    (11, None, 13, 1e300),
    (14, None, 14, "x" * 16),
    (14, None, 15, b"x"),
    (14, 1, 14, "x"),
    (15, None, 15, bytes(9)),
    (15, None, 14, "x"),
    (16, None, 1, [0] * 17),
    (16, 15, 1, [1, 2]),
    (16, 16, 1, 1),
    (16, 0, 0, [1, 2, 70000]),
    (16, None, 12, [1.5]),
    (18, None, 0, 1),
    (999, None, 0, 1),
]


@pytest.mark.parametrize("bad", REFUSED, ids=str)
def test_refused_item_gets_no_answer_and_the_others_are_applied(bad):
    server = make_server()
    before = {p.name: p.get_all() for p in server.table}
    assert push(server, (12, None, 13, 2.5), bad, (19, None, 2, 77)) == []
    after = {p.name: p.get_all() for p in server.table}
    assert after == before | {"t_d": 2.5, "t_hw": 77}
    assert server.counters.items_refused == 1
    assert server.refusals[-1].id == bad[0]


def test_element_above_127_is_negative_and_refused():
    server = make_server()
    raw = bytearray(b"\x07\x01" + queue((17, 100, 3, 1)))
    raw[5] = 200
    assert server.answer(bytes(raw)) == []
    assert server.table["t_long"].get_all() == [0] * 200
    assert "-56" in server.refusals[-1].reason


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ((11, None, 13, 0.1), "t_f", 0.10000000149011612),
        ((11, None, 0, 3), "t_f", 3.0),
        ((12, None, 4, -3), "t_d", -3.0),
        ((14, 0, 14, "hi"), "t_str", "hi"),
        ((15, None, 15, b"ab"), "t_dat", b"ab\0\0\0\0\0\0"),
        ((16, None, 1, 9), "t_arr16", [9] + [100 * i for i in range(1, 16)]),
        ((16, None, 1, [9, 8]), "t_arr16", [9, 8] + [100 * i for i in range(2, 16)]),
        ((16, 14, 1, [9, 8]), "t_arr16", [100 * i for i in range(14)] + [9, 8]),
        ((2, None, 4, -32768), "t_i16", -32768),
    ],
    ids=str,
)
def test_accepted_forms(item, name, value):
    server = make_server()
    assert push(server, item)
    assert server.table[name].get_all() == value


def test_malformed_push_is_refused_as_a_whole():
    server = make_server()
    good = b"\x07\x01" + queue((1, None, 0, 200), (2, None, 4, -300))
    for size in range(2, len(good)):
        server.table["t_u8"].set(0)
        answers = server.answer(good[:size])
        if answers == []:
            assert server.table["t_u8"].get() == 0
    assert server.counters.packets_refused > 0


def test_callbacks_run_per_element_and_data_once():
    server = make_server()
    seen = []
    for name in ("t_arr16", "t_config", "t_u8"):
        server.table.on_write(name, lambda p, index: seen.append((p.name, index)))
    push(server, (16, 3, 1, [1, 2]), (21, None, 15, bytes(188)), (1, 0, 0, 1))
    assert seen == [("t_arr16", 3), ("t_arr16", 4), ("t_config", 0), ("t_u8", 0)]


def test_commit_runs_once_per_packet_after_the_callbacks_and_its_failure_means_no_answer():
    log = []

    def commit():
        log.append("commit")
        if len(log) > 2:
            raise MisuseError("disk full")

    server = make_server(commit=commit)
    server.table.on_write("t_u8", lambda p, index: log.append("callback"))
    assert push(server, (1, None, 0, 1), (2, None, 4, 1))
    assert log == ["callback", "commit"]
    assert push(server, (1, None, 0, 2)) == []
    assert "disk full" in server.refusals[-1].reason
    log.clear()
    pull(server, (1, None))
    push(server, (999, None, 0, 1))
    assert log == []


def test_push_with_hardware_id():
    server = make_server(hardware_id=lambda: -2)
    body = queue((1, None, 0, 3))
    assert server.answer(b"\x21\x00" + body + (0xFFFFFFFE).to_bytes(4, "little")) == [b"\x03\x80"]
    assert server.answer(b"\x21\x00" + body + (1234).to_bytes(4, "little")) == [b"\x03\x80"]
    assert server.answer(b"\x21\x00" + body + (5).to_bytes(4, "little")) == []
    assert server.answer(b"\x21\x00abc") == []
    assert make_server().answer(b"\x21\x00" + body + bytes(4)) == []


def test_version_1_requests():
    server = make_server()
    body = queue((1, None, None, None), (16, 2, None, None), version=1)
    (answer,) = server.answer(b"\x00\x00" + body)
    assert answer[:2] == b"\x01\x80"
    assert decode_queue(answer[2:], 1, has_values=True) == [
        Item(id=1, node=0, value=0),
        Item(id=16, node=0, index=2, value=200),
    ]
    assert server.answer(b"\x02\x01" + queue((1, None, 0, 44), version=1)) == [b"\x03\x80"]
    assert server.table["t_u8"].get() == 44
    answers = server.answer(b"\x04\0\0\0\xff\xff\xff\xff")
    got = [i.id for a in answers for i in decode_queue(a[2:], 1, has_values=True)]
    assert 16 in got
    assert 1100 not in got
    assert answers[-1][1] == 0x80


def test_version_1_node_field_has_only_the_low_bits_of_a_big_address():
    server = ParamServer(make_table(), {162})
    body = queue((1, None, None, None), version=1, node=162 & 31)
    assert len(server.answer(b"\x00\x00" + body)[0]) > 2


def test_responses_of_others_and_unknown_types_get_no_answer():
    server = make_server()
    for kind in (1, 3, 6):
        assert server.answer(bytes((kind, 0x80)) + queue((1, None, 0, 9))) == []
    assert server.counters.packets_refused == 0
    for kind in (9, 14, 21, 32, 200):
        assert server.answer(bytes((kind, 0))) == []
    for short in (b"", b"\x05"):
        assert server.answer(short) == []
    assert server.table["t_u8"].get() == 0


def test_refusals_are_bounded():
    server = make_server()
    for _ in range(REFUSALS_KEPT * 2):
        server.answer(b"")
    assert len(server.refusals) == REFUSALS_KEPT
    assert server.counters.packets_refused == REFUSALS_KEPT * 2


@settings(max_examples=300)
@given(st.binary(max_size=120), st.sampled_from([0, 2, 4, 5, 7, 8, 33]))
def test_any_bytes_are_survived_and_read_only_stays(body, kind):
    server = make_server()
    for answer in server.answer(bytes((kind,)) + body) + server.answer(body):
        assert answer[0] in (1, 3, 6)
    assert server.table["t_ro"].get() == 5


def test_every_bit_flip_of_a_push_is_survived():
    good = b"\x07\x01" + queue((1, 0, 0, 7), (14, None, 14, "text"), (16, None, 1, [1] * 16))
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        server = make_server()
        server.answer(bytes(flipped))
        assert server.table["t_ro"].get() == 5


def test_list_has_all_but_the_hidden_in_order_with_storage_kind():
    server = make_server()
    entries = [decode_entry(raw) for raw in server.entries()]
    assert [e.spec.id for e in entries] == [1, 2, 11, 12, 14, 15, 16, 17, 18, 19, 21, 1100]
    assert server.entries()[0].hex() == VECTORS["entries"][0]["hex"]
    assert entries[-1].storage == 7
    assert entries[0].storage == 0


class ServerModel(RuleBasedStateMachine):
    """Against a dictionary of lists: whatever is pushed, pulls give the model's values."""

    def __init__(self):
        super().__init__()
        self.server = make_server()
        self.model = {2: [0], 12: [0.0], 16: [100 * i for i in range(16)]}
        self.kinds = {2: ParamType.I16, 12: ParamType.DOUBLE, 16: ParamType.U16}
        self.limits = {2: (-32768, 32767), 12: (-1e308, 1e308), 16: (0, 65535)}

    @rule(
        number=st.sampled_from([2, 12, 16, 18, 500]),
        index=st.none() | st.integers(0, 20),
        values=st.lists(st.integers(-70000, 70000), min_size=1, max_size=18),
        as_list=st.booleans(),
    )
    def push(self, number, index, values, as_list):
        value = values if as_list else values[0]
        answers = push(self.server, (number, index, ParamType.I64, value))
        first, new = index or 0, values if as_list else values[:1]
        current = self.model.get(number, [])
        low, high = self.limits.get(number, (0, 0))
        fits = first < len(current) and first + len(new) <= len(current)
        if fits and all(low <= v <= high for v in new):
            current[first : first + len(new)] = new
            got = values_of(answers)[number, None]
            assert got == (current if len(current) > 1 else current[0])
        else:
            assert answers == []

    @invariant()
    def pulls_give_the_model(self):
        got = values_of(pull(self.server, (2, None), (12, None), (16, None)))
        assert got == {(2, None): self.model[2][0], (12, None): self.model[12][0],
                       (16, None): self.model[16]}  # fmt: skip


values_of = values
ServerModel.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestServerModel = ServerModel.TestCase
