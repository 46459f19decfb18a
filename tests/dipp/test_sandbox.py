"""The ladder: rungs hold for root and for others, missing ones are reported and stop nothing."""

from __future__ import annotations

import errno
import os
import resource
import socket
import tempfile
import traceback
from pathlib import Path

import pytest

from dipp.runner.values import Policy
from dipp.sandbox import cgroups, landlock
from dipp.sandbox.enclosure import enclose_host
from dipp.sandbox.gear import Gear, find_user, make_gear, recount
from dipp.sandbox.ladder import LADDER, Rung, climb
from dipp.sandbox.limits import Confinement, close_all_but
from dipp.sandbox.namespaces import PidNamespaces, probe_namespaces
from dipp.sandbox.rungs import RUNGS, active_mask, active_names, merge
from dipp.sandbox.trial import try_everything, try_ladder

NOBODY = 65534
POLICY = Policy(memory_bytes=64 << 20, arena_bytes=1 << 20, file_bytes=4096, open_files=32)


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.fixture(params=["as we are", "nobody"])
def identity(request):
    """Return what makes a fresh child whom it shall be."""
    if request.param == "as we are":
        return lambda: None
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    return become_nobody


@pytest.fixture
def scratch():
    # Not below pytest's directory, through which nobody else may pass.
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o777)
        yield path


