"""The file store: versions, stages, and that no crash shows or loses a byte it should not."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import random
import tempfile
from pathlib import Path

import pytest

from csp.crc import crc32c
from csp.files.disk import SystemStoreOps
from csp.files.forms import Form, encode_form
from csp.files.status import FilesError, Status
from csp.files.store import FileStore, Limits
from csp.files.testing import (
    CountingStoreOps,
    CuttingStoreOps,
    FailingStoreOps,
    KillingStoreOps,
    SimulatedStoreDisk,
)
from csp.files.wire import DIGEST_BYTES, Offer, Part, VersionKind
from csp.vmem.testing import PowerCut

NAME = "cloud.py"
ONE = random.Random(1).randbytes(500)
TWO = random.Random(2).randbytes(600)
THREE = TWO[:300] + b"three" + TWO[300:]


def sha(content):
    return hashlib.sha256(content).digest()


@functools.cache
def offer_of(content, form=Form.PLAIN, base=None, name=NAME):
    stream = encode_form(form, content, base)
    offer = Offer(
        name=name,
        form=form,
        content_size=len(content),
        content_crc=crc32c(content),
        content_sha256=sha(content),
        wire_size=len(stream),
        wire_digest=sha(stream)[:DIGEST_BYTES],
        base_sha256=None if base is None else sha(base),
    )
    return offer, stream


def send(stage, stream, until=None):
    """Append what is missing of a stream in packets; `until` stops early."""
    end = len(stream) if until is None else until
    while stage.received < end:
        stage.append(stream[stage.received : min(stage.received + 246, end)])


def upload(store, content, form=Form.PLAIN, base=None, name=NAME):
    """Upload to the end. Returns whether anything changed."""
    offer, stream = offer_of(content, form, base, name)
    stage = store.begin(offer)
    if stage is None:
        return False
    send(stage, stream)
    for _ in stage.finish():
        pass
    return True


def status_of(call, *arguments):
    with pytest.raises(FilesError) as caught:
        call(*arguments)
    return caught.value.status


def versions(store, name=NAME):
    entry = store.entry(name)
    return {} if entry is None else {each.kind.name: each.sha256 for each in entry.versions}


class Rig:
    """A store in a folder, and the names its callback was called with."""

    def __init__(self, folder):
        self.folder = folder
        self.installed = []
        self.store = self.open()

    def open(self, **options):
        return FileStore(self.folder, self.installed.append, **options)

    def active(self, name=NAME):
        path = self.folder / "active" / name
        return path.read_bytes() if path.exists() else None

    def previous(self, name=NAME):
        path = self.folder / "previous" / name
        return path.read_bytes() if path.exists() else None

    def staged(self):
        return sorted(each.name for each in (self.folder / "staged").iterdir())


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "modules")


@pytest.fixture
def fast_path():
    """A folder in memory where there is one: hundreds of stores, each syncing often."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


# -- what it does


@pytest.mark.parametrize(
    ("form", "base"), [(Form.PLAIN, None), (Form.BROTLI, None), (Form.DELTA, ONE)]
)
def test_an_upload_replaces_the_active_version_and_keeps_it(rig, form, base):
    upload(rig.store, ONE)
    upload(rig.store, TWO, form, base)
    assert rig.active() == TWO
    assert rig.previous() == ONE
    assert rig.staged() == []
    assert rig.installed == [NAME, NAME]
    assert versions(rig.store) == {"ACTIVE": sha(TWO), "PREVIOUS": sha(ONE)}


def test_nothing_is_visible_before_the_end(rig):
    offer, stream = offer_of(ONE)
    stage = rig.store.begin(offer)
    send(stage, stream)
    assert rig.active() is None
    assert rig.installed == []
    entry = rig.store.entry(NAME)
    assert entry.versions == ()
    assert entry.stage.received == len(stream)


def test_uploading_what_is_active_changes_nothing(rig):
    assert upload(rig.store, ONE)
    assert not upload(rig.store, ONE, Form.BROTLI)
    assert rig.previous() is None
    assert rig.installed == [NAME]


def test_an_empty_file_can_be_uploaded(rig):
    assert upload(rig.store, b"")
    assert rig.active() == b""


