"""Arenas in huge pages: nobody can shorten them, and where they cannot be had others are taken."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import traceback

import numpy as np
import pytest

from csp.sched import Promise
from dipp.batch import encode_batch, split_blocks
from dipp.errors import ContentError
from dipp.runner.arena import IN_USE, ArenaPool, create_arena, has_fixed_size, used_bytes
from dipp.runner.executor import Completed, Limits
from dipp.runner.hugefiles import can_be_opened_anew, device_of, make_files, mount_huge
from dipp.runner.outcome import Job, assign, collect_images, ref_of
from dipp.runner.values import Policy
from dipp.sandbox.enclosure import enclose_host
from dipp.sandbox.landlock import forbid_truncation, version
from dipp.sandbox.limits import forbid_privileges
from dipp.testing import Harness, make_chain, no_leaks, sample_image, segment

SIZE = 4 << 20
INVERT = """
def run(batch, params):
    for image in batch:
        pixels = image.edit()
        pixels[:] = 4095 - pixels
"""


@pytest.fixture(scope="module")
def mount():
    fd = mount_huge()
    if fd < 0 or version() < 3:
        pytest.skip("no private file system in huge pages, or Landlock does not watch truncation")
    yield fd
    os.close(fd)


@pytest.fixture
def files(mount):
    fds = make_files(mount, IN_USE, SIZE)
    yield fds
    for fd in fds:
        os.close(fd)


def in_child(function):
    """Say what a function returns in a process of its own, which it may confine."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_fd, repr(function()).encode())
        except BaseException:  # boundary: a child of a test must never return into pytest
            os.write(write_fd, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        answer = file.read().decode()
    os.waitpid(pid, 0)
    return answer


def refuses_another_size(fd):
    """Say with which errors a descriptor refuses to shorten, keep and grow its file."""
    found = set()
    for size in (0, SIZE - 1, SIZE, 2 * SIZE):
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            found.add(error.errno)
        else:
            found.add(0)
    return found


def test_files_have_their_size_and_hold_nothing(mount, files):
    assert len(files) == IN_USE
    assert len({os.fstat(fd).st_ino for fd in files}) == IN_USE
    for fd in files:
        assert os.fstat(fd).st_size == SIZE
        assert used_bytes(fd) == 0
        assert os.fstat(fd).st_dev == device_of(mount)
        assert os.pread(fd, 1, SIZE - 1) == b"\0"


def test_no_descriptor_of_them_shortens_or_grows_them(files):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        socket.send_fds(left, [b"f"], [files[0]])
        (passed,) = socket.recv_fds(right, 1, 1)[1]
    copied = os.dup(files[0])
    try:
        for fd in (files[0], passed, copied):
            assert refuses_another_size(fd) == {errno.EACCES}
        assert os.fstat(files[0]).st_size == SIZE
    finally:
        os.close(passed)
        os.close(copied)


def test_what_one_mapping_writes_another_reads(files):
    with mmap.mmap(files[0], SIZE) as one, mmap.mmap(files[0], SIZE, prot=mmap.PROT_READ) as two:
        one[0], one[SIZE - 1] = 7, 9
        assert (two[0], two[SIZE - 1]) == (7, 9)
    assert os.fstat(files[0]).st_size == SIZE
    assert 0 < used_bytes(files[0]) <= SIZE


def test_only_who_is_not_confined_gets_another_descriptor(files, tmp_path):
    fd = files[0]
    assert can_be_opened_anew(fd)
    # That one is no better than any other: this is why hosts are asked.
    anew = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    os.ftruncate(anew, 1)
    os.close(anew)
    assert os.fstat(fd).st_size == 1

    def confined():
        missing = enclose_host(str(tmp_path), [str(tmp_path)], policy=Policy(), cgroup=None)
        assert not any(text.startswith("landlock") for text in missing)
        return [can_be_opened_anew(each) for each in files]

    assert in_child(confined) == repr([False] * IN_USE)


def test_landlock_forbids_to_open_what_could_be_shortened(tmp_path):
    if version() < 3:
        pytest.skip("Landlock does not watch truncation here")
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    before = os.open(path, os.O_RDWR)

    def confined():
        forbid_privileges()
        forbid_truncation()
        found = []
        for act in (
            lambda: os.ftruncate(os.open(path, os.O_RDWR), 1),
            lambda: os.truncate(path, 1),
            lambda: os.open(path, os.O_RDWR | os.O_TRUNC),
            # Only what is opened from now on.
            lambda: os.ftruncate(before, 4),
            lambda: os.pwrite(os.open(path, os.O_RDWR), b"x", 0),
        ):
            try:
                act()
            except OSError as error:
                found.append(error.errno)
            else:
                found.append(0)
        return found

    assert in_child(confined) == repr([errno.EACCES] * 3 + [0, 0])
    assert path.read_bytes() == b"x234"
    os.close(before)


def test_without_a_file_system_arenas_are_sealed():
    assert device_of(-1) == 0
    assert make_files(-1, IN_USE, SIZE) == []
    with no_leaks():
        pool = ArenaPool(SIZE, SIZE, make_files(-1, IN_USE, SIZE))
        fds = [pool.scratch_fd, *(arena.fd for arena in pool.rotating)]
        assert all(has_fixed_size(fd) for fd in fds)
        pool.close()


def test_a_pool_uses_the_files_it_is_given_and_closes_them(mount):
    with no_leaks():
        given = make_files(mount, IN_USE, SIZE)
        pool = ArenaPool(SIZE, 0, given)
        spare = pool.spare([arena.fd for arena in pool.rotating])
        assert {pool.scratch_fd, spare.fd, *(a.fd for a in pool.rotating)} == set(given)
        device = device_of(mount)
        for arena in (spare, *pool.rotating):
            assert not has_fixed_size(arena.fd)
            assert has_fixed_size(arena.read_fd, device)
            with pytest.raises(OSError, match=r"Invalid|Permission"):
                os.ftruncate(arena.read_fd, 0)
        # Given back, the memory is gone and the size is not.
        os.pwrite(spare.fd, b"x", 0)
        pool.trim()
        assert (used_bytes(spare.fd), os.fstat(spare.fd).st_size) == (0, SIZE)
        pool.close()


def test_a_file_system_that_is_none_gives_no_files_and_leaks_nothing(mount):
    with no_leaks():
        fd = os.open("/proc/self", os.O_RDONLY)
        assert make_files(fd, IN_USE, SIZE) == []
        os.close(fd)


# -- the process tree


def device_under(view):
    """Return the device whose file is mapped where these bytes lie."""
    address = np.frombuffer(view, np.uint8).ctypes.data
    with open("/proc/self/maps", encoding="utf-8") as file:
        for line in file:
            span, _, _, device, *_ = line.split()
            start, end = (int(text, 16) for text in span.split("-"))
            if start <= address < end:
                major, minor = (int(text, 16) for text in device.split(":"))
                return os.makedev(major, minor)
    raise AssertionError("not mapped")


def sealed_device():
    fd = create_arena(4096)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def inverted(data):
    return (4095 - np.frombuffer(data, "<u2")).tobytes()


@pytest.fixture
def chain(tmp_path):
    (tmp_path / "invert.py").write_text(INVERT)
    return make_chain(tmp_path / "invert.py", tmp_path / "invert.py", tmp_path / "invert.py")


@pytest.mark.parametrize("namespaces", [True, False])
def test_results_come_in_huge_pages(mount, chain, namespaces):
    with no_leaks(), Harness(namespaces=namespaces) as harness:
        for _ in range(3):
            outcome = harness.run(chain)
            assert isinstance(outcome, Completed)
            ((_, view),) = outcome.images
            device = harness.executor.arena_device
            assert device not in (0, sealed_device())
            assert device_under(view) == device
            assert bytes(view) == inverted(sample_image()[1])
            del view
            outcome.close()


@pytest.mark.parametrize(
    "limits", [Limits(huge_pages=False), Limits(skipped_rungs=("landlock",))], ids=["small", "open"]
)
def test_else_they_come_in_sealed_memory(chain, limits):
    with no_leaks(), Harness(limits) as harness:
        outcome = harness.run(chain)
        assert isinstance(outcome, Completed)
        ((_, view),) = outcome.images
        assert device_under(view) == sealed_device() != harness.executor.arena_device
        assert bytes(view) == inverted(sample_image()[1])
        del view
        outcome.close()


ATTACK = """
import ctypes, os
LIBC = ctypes.CDLL(None, use_errno=True)
done = []
for fd in range(3, 256):
    try:
        size = os.fstat(fd).st_size
    except OSError:
        continue
    if size < 1 << 20:
        continue
    done.append('seen')
    for name, act in (
        ('shorten', lambda: os.ftruncate(fd, 0)),
        ('grow', lambda: os.ftruncate(fd, 2 * size)),
        ('open', lambda: os.ftruncate(open(f'/proc/self/fd/{fd}', 'r+b').fileno(), 0)),
        ('empty', lambda: open(f'/proc/self/fd/{fd}', 'wb')),
        ('name', lambda: os.truncate(f'/proc/self/fd/{fd}', 0)),
        ('self', lambda: os.truncate(f'/proc/{os.getpid()}/fd/{fd}', 0)),
        ('link', lambda: os.link(f'/proc/self/fd/{fd}', 'x', follow_symlinks=True)),
    ):
        try:
            act()
            done.append(name)
        except OSError:
            pass
"""


@pytest.mark.parametrize("huge_pages", [True, False])
def test_code_that_is_loaded_cannot_shorten_what_its_host_holds(tmp_path, huge_pages):
    path = tmp_path / "attack.py"
    note = "    batch.images[0].add_item('done', ' '.join(sorted(set(done))))\n"
    path.write_text(f"{ATTACK}\n{INVERT}{note}")
    with no_leaks(), Harness(Limits(huge_pages=huge_pages)) as harness:
        for _ in range(2):
            ((metadata, pixels),) = harness.run_images(make_chain(path))
            assert metadata.item("done") == "seen"
            assert pixels == inverted(sample_image()[1])


def test_an_arena_that_could_be_shortened_is_refused():
    data = encode_batch([sample_image()])
    blocks = split_blocks(data, 1, len(data))
    fd = os.memfd_create("test-arena", os.MFD_CLOEXEC)
    os.write(fd, data)
    with segment(data) as input_fd, no_leaks():
        job = Job(batch_id=1, chain=make_chain(), segment_fd=input_fd, blocks=blocks)
        assignment = assign(job, Promise(), lambda act: act())
        images = [ref_of(block) for block in blocks]
        for device in (0, os.fstat(fd).st_dev + 1):
            with pytest.raises(ContentError, match="not sealed"):
                collect_images(assignment, images, [os.dup(fd)], device=device)
        collect_images(assignment, images, [os.dup(fd)], device=os.fstat(fd).st_dev).close()
        os.close(assignment.segment_fd)
    os.close(fd)
