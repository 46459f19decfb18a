"""What belongs to a node is its user's alone, and no name from elsewhere leaves its directory.

Everything is made with an open umask: the modes are those the code asks for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import posix_ipc
import pytest

from csp.files.archive import Archive
from csp.files.status import FilesError, Status
from csp.files.store import FileStore
from csp.files.wire import NAME_MAX_BYTES, Part, check_name
from csp.shell.session import printable
from csp.vmem.file import FileArea
from dipp.config.definition import MODULE_NAME
from dipp.errors import ContentError, MisuseError
from dipp.message import BatchMessage
from dipp.metadata import Metadata
from dipp.modulefiles import ModuleLibrary, Uplinked
from dipp.pictures import file_part
from dipp.quarantine import Quarantine
from dipp.rig import unique
from dish.program import Procedure
from dish.storage import ProcedureFile
from sim.camera.segments import BatchQueue, SegmentWriter
from sim.store import ObservationStore
from tests.dipp.test_node import World

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(path: Path) -> list[str]:
    """Return what below a path others may touch."""
    return [
        f"{each.relative_to(path.parent)} {stat.S_IMODE(each.lstat().st_mode):o}"
        for each in (path, *path.rglob("*"))
        if stat.S_IMODE(each.lstat().st_mode) & OTHERS
    ]


def queue_mode(name: str) -> int:
    queue = posix_ipc.MessageQueue(name)
    try:
        return stat.S_IMODE(os.fstat(queue.mqd).st_mode)
    finally:
        queue.close()


def test_everything_of_a_running_node_is_private(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "bad.py").write_text("def run(batch, params):\n    1 / 0\n")
    (modules / "good.py").write_text("def run(batch, params):\n    pass\n")
    state = tmp_path / "state"
    world = World(state, modules, unique())
    try:
        world.configure(1, "bad")
        world.configure(2, "good")
        for pipeline in (1, 2):
            world.camera.shoot(b"\x01\x02", pipeline=pipeline)
            world.process()
        assert queue_mode(world.camera.queue) == 0o600
    finally:
        world.close()
    found = {path.name for path in state.iterdir()}
    assert {"journal", "images.vmem", "storage.vmem", "quarantine", "log", "modules"} <= found
    # The one file that is written for other programs to read.
    (state / "status.json").unlink()
    assert open_to_others(state) == []


def test_what_the_camera_makes_is_private() -> None:
    writer = SegmentWriter(obid=1)
    queue = unique()
    try:
        writer.append(
            Metadata(width=8, height=4, channels=1, bits_pixel=12, size=64),
            np.zeros((4, 8), np.uint16),
        )
        message = writer.publish(1)
        segment = posix_ipc.SharedMemory(writer.name)
        assert stat.S_IMODE(os.fstat(segment.fd).st_mode) == 0o600
        segment.close_fd()
        assert BatchQueue(queue).try_send(message)
        assert queue_mode(queue) == 0o600
    finally:
        writer.discard()
        posix_ipc.unlink_message_queue(queue)


def make_area(folder: Path) -> None:
    area = FileArea("storage", folder / "storage.vmem", 100)
    for byte in (b"a", b"b"):
        area.write(0, byte)
        area.flush()


STORES = [
    ("parameters", make_area),
    ("files", lambda folder: FileStore(folder / "files")),
    ("archive", lambda folder: Archive(folder / "archive").keep(b"x")),
    ("procedures", lambda folder: ProcedureFile(folder / "dish" / "p").save({20: Procedure()})),
    ("radio", lambda folder: ObservationStore(folder / "radio", 10_000)),
    ("quarantine", lambda folder: Quarantine(folder / "quarantine", on_evict=print)),
]


@pytest.mark.parametrize("make", [row[1] for row in STORES], ids=[row[0] for row in STORES])
def test_stores_are_private(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    make(root)
    assert list(root.iterdir())
    assert open_to_others(root) == []


HOSTILE = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a/../../b", "a\\b", "a\0b", "~root", "-rf",
    ".hidden", "a~stage", "a~old", "a b", "a\n", "\x1b[2J", "ä", "a:b", "*", "a" * 300,
    "%2e%2e%2f", "CON\u202e", "x" * (NAME_MAX_BYTES + 1),
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_uploaded_name_leaves_the_store(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "x"
    outside.write_text("mine")
    store = FileStore(tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: check_name(name),
        lambda: store.entry(name),
        lambda: store.delete(name, Part.ALL),
        lambda: store.rollback(name, bytes(32)),
        lambda: store.sign(name, bytes(32), bytes(68)),
    ):
        with pytest.raises(FilesError) as caught:
            call()
        assert caught.value.status is Status.BAD_NAME
    assert sorted(tmp_path.rglob("*")) == before
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", [*HOSTILE, "a.py", "a.b"])
def test_no_module_name_leaves_its_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.py").write_text("def run(batch, params): pass\n")
    folder = tmp_path / "modules"
    folder.mkdir()
    if name == "-rf":
        assert MODULE_NAME.fullmatch(name)
    with pytest.raises(ContentError):
        ModuleLibrary([folder]).find(name)


def test_no_link_leads_out_of_a_module_directory(tmp_path: Path) -> None:
    target = tmp_path / "secret.py"
    target.write_text("def run(batch, params): pass\n")
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "link.py").symlink_to(target)
    (folder / "family").symlink_to(tmp_path)
    library = ModuleLibrary([folder], Uplinked(directory=folder))
    for name in ("link", "secret"):
        with pytest.raises(ContentError):
            library.find(name)


SEGMENTS = ["/", "x", "//x", "/a/b", "/../x", "/.x", "/" + "a" * 60, "/a\0", "/a~"]


@pytest.mark.parametrize("name", SEGMENTS)
def test_no_segment_name_leaves_shared_memory(name: str) -> None:
    with pytest.raises((ContentError, MisuseError)):
        BatchMessage(num_images=1, batch_size=1, pipeline_id=1, segment=name)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_satellite_says_is_one_part_of_a_file_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"image_{file_part(name)}.png"
    path.write_bytes(b"")
    assert path.resolve().parent == tmp_path
    assert path.name.isprintable()


def test_control_characters_of_nodes_do_not_reach_the_terminal() -> None:
    assert printable("a\tb\nc ä€") == "a\tb\nc ä€"
    assert printable("\x1b]0;x\x07\x9b2J\x7f\r") == "\\x1b]0;x\\x07\\x9b2J\\x7f\\x0d"
