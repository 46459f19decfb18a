"""Parameter client against parameter server over two stacks in virtual time, with losses."""

from __future__ import annotations

import random

import pytest

from csp.errors import DecodeError, NoResponse, Refused
from csp.param.client import ParamClient, PullItem, PushItem, RemoteParam
from csp.param.codec import LIST_PORT, PARAM_PORT
from csp.param.errors import (
    BadIndex,
    OutOfRange,
    ParamError,
    ReadOnlyParam,
    TypeMismatch,
    UnknownParam,
)
from csp.param.remote import RemoteTable
from csp.param.server import ParamServer
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import TYPES, Mask, ParamType
from csp.sched import Scheduler
from csp.stack import Stack

CLIENT, SERVER = 20, 9


def make_specs():
    specs = [
        ParamSpec(id=row.type + 1, name=f"one_{row.label}", type=row.type, mask=Mask.CONF)
        for row in TYPES[:14]
    ]
    return [
        *specs,
        ParamSpec(id=20, name="text", type=ParamType.STRING, array_size=32, mask=Mask.CONF),
        ParamSpec(id=21, name="data", type=ParamType.DATA, array_size=188, mask=Mask.CONF),
        ParamSpec(id=22, name="many", type=ParamType.U32, array_size=32, mask=Mask.CONF),
        ParamSpec(id=23, name="big", type=ParamType.U64, array_size=120, mask=Mask.HWREG),
        ParamSpec(
            id=24, name="fixed", type=ParamType.U8, mask=Mask.READONLY | Mask.TELEM, default=3
        ),
        ParamSpec(id=1100, name="far", type=ParamType.FLOAT, mask=Mask.TELEM, help="far away"),
    ]


class Link:
    """Two stacks joined by a cable that can drop, count and delay."""

    def __init__(self, specs=None):
        self.scheduler = Scheduler()
        self.frames = 0
        self.drop = lambda number, frame: False
        self.stacks = [Stack(self.scheduler, rng=random.Random(n)) for n in (1, 2)]
        self.interfaces = [
            self.stacks[0].add_interface("link", CLIENT, self.sender(1)),
            self.stacks[1].add_interface("link", SERVER, self.sender(0)),
        ]
        self.serve(make_specs() if specs is None else specs)
        self.stacks[1].bind(PARAM_PORT, lambda p: self.server.handle(p), crc_required=True)
        self.stacks[1].listen(LIST_PORT, lambda c: self.server.serve_list(c))
        self.client = ParamClient(self.stacks[0])
        self.remote = RemoteTable(self.client)

    def serve(self, specs):
        self.table = ParamTable(specs)
        self.server = ParamServer(self.table, {SERVER})

    def sender(self, target):
        def send(frame):
            self.frames += 1
            if not self.drop(self.frames, frame):
                self.scheduler.call_later(
                    0.01, lambda: self.stacks[target].receive(self.interfaces[target], frame)
                )

        return send

    def run(self, coro):
        return self.scheduler.run_virtual(self.scheduler.spawn(coro))


def remote(number, kind, **kwargs):
    return RemoteParam(
        spec=ParamSpec(id=number, name=f"p{number}", type=kind, **kwargs), node=SERVER
    )


def test_list_download_gives_every_parameter_in_order():
    link = Link()
    params = link.run(link.client.download_list(SERVER))
    assert [p.spec for p in params] == [
        ParamSpec(
            id=p.id, name=p.name, type=p.spec.type, array_size=p.count, mask=p.spec.mask,
            unit=p.spec.unit, help=p.spec.help,
        )
        for p in link.table
    ]  # fmt: skip
    assert {p.node for p in params} == {SERVER}
    link.scheduler.run_virtual(link.scheduler.sleep(30))
    assert len(link.stacks[0].connections) == len(link.stacks[1].connections) == 0


def test_list_download_over_a_lossy_link_is_complete():
    link = Link()
    rng = random.Random(7)
    link.drop = lambda number, frame: rng.random() < 0.2
    assert len(link.run(link.client.download_list(SERVER))) == len(link.table)


