"""The file service of csh's `ftp`: every request over good and bad links, and no way out."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError, PeerError, Refused
from csp.files.folder import FtpFolder
from csp.ftp import FILE_LIMIT_BYTES, FTP_PORT, Action, FtpClient, FtpError, FtpRequest, FtpServer
from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.sfp import encode_fragments
from csp.shell.main import open_session
from csp.stack import Stack
from csp.testing import Faults, Network

CLIENT, SERVER = 20, 9


class World:
    def __init__(self, folder, faults=None, seed=1):
        self.network = Network(faults=faults, seed=seed)
        self.stack = self.network.add(CLIENT)
        self.client = FtpClient(self.stack, SERVER)
        self.folder = folder
        self.awake = True
        self.server = FtpServer(FtpFolder(folder), lambda: self.awake)
        self.network.add(SERVER).listen(FTP_PORT, self.server.serve)

    def run(self, task):
        return self.network.run(task, 36_000)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "files")


def test_request_layout():
    request = FtpRequest(action=Action.DOWNLOAD, path="a/b")
    raw = request.encode()
    assert (raw[:6], raw[-2:], len(raw)) == (b"\1\1a/b\0", b"\3\0", 260)
    assert FtpRequest.decode(raw) == request


@given(st.binary(min_size=0, max_size=300))
def test_any_bytes_are_a_request_or_a_named_error(data):
    for candidate in (data, data.ljust(260, b"\0")[:260], b"\1\0" + data.ljust(258, b"\0")[:258]):
        try:
            FtpRequest.decode(candidate)
        except DecodeError:
            continue


@pytest.mark.parametrize("path", ["", "x" * 256, "a\0b"])
def test_paths_that_do_not_fit_are_misuse(path):
    with pytest.raises(MisuseError):
        FtpRequest(action=Action.LIST, path=path).encode()


@pytest.mark.parametrize("faults", [
    Faults(delay_s=0.01), Faults(delay_s=0.02, loss=0.3),
    Faults(delay_s=0.05, jitter_s=0.2, loss=0.1, duplication=0.1, corruption=0.05),
], ids=["good", "loss 30 %", "all at once"])  # fmt: skip
def test_everything_an_operator_does(tmp_path, faults):
    world, content = World(tmp_path / "files", faults), random.Random(1).randbytes(20_000)

    async def work():
        client = world.client
        await client.upload("modules/new.so", content)
        assert await client.names("/") == ["modules"]
        assert await client.names("modules") == ["new.so"]
        assert await client.download("/modules/new.so") == content
        await client.move("modules/new.so", "old/kept.so")
        assert await client.names("modules") == []
        assert await client.download("old/kept.so") == content
        await client.remove("old")
        return await client.names("/")

    assert world.run(work()) == ["modules"]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/..", "link/x", "link", ".ftp-x"])
@pytest.mark.parametrize("action", ["upload", "download", "names", "remove", "move", "onto"])
def test_nothing_outside_the_folder_is_reached(world, tmp_path, path, action):
    (tmp_path / "x").write_bytes(b"outside")
    (world.folder / "link").symlink_to(tmp_path)
    (world.folder / "inside").write_bytes(b"inside")
    client = world.client
    task = {
        "upload": lambda: client.upload(path, b"bad"),
        "download": lambda: client.download(path),
        "names": lambda: client.names(path),
        "remove": lambda: client.remove(path),
        "move": lambda: client.move(path, "mine"),
        "onto": lambda: client.move("inside", path),
    }[action]
    with pytest.raises(Refused, match="io error"):
        world.run(task())
    assert (tmp_path / "x").read_bytes() == b"outside"
    assert sorted(os.listdir(world.folder)) == ["inside", "link"]


@pytest.mark.parametrize("path", ["/", ".", "//./"])
def test_the_folder_itself_cannot_be_removed_or_replaced(world, path):
    (world.folder / "file").write_bytes(b"x")
    for task in (world.client.remove(path), world.client.move(path, "b"),
                 world.client.move("file", path)):  # fmt: skip
        with pytest.raises(Refused):
            world.run(task)
    assert world.run(world.client.names(path)) == ["file"]


@pytest.mark.parametrize("action", ["download", "names", "remove"])
def test_what_is_not_there_is_refused(world, action):
    with pytest.raises(Refused, match="io error"):
        world.run(getattr(world.client, action)("nothing"))
    assert world.server.refused == 1


def test_empty_and_oversized_files_are_refused_instead_of_hanging(world):
    (world.folder / "empty").touch()
    with (world.folder / "big").open("wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)
    for name in ("empty", "big"):
        with pytest.raises(Refused, match="io error"):
            world.run(world.client.download(name))
    with pytest.raises(MisuseError):
        world.run(world.client.upload("nothing", b""))
    assert not (world.folder / "nothing").exists()


def test_an_upload_that_breaks_off_leaves_the_old_file_and_nothing_else(world):
    (world.folder / "file").write_bytes(b"old")

    async def break_off():
        connection = await world.stack.connect(SERVER, FTP_PORT)
        await connection.send(FtpRequest(action=Action.UPLOAD, path="file").encode())
        await connection.receive()
        for payload in list(encode_fragments(bytes(1_000), 200))[:3]:
            await connection.send(payload)
        connection.close()

    world.run(break_off())
    world.network.wait(15)
    assert (world.folder / "file").read_bytes() == b"old"
    assert os.listdir(world.folder) == ["file"]


def test_what_a_killed_server_left_is_removed_at_the_start(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".ftp-0123").write_bytes(b"part")
    FtpFolder(tmp_path)
    assert os.listdir(tmp_path / "deep") == []


def test_a_full_disk_is_refused_and_leaves_nothing(world, monkeypatch):
    def no_space(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csp.files.folder.os.fsync", no_space)
    with pytest.raises(Refused, match="io error"):
        world.run(world.client.upload("file", b"x" * 1_000))
    assert os.listdir(world.folder) == []


def test_while_the_computer_sleeps_nobody_answers(world):
    world.awake = False
    with pytest.raises(PeerError):
        world.run(world.client.names("/"))


@pytest.mark.parametrize("data", [b"\1\5" + bytes(258), b"\2\0" + bytes(258), b"\1", bytes(261)])
def test_what_is_no_request_ends_the_connection(world, data):
    async def ask():
        connection = await world.stack.connect(SERVER, FTP_PORT)
        await connection.send(data)
        return await connection.receive(5.0)

    assert world.run(ask()) is None
    assert world.run(world.client.names("/")) == []


def test_a_name_as_a_folder_and_as_a_file(tmp_path):
    folder = FtpFolder(tmp_path)
    folder.write("a/b", b"x")
    for path in ("a", "a/b/c"):
        with pytest.raises(FtpError):
            folder.write(path, b"y")
    assert folder.read("a/b") == b"x"


class TestShell:
    """The commands as an operator types them."""

    @pytest.fixture
    def session(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        loop = Loop()
        bus = MemoryBus(loop.scheduler)
        monkeypatch.setattr("csp.shell.main.Loop", lambda: loop)
        stack = Stack(loop.scheduler)
        link = bus.link("NODE")
        interface = stack.add_interface("NODE", SERVER, link.send)
        link.open(loop, lambda frame: stack.receive(interface, frame))
        stack.listen(FTP_PORT, FtpServer(FtpFolder(tmp_path / "files")).serve)
        self.lines = []
        with open_session(bus.link("SHELL"), address=CLIENT, out=self.lines.append) as session:
            session.node = SERVER
            yield session

    def test_a_file_goes_up_moves_comes_down_and_is_removed(self, session, tmp_path):
        content = random.Random(4).randbytes(2_000)
        (tmp_path / "up").write_bytes(content)
        for line in (
            "ftp upload -p a/b up", "ftp ls a", "ftp move a/b c", "ftp download -o down c",
            "ftp remove c", "ftp ls",
        ):  # fmt: skip
            assert session.run_line(line, 20.0), self.lines
        assert (tmp_path / "down").read_bytes() == content
        assert self.lines == [
            "a/b: 2000 bytes stored on node 9", "b", "a/b is now c", "down: 2000 bytes",
            "c: removed", "a",
        ]  # fmt: skip

    def test_what_went_wrong_is_said(self, session, tmp_path):
        (tmp_path / "empty").touch()
        for line, reason in (
            ("ftp download nothing", "nothing: io error"), ("ftp upload empty", "is empty"),
            ("ftp ls ..", "io error"), ("ftp upload missing", "missing"),
        ):  # fmt: skip
            assert not session.run_line(line, 20.0)
            assert reason in self.lines[-1]