@pytest.mark.parametrize("until", [0, 40, 246, 300, 468])
@pytest.mark.parametrize("restart", [False, True])
def test_an_upload_continues_where_it_stopped(rig, until, restart):
    offer, stream = offer_of(ONE)
    stage = rig.store.begin(offer)
    send(stage, stream, until)
    reached = stage.received
    store = rig.open() if restart else rig.store
    again = store.begin(offer)
    assert again.received == reached
    send(again, stream)
    list(again.finish())
    assert rig.active() == ONE


def test_another_upload_replaces_the_stage(rig):
    first, stream = offer_of(ONE)
    stage = rig.store.begin(first)
    send(stage, stream, 246)
    assert upload(rig.store, TWO)
    assert status_of(stage.append, stream[246:]) is Status.REPLACED
    assert status_of(lambda: list(stage.finish())) is Status.REPLACED
    assert rig.active() == TWO


def test_the_same_upload_over_a_new_connection_takes_over(rig):
    offer, stream = offer_of(ONE)
    old = rig.store.begin(offer)
    send(old, stream, 246)
    new = rig.store.begin(offer)
    assert status_of(old.append, stream[246:]) is Status.REPLACED
    old.sync()
    send(new, stream)
    list(new.finish())
    assert rig.active() == ONE


def test_a_takeover_while_installing_is_noticed(rig):
    offer, stream = offer_of(bytes(300_000), Form.BROTLI)
    stage = rig.store.begin(offer)
    send(stage, stream)
    steps = stage.finish()
    next(steps)
    other = rig.store.begin(offer)
    assert status_of(lambda: list(steps)) is Status.REPLACED
    assert rig.active() is None
    list(other.finish())
    assert rig.active() == bytes(300_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"content_crc": 1},
        {"content_sha256": bytes(32)},
        {"wire_digest": bytes(8)},
        {"form": Form.BROTLI},
        {"form": Form.BROTLI, "content_size": 499},
    ],
)
def test_wrong_content_never_becomes_a_file(rig, changes):
    upload(rig.store, TWO)
    offer, stream = offer_of(ONE)
    fields = {name: getattr(offer, name) for name in Offer.__dataclass_fields__}
    stage = rig.store.begin(Offer(**fields | changes))
    send(stage, stream)
    status = status_of(lambda: list(stage.finish()))
    assert status in (Status.WRONG_CONTENT, Status.BAD_STREAM)
    assert rig.active() == TWO
    assert rig.staged() == []
    assert rig.installed == [NAME]


def test_bytes_that_the_disk_lost_are_asked_for_again(rig):
    offer, stream = offer_of(ONE)
    stage = rig.store.begin(offer)
    send(stage, stream)
    path = rig.folder / "staged" / f"{NAME}~stage"
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    list(stage.finish())
    assert not stage.complete
    assert stage.received == 246
    send(stage, stream)
    list(stage.finish())
    assert rig.active() == ONE


def test_a_delta_needs_its_base_on_board(rig):
    offer, _ = offer_of(TWO, Form.DELTA, ONE)
    assert status_of(rig.store.begin, offer) is Status.NO_BASE
    upload(rig.store, ONE)
    stage = rig.store.begin(offer)
    rig.store.delete(NAME, Part.ACTIVE)
    send(stage, encode_form(Form.DELTA, TWO, ONE))
    assert status_of(lambda: list(stage.finish())) is Status.NO_BASE


def test_shipped_files_are_listed_and_serve_as_base(tmp_path):
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / NAME).write_bytes(ONE)
    store = FileStore(tmp_path / "modules", shipped=[tmp_path / "shipped"])
    assert store.names() == [NAME]
    assert versions(store) == {"SHIPPED": sha(ONE)}
    assert upload(store, TWO, Form.DELTA, ONE)
    assert versions(store) == {"ACTIVE": sha(TWO), "SHIPPED": sha(ONE)}
    assert status_of(store.rollback, NAME, sha(ONE)) is Status.NOT_FOUND
    store.delete(NAME, Part.ALL)
    assert versions(store) == {"SHIPPED": sha(ONE)}