def test_list_download_from_nobody_raises_no_response():
    link = Link()
    with pytest.raises(NoResponse):
        link.run(link.client.download_list(33))


def sample(parameter):
    row = parameter.row
    if parameter.name == "text":
        return "Grüße"
    if parameter.name == "data":
        return bytes(range(188))
    one = row.high if row.is_integer else 0.5
    return [one] * parameter.count if parameter.count > 1 else one


def test_every_type_is_pushed_pulled_and_returned():
    link = Link()
    params = link.run(link.client.download_list(SERVER))
    writable = [p for p in params if not p.spec.mask & Mask.READONLY and p.spec.name != "big"]
    wanted = [sample(link.table[p.spec.name]) for p in writable]
    pushes = [PushItem(param=p, value=v) for p, v in zip(writable, wanted, strict=True)]
    assert link.run(link.client.push(SERVER, pushes)) == wanted
    assert [link.table[p.spec.name].get_all() for p in writable] == wanted
    assert link.run(link.client.pull(SERVER, [PullItem(param=p) for p in writable])) == wanted
    got = link.run(link.client.pull_all(SERVER))
    assert got == {p.spec.id: v for p, v in zip(writable, wanted, strict=True)} | {24: 3}


def test_bare_ids_single_elements_and_many_items_in_split_requests():
    link = Link()
    link.table["many"].set(list(range(32)))
    items = [PullItem(param=22, index=i % 32) for i in range(127)] + [PullItem(param=24)]
    got = link.run(link.client.pull(SERVER, items))
    assert got == [i % 32 for i in range(127)] + [3]
    many = remote(22, ParamType.U32, array_size=32)
    items = [PullItem(param=many, index=i) for i in range(32)] * 2
    assert link.run(link.client.pull(SERVER, items)) == list(range(32)) * 2


def test_long_array_is_pushed_in_pieces():
    link = Link()
    big = remote(23, ParamType.U64, array_size=120)
    values = [(1 << 63) + i for i in range(120)]
    assert (
        link.run(link.client.push(SERVER, [PushItem(param=big, value=values)], ack=False)) is None
    )
    assert link.table["big"].get_all() == values


def test_push_of_a_slice_returns_that_slice_as_stored():
    link = Link()
    many = remote(22, ParamType.U32, array_size=32)
    link.table.on_write("many", lambda p, i: p.set(min(p.get(i), 50), i))
    push = link.client.push(SERVER, [PushItem(param=many, value=[40, 60], index=2)])
    assert link.run(push) == [[40, 50]]
    push = link.client.push(SERVER, [PushItem(param=many, value=70, index=5)])
    assert link.run(push) == [50]
    assert link.table["many"].get_all()[:6] == [0, 0, 40, 50, 0, 50]


@pytest.mark.parametrize(
    ("param", "value", "index", "error"),
    [
        (remote(1, ParamType.U8), 256, None, OutOfRange),
        (remote(1, ParamType.U8), 1.5, None, TypeMismatch),
        (remote(1, ParamType.U8), "1", None, TypeMismatch),
        (remote(1, ParamType.U8), 1, 1, BadIndex),
        (remote(13, ParamType.FLOAT), 1e39, None, OutOfRange),
        (remote(13, ParamType.FLOAT), "x", None, TypeMismatch),
        (remote(20, ParamType.STRING, array_size=4), "four", None, OutOfRange),
        (remote(20, ParamType.STRING, array_size=4), b"x", None, TypeMismatch),
        (remote(21, ParamType.DATA, array_size=4), bytes(5), None, OutOfRange),
        (remote(21, ParamType.DATA, array_size=4), "x", None, TypeMismatch),
        (remote(21, ParamType.DATA, array_size=4), b"", 1, BadIndex),
        (remote(22, ParamType.U32, array_size=4), [1, 2], 3, OutOfRange),
    ],
)
def test_value_that_does_not_fit_is_refused_before_anything_is_sent(param, value, index, error):
    link = Link()
    with pytest.raises(error):
        link.run(link.client.push(SERVER, [PushItem(param=param, value=value, index=index)]))
    assert issubclass(error, ParamError)
    assert link.frames == 0


