"""Uploads over bad links, in passes, through restarts of either end: virtual time, real files."""

from __future__ import annotations

import hashlib
import random

import pytest

from csp.errors import MisuseError, NoResponse
from csp.files.client import FilesClient
from csp.files.disk import SystemStoreOps
from csp.files.forms import Form
from csp.files.server import FilesServer
from csp.files.status import FilesError, Status
from csp.files.store import FileStore, Limits
from csp.files.testing import FailingStoreOps
from csp.files.transfer import LinkBudget
from csp.files.wire import (
    FILES_PORT,
    Data,
    Delete,
    ListFiles,
    Part,
    Reply,
    Rollback,
    VersionKind,
    decode_answer,
)
from csp.shaper import Window
from csp.testing import Faults, Network

GROUND, NODE = 20, 162
NAME = "cloud.py"
RATE_BPS = 9600.0
RADIO = Faults(rate_bps=RATE_BPS, delay_s=0.02)
LOCAL = Faults(delay_s=0.001)
ONE = random.Random(1).randbytes(6000)
TWO = ONE[:3000] + b"two" + ONE[3000:]
TEXT = b"".join(b"value_%d = compute(%d)\n" % (n, n * n) for n in range(400))


def sha(content):
    return hashlib.sha256(content).digest()


class Station:
    """A ground station and a node with the file service, on one network."""

    def __init__(self, folder, faults=LOCAL, budget=None, seed=1, **store_options):
        self.folder = folder
        self.store_options = store_options
        self.network = Network(faults=faults, seed=seed)
        self.budget = budget or LinkBudget(rate_bps=RATE_BPS, delay_s=0.02)
        self.installed = []
        self.start_ground()
        self.start_node(self.network.add(NODE))

    def start_ground(self, stack=None):
        self.ground = stack or self.network.add(GROUND)
        self.client = FilesClient(self.ground, NODE, budget=self.budget)

    def start_node(self, stack):
        self.node = stack
        store = FileStore(self.folder, self.installed.append, **self.store_options)
        self.server = FilesServer(stack, store)

    def reboot_node(self):
        self.start_node(self.network.reboot(NODE))

    def reboot_ground(self):
        self.start_ground(self.network.reboot(GROUND))

    def run(self, coro, limit_s=100_000):
        return self.network.run(coro, limit_s)

    def plan(self, content, *bases, name=NAME):
        return self.run(self.client.plan(name, content, {sha(base): base for base in bases}))

    def upload(self, content, *bases, name=NAME, **options):
        return self.run(self.client.upload(self.plan(content, *bases, name=name), **options))

    def active(self, name=NAME):
        path = self.folder / "active" / name
        return path.read_bytes() if path.exists() else None

    def windows(self, *pairs):
        """Open the link, both ways, only between these times counted from now."""
        now = self.network.scheduler.now
        windows = tuple(Window(start_s=now + start, end_s=now + end) for start, end in pairs)
        for channel in self.network.channels.values():
            channel.windows = windows

    def assert_nothing_left(self):
        self.network.wait(200)
        for stack in (self.ground, self.node):
            assert len(stack.connections) == 0
            assert not stack.faults
        assert self.network.scheduler.orphan_error_count == 0


@pytest.fixture
def station(tmp_path):
    return Station(tmp_path / "modules")


# -- what it does


@pytest.mark.parametrize("content", [b"", b"x", TEXT, ONE])
def test_an_upload_arrives_byte_exact_and_is_announced(station, content):
    result = station.upload(content)
    assert station.active() == content
    assert station.installed == [NAME]
    assert (result.already, result.connections, result.repeated) == (False, 1, 0)
    station.assert_nothing_left()


def test_the_smallest_form_is_sent(station):
    assert station.plan(ONE).offer.form is Form.PLAIN
    assert station.plan(TEXT).offer.form is Form.BROTLI
    station.upload(ONE)
    plan = station.plan(TWO, ONE, TEXT)
    assert plan.offer.form is Form.DELTA
    assert len(plan.stream) < 40
    assert plan.size_of(Form.PLAIN) == len(TWO)
    assert plan.size_of(Form.BROTLI) > len(TWO)
    station.run(station.client.upload(plan))
    assert station.active() == TWO
    assert station.plan(TWO + b"!").size_of(Form.DELTA) is None


def test_what_is_active_is_not_sent_again(station):
    station.upload(ONE)
    plan = station.plan(ONE)
    assert plan.offer is None
    assert (plan.uplink_bytes, plan.seconds, plan.passes) == (0, 0.0, 0)
    assert station.run(station.client.upload(plan)).already
    assert station.installed == [NAME]