def test_rollback_exchanges_the_versions_once(rig):
    upload(rig.store, ONE)
    assert status_of(rig.store.rollback, NAME, sha(TWO)) is Status.NOT_FOUND
    upload(rig.store, TWO)
    assert rig.store.rollback(NAME, sha(ONE))
    assert not rig.store.rollback(NAME, sha(ONE))
    assert (rig.active(), rig.previous()) == (ONE, TWO)
    assert rig.store.rollback(NAME, sha(TWO))
    assert (rig.active(), rig.previous()) == (TWO, ONE)
    assert rig.installed == [NAME] * 4


def test_delete_removes_what_it_is_told(rig):
    upload(rig.store, ONE)
    upload(rig.store, TWO)
    offer, stream = offer_of(THREE)
    send(rig.store.begin(offer), stream, 300)
    rig.store.delete(NAME, Part.STAGE)
    assert rig.staged() == []
    assert status_of(rig.store.delete, NAME, Part.STAGE) is Status.NOT_FOUND
    rig.store.delete(NAME, Part.PREVIOUS)
    assert (rig.active(), rig.previous()) == (TWO, None)
    assert rig.installed == [NAME] * 2
    rig.store.delete(NAME, Part.ALL)
    assert rig.active() is None
    assert rig.installed == [NAME] * 3
    assert rig.store.entry(NAME) is None
    assert status_of(rig.store.delete, NAME, Part.ALL) is Status.NOT_FOUND


# -- bounds


def test_limits_are_kept_at_exactly_full(rig):
    store = rig.open(limits=Limits(content_bytes=500, files=1))
    assert upload(store, ONE)
    assert status_of(upload, store, TWO) is Status.TOO_LARGE
    assert status_of(upload, store, b"x", Form.PLAIN, None, "b") is Status.TOO_MANY
    assert upload(store, ONE[1:])


def test_a_full_disk_is_told_before_anything_is_sent(rig):
    class Full(SystemStoreOps):
        def free_bytes(self, path):
            return 5000

    store = rig.open(ops=Full(), limits=Limits(reserve_bytes=4096))
    assert status_of(upload, store, ONE) is Status.DISK_FULL
    assert rig.staged() == []


@pytest.mark.parametrize("name", ["../evil", "a/b", ".x", "", "a~stage"])
def test_names_cannot_leave_the_folder(rig, name):
    for call in (
        lambda: rig.store.begin(offer_of(ONE, name=name)[0]),
        lambda: rig.store.rollback(name, sha(ONE)),
        lambda: rig.store.delete(name, Part.ALL),
        lambda: rig.store.entry(name),
    ):
        assert status_of(call) is Status.BAD_NAME


def test_pieces_must_not_be_tiny_or_too_many(rig):
    offer, stream = offer_of(ONE)
    stage = rig.store.begin(offer)
    assert status_of(stage.append, stream[:31]) is Status.BAD_REQUEST
    send(stage, stream, 490)
    assert status_of(stage.append, stream[490:] + b"x") is Status.BAD_REQUEST
    stage.append(stream[490:])


def test_folders_and_links_are_not_files(rig):
    (rig.folder / "active" / "folder").mkdir()
    (rig.folder / "active" / "link").symlink_to("/etc/passwd")
    assert rig.store.names() == []
    assert rig.store.entry("folder") is rig.store.entry("link") is None


def test_two_different_plain_sizes_are_refused(rig):
    offer, _ = offer_of(ONE)
    fields = {name: getattr(offer, name) for name in Offer.__dataclass_fields__}
    assert status_of(rig.store.begin, Offer(**fields | {"wire_size": 3})) is Status.BAD_REQUEST


# -- crashes


def mission(store):
    """Everything that writes, once, from a store that has ONE active."""
    upload(store, TWO, Form.BROTLI)
    upload(store, THREE, Form.DELTA, TWO)
    store.rollback(NAME, sha(TWO))


# What (active, previous) may be after a crash in the mission and a restart.
STEPS = {(ONE, None), (TWO, ONE), (THREE, TWO), (TWO, THREE)}