def test_unknown_and_refused_items_are_errors_not_hangs():
    link = Link()
    with pytest.raises(Refused):
        link.run(link.client.pull(SERVER, [PullItem(param=24), PullItem(param=777)]))
    fixed = PushItem(param=remote(24, ParamType.U8), value=1)
    start = link.scheduler.now
    with pytest.raises(NoResponse):
        link.run(link.client.push(SERVER, [fixed]))
    assert link.scheduler.now - start < 1.1
    assert link.client.counters.pushes == 1


def test_lost_pull_is_repeated_and_lost_push_is_not():
    link = Link()
    link.drop = lambda number, frame: number in (1, 3)
    assert link.run(link.client.pull(SERVER, [PullItem(param=24)])) == [3]
    assert link.client.counters.retries == 2
    link.drop = lambda number, frame: True
    with pytest.raises(NoResponse):
        link.run(link.client.pull(SERVER, [PullItem(param=24)]))
    link.frames = 0
    push = PushItem(param=remote(1, ParamType.U8), value=1)
    with pytest.raises(NoResponse):
        link.run(link.client.push(SERVER, [push]))
    assert link.frames == 1


def test_lost_response_packet_in_the_middle_is_asked_for_again():
    link = Link()
    items = [PullItem(param=n) for n in (21, 22, 24)]
    link.drop = lambda number, frame: number == 2
    got = link.run(link.client.pull(SERVER, items))
    assert got == [bytes(188), [0] * 32, 3]


def test_value_of_another_type_than_listed_is_a_decode_error():
    link = Link()
    for param in (
        remote(1, ParamType.STRING, array_size=9), remote(20, ParamType.U8),
        remote(22, ParamType.U32, array_size=5), remote(21, ParamType.STRING, array_size=9),
        remote(13, ParamType.U16), remote(20, ParamType.DATA, array_size=9),
    ):  # fmt: skip
        with pytest.raises(DecodeError):
            link.run(link.client.pull(SERVER, [PullItem(param=param)]))


@pytest.mark.parametrize(
    "answer", [b"", b"\x06", b"\x09\x80", b"\x06\x80\xff", b"\x06\x80\xcd\x01"]
)
def test_garbage_answers_are_decode_errors(answer):
    link = Link()
    link.server.answer = lambda request: [answer]
    with pytest.raises(DecodeError):
        link.run(link.client.pull(SERVER, [PullItem(param=24)]))


def test_endless_answer_ends():
    link = Link()

    class Endless:
        def handle(self, packet):
            return [b"\x06\x00" + bytes((n % 100,)) for n in range(100)]

    link.server = Endless()
    with pytest.raises((DecodeError, NoResponse)):
        link.run(link.client.pull(SERVER, [PullItem(param=24)]))


def test_push_with_hardware_id_and_version_1():
    link = Link()
    link.server = ParamServer(link.table, {SERVER}, hardware_id=lambda: 77)
    push = PushItem(param=remote(1, ParamType.U8), value=5)
    assert link.run(link.client.push(SERVER, [push], hardware_id=77)) == [5]
    with pytest.raises(NoResponse):
        link.run(link.client.push(SERVER, [push], hardware_id=78))
    old = ParamClient(link.stacks[0], version=1)
    assert link.run(old.pull(SERVER, [PullItem(param=24)])) == [3]
    assert link.run(old.push(SERVER, [PushItem(param=push.param, value=6)])) == [6]
    assert link.table["one_u08"].get() == 6
    assert link.run(old.pull_all(SERVER, Mask.TELEM))[24] == 3


