"""Rows of group I: uploads and parameters under faults, in virtual time. Driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from csp.errors import PeerError
from csp.faultrow import Case, FaultRow, fault_row, require
from csp.files.client import FilesClient
from csp.files.server import FilesServer
from csp.files.status import FilesError
from csp.files.store import FileStore
from csp.files.transfer import LinkBudget
from csp.param.client import ParamClient, PullItem, PushItem, RemoteParam
from csp.param.codec import LIST_PORT, PARAM_PORT
from csp.param.remote import RemoteTable
from csp.param.server import ParamServer
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Timeout
from csp.shaper import Window
from csp.testing import Faults, Network, interface_of

_CLIENT, _SERVER, _OTHER = 20, 9, 21
_RATE_BPS = 9600.0
_UPLOAD_NAME = "cloud.py"


class _Station:
    """A ground station and a node with the file service."""

    def __init__(self, case: Case, faults: Faults) -> None:
        self.folder = case.directory / "modules"
        self.network = Network(faults=faults, seed=case.random.randrange(1 << 16))
        self.budget = LinkBudget(rate_bps=_RATE_BPS, delay_s=0.02)
        self.installed: list[str] = []
        self.client = FilesClient(self.network.add(_CLIENT), 162, budget=self.budget)
        self.node = self.network.add(162)
        self.server = FilesServer(self.node, FileStore(self.folder, self.installed.append))

    def active(self) -> bytes:
        return (self.folder / "active" / _UPLOAD_NAME).read_bytes()

    def visible(self) -> list[Path]:
        return [path for path in (self.folder / "active").iterdir() if path.is_file()]


def _pass_ends(case: Case) -> str:
    station = _Station(case, Faults(rate_bps=_RATE_BPS, delay_s=0.02))
    content = case.random.randbytes(6000)
    plan = station.network.run(station.client.plan(_UPLOAD_NAME, content, {}), 1000)
    now, length_s = station.network.scheduler.now, case.random.uniform(1.8, 2.6)
    windows = tuple(
        Window(start_s=now + start, end_s=now + start + length_s) for start in range(1, 4000, 100)
    )
    for channel in station.network.channels.values():
        channel.windows = windows
    result = station.network.run(station.client.upload(plan, patience_s=300), 100_000)
    require(station.active() == content, "not byte-exact")
    require(station.installed == [_UPLOAD_NAME], f"announced {station.installed}")
    require(result.connections >= 2, "it ended within one pass: nothing was cut")
    return f"{len(content)} bytes over {result.connections} passes of {length_s:.1f} s, byte-exact"


def _two_stations(case: Case) -> str:
    station = _Station(case, Faults(delay_s=0.001))
    other = FilesClient(station.network.add(_OTHER), 162, budget=station.budget)
    one, two = case.random.randbytes(6000), case.random.randbytes(7000)
    run, scheduler = station.network.run, station.network.scheduler
    plans = (
        run(station.client.plan(_UPLOAD_NAME, one, {}), 1000),
        run(other.plan(_UPLOAD_NAME, two, {}), 1000),
    )
    tasks = [
        scheduler.spawn(client.upload(plan), "upload")
        for client, plan in zip((station.client, other), plans, strict=True)
    ]
    station.network.wait(300)
    errors = [task.error for task in tasks]
    require(any(error is None for error in errors), f"both failed: {errors}")
    named = all(error is None or isinstance(error, FilesError) for error in errors)
    require(named, f"an error without a name: {errors}")
    require(station.active() in (one, two), "the file is neither the one nor the other")
    require(len(station.visible()) == 1, f"visible: {station.visible()}")
    won = "first" if station.active() == one else "second"
    return f"the {won} one's file is whole; {sum(e is not None for e in errors)} got a named error"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Params:
    """A server of parameters and a client over a network."""

    network: Network
    table: ParamTable
    server: ParamServer
    client: ParamClient

    @classmethod
    def make(cls, case: Case, faults: Faults, specs: list[ParamSpec]) -> _Params:
        network = Network(faults=faults, seed=case.random.randrange(1 << 16))
        node, table = network.add(_SERVER), ParamTable(specs)
        server = ParamServer(table, {_SERVER})
        node.bind(PARAM_PORT, server.handle, crc_required=True)
        node.listen(LIST_PORT, server.serve_list)
        client = ParamClient(network.add(_CLIENT))
        return cls(network=network, table=table, server=server, client=client)


def _many_parameters(case: Case) -> str:
    specs = [
        ParamSpec(id=number, name=f"p{number}", type=ParamType.U32, mask=Mask.CONF)
        for number in range(1, 1001)
    ]
    made = _Params.make(case, Faults(delay_s=0.01), specs)
    values = {f"p{number}": case.random.randrange(1 << 32) for number in range(1, 1001)}
    for name, value in values.items():
        made.table[name].set(value)
    for channel in made.network.channels.values():
        channel.loss = 0.05
    rows = made.network.run(made.client.download_list(_SERVER), 36_000)
    require(len(rows) == 1000, f"{len(rows)} of 1000 in the list")
    for channel in made.network.channels.values():
        channel.loss = 0.0
    remote = RemoteTable(made.client)
    wanted = [(f"p{number}", None) for number in range(1, 1001)]
    pulled = made.network.run(remote.get_many(_SERVER, wanted), 3600)
    require(pulled == list(values.values()), "a value is wrong or missing")
    frames = interface_of(made.network.stacks[_SERVER]).counters.tx
    return f"list of 1000 at 5 % loss, 1000 values pulled; {frames} frames of at most 200 bytes"


def _bad_pushes(case: Case) -> str:
    specs = [
        ParamSpec(id=1, name="byte", type=ParamType.U8, mask=Mask.CONF),
        ParamSpec(id=2, name="array", type=ParamType.U16, array_size=4, mask=Mask.CONF),
        ParamSpec(id=3, name="text", type=ParamType.STRING, array_size=16, mask=Mask.CONF),
        ParamSpec(id=4, name="fixed", type=ParamType.U8, mask=Mask.READONLY, default=5),
    ]
    made = _Params.make(case, Faults(delay_s=0.01), specs)

    def remote(number: int, kind: ParamType, count: int = 1) -> RemoteParam:
        spec = ParamSpec(id=number, name="x", type=kind, array_size=count, mask=Mask.CONF)
        return RemoteParam(spec=spec, node=_SERVER)

    tried: tuple[tuple[str, PushItem], ...] = (
        ("unknown id", PushItem(param=remote(777, ParamType.U8), value=1)),
        ("index 9 of 4", PushItem(param=remote(2, ParamType.U16, 16), value=1, index=9)),
        ("text for a number", PushItem(param=remote(1, ParamType.STRING, 8), value="hello")),
        ("too large", PushItem(param=remote(1, ParamType.U32), value=70_000)),
        ("too long a text", PushItem(param=remote(3, ParamType.STRING, 64), value="y" * 60)),
        ("read only", PushItem(param=remote(4, ParamType.U8), value=9)),
    )
    before = [parameter.get_all() for parameter in made.table]
    for what, item in tried:
        started = made.network.scheduler.now
        try:
            made.network.run(made.client.push(_SERVER, [item]))
        except (PeerError, Timeout):
            pass
        else:
            require(False, f"{what}: acknowledged")
        require(made.network.scheduler.now - started < 5, f"{what}: no answer for too long")
    refused = made.server.counters.items_refused + made.server.counters.packets_refused
    require(refused >= len(tried), f"{refused} refusals counted of {len(tried)}")
    for _ in range(2000):
        made.server.answer(case.random.randbytes(case.random.randrange(60)))
    require(made.table["fixed"].get() == 5, "a read-only value changed")
    require([p.get_all() for p in made.table][3] == before[3], "a read-only value changed")
    for name, value in (("byte", 7), ("text", "fine")):
        made.network.run(RemoteTable(made.client).set(_SERVER, name, value))
        require(made.table[name].get() == value, f"a good push to {name} fails")
    missing = PullItem(param=remote(778, ParamType.U8))
    try:
        made.network.run(made.client.pull(_SERVER, [missing]))
    except PeerError:
        return f"{', '.join(what for what, _ in tried)}: refused and counted; then a good push"
    require(False, "a pull of an unknown id was answered")
    return ""


ROWS: tuple[FaultRow, ...] = (
    fault_row(
        82,
        "pass-ends-in-mid-upload",
        "the 9.6 kbit/s link is open 2 s of every 100 s",
        "the upload goes on in the next pass, byte-exact, installed once",
        _pass_ends,
    ),
    fault_row(
        83,
        "many-parameters",
        "1000 parameters, list at 5 % loss, all values in 200-byte packets",
        "complete and right",
        _many_parameters,
    ),
    fault_row(
        84,
        "bad-pushes",
        "unknown id, bad index, wrong type, too large, too long, read-only, noise",
        "refused and counted, no hang, good pushes still work",
        _bad_pushes,
    ),
    fault_row(
        85,
        "two-ground-stations",
        "two stations upload different files of one name at once",
        "one whole file, each station is told what became of its own",
        _two_stations,
    ),
)