def in_child(body):
    """Run in a forked child, which must exit with 0."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body(parent)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def confinement(parent, gear=None, policy=POLICY):
    return Confinement(
        policy=policy, timeout_s=1.5, parent_pid=parent, keep_fds=(), gear=gear or Gear()
    )


def refused(call, *arguments):
    with pytest.raises(PermissionError):
        call(*arguments)


def held_children(count):
    """Fork so many children, which end when this process does."""
    read_fd, write_fd = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(write_fd)
            os.read(read_fd, 1)
            os._exit(0)


def names(reports):
    return [text.partition(":")[0] for text in reports]


def test_every_rung_holds(identity, scratch):
    def body(parent):
        identity()
        expected = {"user"} | ({"processes"} if os.getuid() == 0 else set())
        if not landlock.version():
            expected.add("landlock")
        gear = make_gear(POLICY, scratch)
        assert set(names(climb(confinement(parent, gear)))) == expected
        assert os.getsid(0) == os.getpid()
        assert resource.getrlimit(resource.RLIMIT_CPU) == (4, 5)
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 4096
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 32
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        refused(os.kill, parent, 0)
        refused(socket.socket)
        with pytest.raises(MemoryError):
            bytearray(256 << 20)

    in_child(body)


def test_files_are_out_of_reach_but_scratch_and_libraries(identity, scratch):
    if not landlock.version():
        pytest.skip("this kernel has no Landlock")

    def body(parent):
        identity()
        os.chdir(scratch)
        climb(confinement(parent, make_gear(POLICY, scratch, [str(Path(__file__))])))
        Path("new").write_text("x")
        os.rename("new", "other")
        os.mkdir("directory")
        # Not Python's own: it may lie where only root may go.
        assert os.listdir("/usr/lib")
        assert Path(__file__).read_bytes()
        Path("/dev/null").write_bytes(b"x")
        for path in ("/etc/passwd", f"/proc/{parent}/environ", "/proc/self/mem"):
            refused(Path(path).read_bytes)
        for path in ("/tmp/dipp-x", "/dev/shm/dipp-x", __file__):
            refused(open, path, "a")
        refused(os.truncate, __file__, 0)
        refused(os.listdir, "/")

    in_child(body)


def test_what_is_refused_works_without_the_rung(scratch):
    def body(parent):
        missing = climb(confinement(parent, make_gear(POLICY, scratch)), ("seccomp", "landlock"))
        assert not {"seccomp", "landlock"} & set(names(missing))
        socket.socket().close()
        assert os.listdir("/")
        assert os.listdir("/proc/self/fd")

    in_child(body)


def test_root_keeps_no_capability(scratch):
    def body(parent):
        climb(confinement(parent, make_gear(POLICY, scratch)), ("landlock",))
        status = Path("/proc/self/status").read_text().split("\n")
        rows = dict(line.split(":\t") for line in status if line.startswith(("Cap", "NoNew")))
        assert int(rows["CapEff"], 16) == int(rows["CapPrm"], 16) == 0
        assert rows["NoNewPrivs"] == "1"

    in_child(body)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a user")
def test_module_user(scratch):
    def body(parent):
        policy = Policy(user=str(NOBODY))
        assert (
            climb(
                confinement(parent, make_gear(policy, scratch, user=find_user(policy.user)), policy)
            )
            == ()
        )
        assert os.getresuid() == (NOBODY,) * 3
        assert os.getresgid() == (NOBODY,) * 3
        assert os.getgroups() == []
        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        assert policy.processes <= limit < policy.processes + 10_000

    in_child(body)


def test_the_limit_follows_what_the_user_runs(scratch):
    def body(parent):
        become_nobody()
        gear = make_gear(POLICY, scratch)
        before = gear.process_limit
        held_children(5)
        assert recount(gear, POLICY).process_limit == before + 5

    if os.geteuid() != 0:
        pytest.skip("somebody else's processes are counted")
    in_child(body)
    gear = make_gear(POLICY, scratch)
    assert recount(gear, POLICY) == gear


@pytest.mark.parametrize("user", ["no such user", "root", "0", "123456789"])
def test_a_user_that_cannot_be_had_is_reported(scratch, user):
    policy = Policy(user=user)
    assert "user" in names(
        try_ladder(policy, make_gear(policy, scratch, user=find_user(policy.user)))
    )


def test_processes_are_bounded_for_those_whom_it_binds(scratch):
    if os.geteuid() != 0:
        pytest.skip("would bound the tests themselves")

    def body(parent):
        policy = Policy(user=str(NOBODY), processes=3)
        climb(confinement(parent, make_gear(policy, scratch, user=find_user(policy.user)), policy))
        with pytest.raises(BlockingIOError):
            held_children(20)

    in_child(body)


def test_a_host_is_enclosed_before_it_loads_anything(identity, scratch):
    def body(parent):
        identity()
        missing = enclose_host(scratch, [__file__], policy=POLICY, cgroup=None)
        # Who has changed user may not write what is in its own /proc.
        assert set(names(missing)) <= {"cgroup", "network", "landlock", "oom-first", "scratch"}
        refused(socket.socket)
        refused(os.execv, "/bin/true", ["true"])
        # What a host needs.
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        left.close()
        right.close()
        assert Path("/proc/self/status").read_text()
        pid = os.fork()
        if pid == 0:
            gear = make_gear(POLICY, scratch, is_host_filtered=True)
            climb(confinement(os.getppid(), gear))
            refused(os.kill, os.getppid(), 0)
            os._exit(7)
        os.kill(pid, 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    in_child(body)


# -- groups


def test_a_group_bounds_root_and_is_removed(scratch):
    group = cgroups.Cgroups().create()
    if group is None:
        pytest.skip("no control group can be made here")

    def body(parent):
        group.enter(3)
        assert os.waitstatus_to_exitcode(os.waitpid(_fork_and_exit(), 0)[1]) == 0
        with pytest.raises(BlockingIOError):
            held_children(20)

    try:
        in_child(body)
        assert group.path.exists()
    finally:
        _remove_when_empty(group)
    assert not group.path.exists()


def _fork_and_exit():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def _remove_when_empty(group):
    while (group.path / "cgroup.procs").read_text():
        os.sched_yield()
    group.remove()


def test_groups_nobody_holds_are_removed(tmp_path):
    for name in ("dipp-dead", "dipp-alive", "other"):
        (tmp_path / name).mkdir()
    held = cgroups.Cgroup(tmp_path / "dipp-alive", os.open(tmp_path / "dipp-alive", os.O_RDONLY))
    cgroups.fcntl.flock(held.lock_fd, cgroups.fcntl.LOCK_SH)
    cgroups.remove_empty(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dipp-alive", "other"]
    held.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_where_groups_go_is_found_for_both_versions():
    assert cgroups._parse_own("8:pids,cpu:/a/b\n4:memory:/c\n0::/d:e\n") == [
        ("pids", "/a/b"), ("", "/d:e"),
    ]  # fmt: skip
    mounts = (
        "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "31 24 0:27 /x /sys/fs/cgroup/pids rw,nosuid shared:3 - cgroup cgroup rw,pids\n"
        "32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    assert cgroups._parse_mounts(mounts) == [
        ("pids", "/x", "/sys/fs/cgroup/pids"), ("", "/", "/sys/fs/cgroup/unified"),
    ]  # fmt: skip


# -- the climb


def test_only_wanted_descriptors_stay_open():
    def body(parent):
        kept = os.open(os.devnull, os.O_RDONLY)
        others = [os.dup(kept) for _ in range(5)]
        close_all_but((others[2], kept))
        for fd in (kept, others[2]):
            os.fstat(fd)
        for fd in (others[0], others[1], others[3], others[4]):
            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                os.fstat(fd)

    in_child(body)


def test_a_failing_rung_is_reported_and_the_climb_goes_on():
    applied = []

    def fail(confinement):
        raise PermissionError(errno.EPERM, "no")

    ladder = (
        Rung(name="steep", apply=fail),
        Rung(name="skipped", apply=fail),
        Rung(name="top", apply=applied.append),
    )
    here = confinement(os.getpid())
    assert climb(here, ("skipped",), ladder) == ("steep: no",)
    assert applied == [here]


def test_a_kernel_without_landlock_and_filters_stops_nothing(scratch):
    missing = try_ladder(Policy(), Gear())
    assert {"landlock", "seccomp"} <= set(names(missing))


def test_the_trial_finds_what_is_switched_off_and_what_holds(scratch):
    missing = try_ladder(Policy(skipped_rungs=("memory",)), make_gear(Policy(), scratch))
    assert "memory: switched off" in missing
    assert "limits" not in names(missing)


def test_everything_is_tried_without_a_trace(scratch):
    missing = try_everything(scratch, PidNamespaces(probe_namespaces()))
    assert "trial" not in names(missing)
    assert {"session", "limits", "seccomp"} <= set(active_names(missing))
    assert os.listdir(scratch) == []


def test_names_of_rungs_have_bits():
    known = [rung.name for rung in RUNGS]
    assert {rung.name for rung in LADDER} <= set(known)
    assert active_mask(()) == (1 << len(RUNGS)) - 1
    missing = merge(("memory: a", "session: b"), ("memory: c",))
    assert missing == ("memory: a", "session: b")
    assert active_names(missing) == tuple(n for n in known if n not in ("memory", "session"))
    assert active_mask(missing) == active_mask(()) & ~(1 << known.index("memory") | 1)