def test_local_node_is_served_over_the_loopback():
    link = Link()
    own = ParamClient(link.stacks[1])
    for node in (0, SERVER):
        assert link.run(own.pull(node, [PullItem(param=24)])) == [3]
        assert len(link.run(own.download_list(node))) == len(link.table)
    assert link.frames == 0


# -- RemoteTable


def test_names_are_resolved_with_one_download():
    link = Link()

    async def use():
        await link.remote.set(SERVER, "many", 5)
        await link.remote.set(SERVER, "many", 6, 3)
        await link.remote.set(SERVER, "text", "hello")
        pair = await link.remote.get_many(SERVER, [("many", 3), ("text", None)])
        return pair, await link.remote.get(SERVER, "many")

    pair, many = link.run(use())
    assert pair == [6, "hello"]
    assert many == [5, 5, 5, 6] + [5] * 28
    assert (link.remote.list_downloads, link.remote.pulls, link.remote.pushes) == (1, 2, 3)
    assert len(link.remote.cached(SERVER)) == len(link.table)
    assert link.remote.cached(50) == []


def test_tasks_that_want_the_same_list_share_one_download():
    link = Link()
    tasks = [link.scheduler.spawn(link.remote.get(SERVER, "fixed")) for _ in range(8)]
    assert [link.scheduler.run_virtual(task) for task in tasks] == [3] * 8
    assert link.remote.list_downloads == 1


def test_failed_download_is_reported_to_all_and_tried_anew_later():
    link = Link()
    link.drop = lambda number, frame: True
    tasks = [link.scheduler.spawn(link.remote.get(SERVER, "fixed")) for _ in range(2)]
    for task in tasks:
        with pytest.raises(NoResponse):
            link.scheduler.run_virtual(task)
    link.drop = lambda number, frame: False
    assert link.run(link.remote.get(SERVER, "fixed")) == 3


def test_missing_name_is_looked_for_in_a_fresh_list_once():
    link = Link()
    link.run(link.remote.download(SERVER))
    with pytest.raises(UnknownParam):
        link.run(link.remote.get(SERVER, "new"))
    assert link.remote.list_downloads == 2
    link.serve([*make_specs(), ParamSpec(id=50, name="new", type=ParamType.U8, mask=Mask.CONF)])
    assert link.run(link.remote.get(SERVER, "new")) == 0
    assert link.remote.list_downloads == 3


def test_type_change_after_a_reboot_of_the_peer_is_noticed():
    link = Link([ParamSpec(id=5, name="x", type=ParamType.U8)])
    assert link.run(link.remote.get(SERVER, "x")) == 0
    link.serve([ParamSpec(id=5, name="x", type=ParamType.STRING, array_size=8, default="s")])
    assert link.run(link.remote.get(SERVER, "x")) == "s"
    link.serve([ParamSpec(id=6, name="x", type=ParamType.U16, default=9)])
    assert link.run(link.remote.get(SERVER, "x")) == 9
    assert link.remote.list_downloads == 3


def test_old_list_is_fetched_anew_after_its_time():
    link = Link()
    link.run(link.remote.get(SERVER, "fixed"))
    link.scheduler.advance(link.scheduler.now + 599)
    link.run(link.remote.get(SERVER, "fixed"))
    assert link.remote.list_downloads == 1
    link.scheduler.advance(link.scheduler.now + 2)
    link.run(link.remote.get(SERVER, "fixed"))
    assert link.remote.list_downloads == 2
    link.remote.invalidate()
    link.run(link.remote.get(SERVER, "fixed"))
    assert link.remote.list_downloads == 3


def test_read_only_and_bad_values_are_refused_without_asking_the_node():
    link = Link()
    link.run(link.remote.download(SERVER))
    frames = link.frames
    with pytest.raises(ReadOnlyParam):
        link.run(link.remote.set(SERVER, "fixed", 1))
    with pytest.raises(OutOfRange):
        link.run(link.remote.set(SERVER, "one_u08", 999))
    assert link.remote.pushes == 1
    assert link.frames == frames
