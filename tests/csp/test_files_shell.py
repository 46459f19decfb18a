"""`upload` and `files ...` as an operator types them, against a node on the same loop."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from csp.files.archive import Archive, default_archive, read_bases
from csp.files.server import FilesServer
from csp.files.store import FileStore, Limits
from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.shell.main import open_session
from csp.stack import Stack

NODE = 162
ONE = random.Random(1).randbytes(5000)
TWO = ONE[:2500] + b"two" + ONE[2500:]


class Rig:
    """A shell session, and a node with the file service."""

    def __init__(self, session, folder, lines):
        self.session = session
        self.folder = folder
        self.lines = lines
        self.installed = []

    def run(self, line, ok=True):
        del self.lines[:]
        assert self.session.run_line(line, 20.0) is ok, "\n".join(self.lines)
        return "\n".join(self.lines)

    def active(self, name):
        return (self.folder / "active" / name).read_bytes()


@pytest.fixture
def rig(monkeypatch, tmp_path) -> Iterator[Rig]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ground"))
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    loop = Loop()
    bus = MemoryBus(loop.scheduler)
    monkeypatch.setattr("csp.shell.main.Loop", lambda: loop)
    stack = Stack(loop.scheduler)
    link = bus.link("NODE")
    interface = stack.add_interface("NODE", NODE, link.send)
    link.open(loop, lambda frame: stack.receive(interface, frame))
    with open_session(bus.link("SHELL"), address=20, out=lines.append) as session:
        session.node = NODE
        rig = Rig(session, tmp_path / "modules", lines)
        limits = Limits(content_bytes=100_000)
        FilesServer(stack, FileStore(rig.folder, rig.installed.append, limits=limits))
        yield rig


def write(name, content):
    Path(name).write_bytes(content)


def test_upload_says_what_it_takes_and_then_does_it(rig):
    write("cloud.py", ONE)
    text = rig.run("upload cloud.py")
    assert "cloud.py: bytes as it is 5000, compressed 5004" in text
    assert "sending as it is: 5000 bytes" in text
    assert "bytes with overhead" in text
    assert "at 9600 bit/s, 1 pass of 480 s" in text
    assert "cloud.py: active on node 162" in text
    assert rig.active("cloud.py") == ONE
    assert rig.installed == ["cloud.py"]


def test_plan_only_sends_nothing(rig):
    write("cloud.py", ONE)
    text = rig.run("upload --plan -r 1200 -l 10 cloud.py")
    assert "at 1200 bit/s" in text
    assert "passes of 10 s" in text
    assert rig.installed == []
    assert "0 files" in rig.run("files list")


def test_the_second_upload_is_a_delta_of_what_was_sent_from_here(rig):
    write("cloud.py", ONE)
    rig.run("upload cloud.py")
    write("cloud.py", TWO)
    text = rig.run("upload cloud.py")
    assert "sending delta:" in text
    assert "against version" in text
    assert rig.active("cloud.py") == TWO
    assert "nothing to send" in rig.run("upload cloud.py")


def test_a_base_can_be_given(rig):
    write("v1.py", ONE)
    write("v2.py", TWO)
    rig.run("upload -N cloud.py v1.py")
    for path in (Path("ground") / "payload" / "ground" / "uploaded").iterdir():
        path.unlink()
    assert "delta" not in rig.run("upload -p -N cloud.py v2.py")
    assert "sending delta:" in rig.run("upload -p -b v1.py -N cloud.py v2.py")
    assert "sending delta:" in rig.run("upload -b . -N cloud.py v2.py")
    assert rig.active("cloud.py") == TWO


def test_list_rollback_and_delete(rig):
    write("cloud.py", ONE)
    rig.run("upload cloud.py")
    write("cloud.py", TWO)
    rig.run("upload cloud.py")
    text = rig.run("files list")
    assert "active         5003" in text
    assert "previous       5000" in text
    assert "1 file," in text
    assert "is active" in rig.run("files rollback cloud.py")
    assert rig.active("cloud.py") == ONE
    rig.run("files delete -p cloud.py")
    assert "no previous version" in rig.run("files rollback cloud.py", ok=False)
    rig.run("files delete cloud.py")
    assert "no such file" in rig.run("files delete cloud.py", ok=False)
    assert "no such file" in rig.run("files delete -s cloud.py", ok=False)


def test_mistakes_are_explained(rig):
    assert "absent.py" in rig.run("upload absent.py", ok=False)
    write("big", bytes(100_001))
    assert "more bytes than the node accepts" in rig.run("upload big", ok=False)
    write("ok", b"x")
    assert "not a file name" in rig.run("upload -N ../x ok", ok=False)
    assert "too short" in rig.run("upload -l 0.5 -N x ok", ok=False)
    assert "is not a valid BPS" in rig.run("upload -r 0 ok", ok=False)
    assert "either -s or -p" in rig.run("files delete -s -p ok", ok=False)
    assert "no response from node 5" in rig.run("files list -n 5 -t 50", ok=False)


# -- the ground's archive


def test_the_archive_keeps_the_newest_and_checks_what_it_gives(tmp_path):
    archive = Archive(tmp_path / "a")
    assert archive.find([bytes(32)]) == {}
    for number in range(70):
        archive.keep(b"%d" % number)
    paths = sorted((tmp_path / "a").iterdir())
    assert len(paths) == 64
    digests = [bytes.fromhex(path.name) for path in paths]
    paths[0].write_bytes(b"damaged")
    assert len(archive.find(digests)) == 63


def test_the_default_archive_is_in_the_state_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    default_archive().keep(b"x")
    assert len(list((tmp_path / "payload" / "ground" / "uploaded").iterdir())) == 1


def test_bases_come_from_a_file_or_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert set(read_bases(tmp_path).values()) == {b"a", b"b"}
    assert set(read_bases(tmp_path / "a").values()) == {b"a"}