def test_a_stale_plan_is_answered_with_already(station):
    plan = station.plan(ONE)
    station.upload(ONE)
    assert station.run(station.client.upload(plan)).already


def test_files_are_listed_with_versions_and_uploads_under_way(station):
    station.upload(ONE)
    station.upload(TWO)
    station.upload(TEXT, name="b.py")
    listing = station.run(station.client.list())
    assert [each.name for each in listing.entries] == ["b.py", NAME]
    assert listing.limit_bytes == Limits().content_bytes
    assert listing.free_bytes > 0
    entry = listing.entries[1]
    assert entry.version(VersionKind.ACTIVE).sha256 == sha(TWO)
    assert entry.version(VersionKind.PREVIOUS).size == len(ONE)
    assert station.run(station.client.entry("absent")) is None


def test_a_list_of_many_files_arrives_complete(station):
    names = [f"module_{number:03}.py" for number in range(120)]
    for name in names:
        (station.folder / "active" / name).write_bytes(name.encode())
    listing = station.run(station.client.list())
    assert [each.name for each in listing.entries] == names


def test_rollback_and_delete(station):
    station.upload(ONE)
    station.upload(TWO)
    client = station.client
    assert station.run(client.rollback(NAME))
    assert station.active() == ONE
    station.run(client.delete(NAME, Part.PREVIOUS))
    with pytest.raises(FilesError) as caught:
        station.run(client.rollback(NAME))
    assert caught.value.status is Status.NOT_FOUND
    station.run(client.delete(NAME))
    assert station.active() is None
    with pytest.raises(FilesError):
        station.run(client.delete(NAME))
    assert station.installed == [NAME] * 4
    station.assert_nothing_left()


def test_a_repeated_rollback_request_does_not_roll_forward(station):
    station.upload(ONE)
    station.upload(TWO)

    async def ask():
        connection = await station.ground.connect(NODE, FILES_PORT)
        for _ in range(2):
            await connection.send(Rollback(name=NAME, sha256=sha(ONE)).encode())
        replies = [decode_answer(await connection.receive(5)) for _ in range(2)]
        connection.close()
        return [each.status for each in replies]

    assert station.run(ask()) == [Status.DONE, Status.ALREADY]
    assert station.active() == ONE


# -- the link


def test_nothing_is_sent_twice_on_a_slow_link_without_losses(tmp_path):
    for delay_s in (0.005, 0.25, 1.0):
        budget = LinkBudget(rate_bps=RATE_BPS, delay_s=delay_s)
        faults = Faults(rate_bps=RATE_BPS, delay_s=delay_s)
        station = Station(tmp_path / f"{delay_s}", faults, budget)
        plan = station.plan(ONE)
        began = station.network.scheduler.now
        result = station.run(station.client.upload(plan))
        elapsed = station.network.scheduler.now - began
        assert result.repeated == 0
        assert result.packets == 25
        assert elapsed == pytest.approx(plan.seconds, rel=0.12)


def test_the_plan_tells_the_bytes_on_the_wire(tmp_path):
    station = Station(tmp_path / "modules", RADIO)
    plan = station.plan(ONE)
    counters = station.ground.interfaces[0].counters
    before, packets = counters.txbytes, counters.tx
    station.run(station.client.upload(plan))
    # The counter leaves the header out, as in real nodes.
    sent = counters.txbytes - before + 6 * (counters.tx - packets)
    assert plan.uplink_bytes == pytest.approx(sent, rel=0.01)