def check_recovers(rig):
    """After a restart every upload and rollback can be done, and ends with the right versions."""
    assert rig.active() in {ONE, TWO, THREE}
    store = rig.open()
    assert (rig.active(), rig.previous()) in STEPS
    before = rig.active()
    upload(store, TWO, Form.BROTLI)
    assert rig.active() == TWO
    if before != TWO:
        assert rig.previous() == before
    upload(store, THREE, Form.DELTA, TWO)
    assert (rig.active(), rig.previous()) == (THREE, TWO)
    assert rig.staged() == []
    store.rollback(NAME, sha(TWO))
    assert (rig.active(), rig.previous()) == (TWO, THREE)


def count_calls(folder):
    rig = Rig(folder)
    upload(rig.store, ONE)
    ops = CountingStoreOps()
    mission(rig.open(ops=ops))
    return ops.calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("forever", [False, True])
def test_any_system_call_may_fail(fast_path, code, forever):
    calls = count_calls(fast_path / "count")
    assert calls > 80
    for fail_at in range(1, calls + 1):
        rig = Rig(fast_path / f"{fail_at}")
        upload(rig.store, ONE)
        rig.installed.clear()
        before = rig.active()
        descriptors = len(os.listdir("/proc/self/fd"))
        with contextlib.suppress(OSError):
            mission(rig.open(ops=FailingStoreOps(fail_at, code, forever=forever)))
        assert len(os.listdir("/proc/self/fd")) == descriptors
        if rig.active() != before:
            assert rig.installed, f"call {fail_at}: the node was not told of the new version"
        check_recovers(rig)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_store_goes_on_after_a_failed_call_without_restart(fast_path, code):
    calls = count_calls(fast_path / "count")
    for fail_at in range(10, calls + 1, 3):
        rig = Rig(fast_path / f"{fail_at}")
        upload(rig.store, ONE)
        store = rig.open(ops=FailingStoreOps(fail_at, code))
        for _ in range(2):
            try:
                mission(store)
            except OSError:
                continue
        upload(store, THREE, Form.BROTLI)
        assert rig.active() == THREE
        assert rig.previous() == TWO
        assert rig.staged() == []


def test_a_kill_at_any_system_call_loses_nothing(fast_path):
    kill_at = 0
    while True:
        kill_at += 1
        rig = Rig(fast_path / f"{kill_at}")
        upload(rig.store, ONE)
        pid = os.fork()
        if pid == 0:
            try:
                mission(rig.open(ops=KillingStoreOps(kill_at)))
            finally:
                os._exit(0)
        _, wait_status = os.waitpid(pid, 0)
        check_recovers(rig)
        if os.WIFEXITED(wait_status):
            break
    assert kill_at > 80


def test_a_kill_loses_no_byte_that_was_taken(tmp_path):
    """The offset after a restart is what the child had appended when it died."""
    rig = Rig(tmp_path / "modules")
    offer, stream = offer_of(TWO)
    for size in range(32, 246, 50):
        rig.store.delete(NAME, Part.ALL) if rig.store.entry(NAME) else None
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            stage = rig.open().begin(offer)
            stage.append(stream[:size])
            os.write(write_end, b"x")
            os.kill(os.getpid(), 9)
        os.read(read_end, 1)
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)
        assert rig.open().begin(offer).received == size


def on_disk(disk):
    return disk.files.get(f"m/active/{NAME}"), disk.files.get(f"m/previous/{NAME}")


def test_a_power_cut_at_any_system_call_leaves_a_whole_version():
    base = {f"m/active/{NAME}": ONE}
    cut_at, states, done = 0, 0, False
    while not done:
        cut_at += 1
        disk = SimulatedStoreDisk(dict(base))
        with contextlib.suppress(PowerCut):
            mission(FileStore("m", ops=CuttingStoreOps(cut_at, disk)))
            done = True
        for files in disk.after_power_cut():
            states += 1
            left = SimulatedStoreDisk(files)
            store = FileStore("m", ops=left)
            found = on_disk(left)
            assert found in ({(TWO, THREE)} if done else STEPS)
            if found[0] != THREE:
                upload(store, THREE, Form.BROTLI)
                assert on_disk(left) == (THREE, found[0])
            assert left.open_descriptors == 0
    assert cut_at > 80
    assert states > cut_at


def test_a_power_cut_loses_nothing_that_was_synced():
    offer, stream = offer_of(TWO)
    disk = SimulatedStoreDisk()
    stage = FileStore("m", ops=disk).begin(offer)
    stage.append(stream[:246])
    stage.append(stream[246:492])
    stage.sync()
    for files in disk.after_power_cut():
        again = FileStore("m", ops=SimulatedStoreDisk(files)).begin(offer)
        assert again.received == 492