@pytest.mark.parametrize("loss", [0.1, 0.3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_losses_cost_time_but_no_byte(tmp_path, loss, seed):
    faults = Faults(
        rate_bps=RATE_BPS, delay_s=0.1, loss=loss, duplication=0.05, corruption=0.02, jitter_s=0.05
    )
    station = Station(tmp_path / "modules", faults, seed=seed)
    seen = []
    station.upload(ONE, report=seen.append, patience_s=600)
    station.upload(TWO, ONE, patience_s=600)
    assert station.active() == TWO
    assert (station.folder / "previous" / NAME).read_bytes() == ONE
    assert station.installed == [NAME, NAME]
    assert seen[-1] == len(ONE)
    station.assert_nothing_left()


def test_an_upload_goes_on_over_the_gap_between_passes(tmp_path):
    station = Station(tmp_path / "modules", RADIO)
    plan = station.plan(ONE)
    # Passes of 2.1 s: some data packets each, and the last one is cut.
    station.windows(*[(start, start + 2.1) for start in range(1, 4000, 100)])
    began = station.network.scheduler.now
    result = station.run(station.client.upload(plan, patience_s=300))
    assert station.active() == ONE
    assert result.connections >= 3
    assert station.network.scheduler.now - began > 200
    station.assert_nothing_left()


def test_without_patience_the_next_call_continues(tmp_path):
    station = Station(tmp_path / "modules", RADIO)
    plan = station.plan(ONE)
    station.windows((0, 2.5), (3000, 4000))
    with pytest.raises(NoResponse, match="repeat it to continue"):
        station.run(station.client.upload(plan, patience_s=30))
    station.network.wait(3000)
    again = station.plan(ONE)
    assert 0 < again.received < len(ONE)
    assert again.remaining == len(ONE) - again.received
    assert again.passes == 1
    result = station.run(station.client.upload(again))
    assert result.packets == -(-again.remaining // 246)
    assert station.active() == ONE


def interrupted(station, content, at_s):
    """Start an upload and let it run for a while; returns its task."""
    plan = station.plan(content)
    scheduler = station.network.scheduler
    task = scheduler.spawn(station.client.upload(plan, patience_s=600), "upload")
    station.network.wait(at_s)
    return task


@pytest.mark.parametrize("at_s", [0.01, 0.1, 0.6, 1.5, 3.0, 5.3])
def test_a_node_that_reboots_loses_nothing(tmp_path, at_s):
    station = Station(tmp_path / "modules", RADIO)
    task = interrupted(station, ONE, at_s)
    station.reboot_node()
    result = station.network.scheduler.run_virtual(task, 3600)
    assert result.connections <= 2
    assert result.packets < 2 * 25
    assert station.active() == ONE
    assert station.installed == [NAME]


@pytest.mark.parametrize("at_s", [0.01, 0.1, 0.6, 1.5, 3.0, 5.3])
def test_a_ground_station_that_restarts_continues(tmp_path, at_s):
    station = Station(tmp_path / "modules", RADIO)
    interrupted(station, ONE, at_s)
    station.reboot_ground()
    plan = station.plan(ONE)
    if at_s > 1:
        assert plan.received > 0
    station.run(station.client.upload(plan))
    assert station.active() == ONE
    assert station.installed == [NAME]


def test_two_ground_stations_at_once_end_with_one_whole_file(station):
    other = FilesClient(station.network.add(21), NODE, budget=station.budget)
    plans = [station.plan(ONE), station.run(other.plan(NAME, TWO, {}))]
    scheduler = station.network.scheduler
    tasks = [
        scheduler.spawn(client.upload(plan), "upload")
        for client, plan in zip((station.client, other), plans, strict=True)
    ]
    station.network.wait(300)
    outcomes = [task.error for task in tasks]
    assert any(error is None for error in outcomes)
    for error in outcomes:
        assert error is None or error.status is Status.REPLACED
    assert station.active() in (ONE, TWO)


def test_a_silent_node_is_given_up_and_leaves_nothing(station):
    client = FilesClient(station.ground, 77, timeout_s=2.0)
    began = station.network.scheduler.now
    with pytest.raises(NoResponse, match="node 77"):
        station.run(client.list())
    assert station.network.scheduler.now - began == pytest.approx(2.0 + 4 * client.budget.delay_s)
    station.assert_nothing_left()


# -- refusals and faults


def test_refusals_reach_the_operator_as_codes(tmp_path):
    station = Station(tmp_path / "modules", limits=Limits(content_bytes=1000))
    with pytest.raises(FilesError) as caught:
        station.upload(ONE)
    assert caught.value.status is Status.TOO_LARGE
    with pytest.raises(FilesError) as caught:
        station.plan(ONE, name="../evil")
    assert caught.value.status is Status.BAD_NAME
    assert station.server.counters.refused == 1


def test_a_disk_that_fills_up_is_told_and_the_upload_continues_later(tmp_path):
    station = Station(tmp_path / "modules", RADIO)
    plan = station.plan(ONE)
    station.store_options = {"ops": FailingStoreOps(45, forever=True)}
    station.reboot_node()
    with pytest.raises(FilesError) as caught:
        station.run(station.client.upload(plan))
    assert caught.value.status is Status.DISK_FULL
    assert station.active() is None
    station.store_options = {}
    station.reboot_node()
    again = station.plan(ONE)
    assert again.received > 0
    station.run(station.client.upload(again))
    assert station.active() == ONE


def test_a_broken_disk_is_told_with_its_error(tmp_path):
    class Broken(SystemStoreOps):
        def unlink(self, path):
            raise OSError(5, "broken")

    station = Station(tmp_path / "modules", ops=Broken())
    with pytest.raises(FilesError) as caught:
        station.upload(ONE)
    assert caught.value.status is Status.STORAGE_FAILED
    assert caught.value.errno == 5
    assert station.server.counters.storage_faults == 1


def test_bytes_the_disk_lost_are_sent_again(station):
    plan = station.plan(ONE)
    path = station.folder / "staged" / f"{NAME}~stage"
    damaged = []

    def damage(received):
        if received > 4000 and not damaged:
            damaged.append(received)
            data = bytearray(path.read_bytes())
            data[2000] ^= 0x10
            path.write_bytes(data)

    result = station.run(station.client.upload(plan, report=damage))
    assert damaged
    assert result.packets > 25
    assert station.active() == ONE


BAD_MESSAGES = [
    b"",
    b"\x00",
    b"\x03",
    b"\x03data without an offer",
    b"\x02" + bytes(30),
    b"\x81\x00\x00\x01a",
    ListFiles(name="a/b").encode(),
    Rollback(name="x", sha256=bytes(32)).encode(),
    Delete(name="x").encode(),
    random.Random(5).randbytes(200),
]


def test_bad_requests_are_answered_and_harm_nobody(station):
    async def provoke():
        for message in BAD_MESSAGES[1:]:
            connection = await station.ground.connect(NODE, FILES_PORT)
            await connection.send(message)
            answer = decode_answer(await connection.receive(5))
            assert isinstance(answer, Reply)
            assert answer.status >= Status.BAD_REQUEST
            connection.close()

    station.run(provoke())
    assert station.server.counters.refused == len(BAD_MESSAGES) - 1
    station.upload(ONE)
    assert station.active() == ONE
    station.assert_nothing_left()


def test_random_messages_never_break_the_service(station):
    rng = random.Random(7)

    async def fuzz():
        for _ in range(60):
            connection = await station.ground.connect(NODE, FILES_PORT)
            for _ in range(5):
                if connection.closed:
                    break
                size = rng.randrange(1, 120)
                kind = bytes([rng.choice((1, 2, 3, 4, 5, rng.randrange(256)))])
                await connection.send(kind + rng.randbytes(size))
            connection.close()
            await connection.wait_closed()

    station.run(fuzz())
    assert not station.node.faults
    station.upload(ONE)
    assert station.active() == ONE


def test_more_data_than_offered_is_refused(station):
    plan = station.plan(ONE)

    async def overflow():
        connection = await station.ground.connect(NODE, FILES_PORT)
        await connection.send(plan.offer.encode())
        await connection.receive(5)
        for _ in range(24):
            await connection.send(Data(data=bytes(246)).encode())
        await connection.send(Data(data=bytes(200)).encode())
        answer = decode_answer(await connection.receive(5))
        connection.close()
        return answer.status

    assert station.run(overflow()) is Status.BAD_REQUEST


def test_a_callback_that_fails_is_recorded_and_the_file_is_active(tmp_path):
    station = Station(tmp_path / "modules")

    def broken(name):
        raise RuntimeError(name)

    stack = station.network.reboot(NODE)
    FilesServer(stack, FileStore(tmp_path / "modules", broken))
    result = station.upload(ONE)
    assert result.already
    assert station.active() == ONE
    assert len(stack.faults) == 1


# -- plans


def test_passes_are_counted_with_their_overhead():
    budget = LinkBudget(rate_bps=9600, delay_s=0.25, pass_s=480)
    assert budget.passes(0) == 1
    assert budget.passes(100) == 1
    assert budget.passes(530_000) == 1
    assert budget.passes(550_000) == 2
    assert budget.passes(5_400_000) == 11
    assert budget.seconds(120_000) == pytest.approx(120_000 * 8 / 9600 * 262 / 246, rel=0.03)


@pytest.mark.parametrize(
    "fields", [{"rate_bps": 0}, {"delay_s": -1}, {"pass_s": 0}, {"rate_bps": -9600}]
)
def test_links_that_cannot_be_are_refused(fields):
    with pytest.raises(MisuseError):
        LinkBudget(**fields)
    with pytest.raises(MisuseError):
        LinkBudget(pass_s=1).passes(10)


@pytest.mark.parametrize("rate_bps", [1200, 9600, 100_000, 1_000_000, 1e9])
@pytest.mark.parametrize("delay_s", [0, 0.25, 2])
def test_timers_leave_room_for_a_window_and_its_way(rate_bps, delay_s):
    options = LinkBudget(rate_bps=rate_bps, delay_s=delay_s).options()
    window_s = options.window * 262 * 8 / rate_bps
    assert 8 <= options.window <= 32
    assert options.packet_timeout_ms / 1000 >= window_s + 2 * delay_s
    assert options.conn_timeout_ms >= 5 * options.packet_timeout_ms - 5
    assert options.bounded() == options