def test_a_stage_that_could_not_be_written_is_dead_until_begun_again(rig):
    class Torn(SystemStoreOps):
        torn = False

        def write(self, fd, data):
            if self.torn:
                super().write(fd, data[:100])
                raise OSError(errno.ENOSPC, "full")
            return super().write(fd, data)

    ops = Torn()
    store = rig.open(ops=ops)
    offer, stream = offer_of(TWO)
    stage = store.begin(offer)
    stage.append(stream[:246])
    ops.torn = True
    with pytest.raises(OSError, match="full"):
        stage.append(stream[246:492])
    ops.torn = False
    assert status_of(stage.append, stream[246:492]) is Status.REPLACED
    again = store.begin(offer)
    assert again.received == 246
    send(again, stream)
    list(again.finish())
    assert rig.active() == TWO


def test_a_foreign_or_damaged_stage_is_dropped_at_start(rig):
    staged = rig.folder / "staged"
    for name in ("a~stage", "b~new", "c~part", "d~stage~part"):
        (staged / name).write_bytes(b"garbage")
    rig.open()
    assert rig.staged() == []


def test_an_interrupted_replacement_is_completed_or_undone_at_start(rig):
    upload(rig.store, TWO)
    old = rig.folder / "staged" / f"{NAME}~old"
    old.write_bytes(TWO)
    rig.open()
    assert (rig.active(), rig.previous(), rig.staged()) == (TWO, None, [])
    old.write_bytes(ONE)
    rig.open()
    assert (rig.active(), rig.previous(), rig.staged()) == (TWO, ONE, [])


def test_a_replacement_that_failed_does_not_cost_the_previous_version(rig):
    class Stuck(SystemStoreOps):
        def rename(self, old, new):
            if new.endswith(f"active/{NAME}"):
                raise OSError(errno.EIO, "stuck")
            super().rename(old, new)

    upload(rig.store, ONE)
    upload(rig.store, TWO)
    store = rig.open(ops=Stuck())
    with pytest.raises(OSError, match="stuck"):
        upload(store, THREE)
    store.delete(NAME, Part.ACTIVE)
    assert rig.store.rollback(NAME, sha(ONE))
    assert rig.active() == ONE


def test_versions_have_the_kind_they_are_listed_with(rig):
    upload(rig.store, ONE)
    upload(rig.store, TWO)
    entry = rig.store.entry(NAME)
    assert entry.version(VersionKind.ACTIVE).size == len(TWO)
    assert entry.version(VersionKind.PREVIOUS).size == len(ONE)
    assert entry.version(VersionKind.SHIPPED) is None


# -- giving way to the shipped version


def test_a_retired_version_gives_way_to_the_shipped_one_and_can_come_back(tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / NAME).write_bytes(THREE)
    rig = Rig(tmp_path / "modules")
    store = rig.open(shipped=[shipped])
    upload(store, ONE)
    assert store.retire(NAME)
    assert versions(store) == {"PREVIOUS": sha(ONE), "SHIPPED": sha(THREE)}
    assert rig.installed == [NAME, NAME]
    assert not store.retire(NAME), "there is none to retire any more"
    assert store.rollback(NAME, sha(ONE))
    assert versions(store)["ACTIVE"] == sha(ONE)
    assert status_of(store.retire, "../x") is Status.BAD_NAME


def test_a_power_cut_while_a_version_retires_leaves_it_whole_in_one_place():
    cut_at, done = 0, False
    while not done:
        cut_at += 1
        disk = SimulatedStoreDisk({f"m/active/{NAME}": TWO, f"m/previous/{NAME}": ONE})
        with contextlib.suppress(PowerCut):
            FileStore("m", ops=CuttingStoreOps(cut_at, disk)).retire(NAME)
            done = True
        for files in disk.after_power_cut():
            left = SimulatedStoreDisk(files)
            FileStore("m", ops=left)
            assert on_disk(left) in ({(None, TWO)} if done else {(TWO, ONE), (None, TWO)})
    assert cut_at > 8
