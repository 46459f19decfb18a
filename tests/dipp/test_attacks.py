"""What an attacker would try beyond the fault catalogue, one row each, as root and as anybody.

Every attack runs as code in a process that put on what a host and its module child put on. Those of
`HARMLESS` also run without the rung that refuses them, and must work there: so the refusal is that
rung's, and the row is no accident. The last part runs the real process tree.
"""

from __future__ import annotations

import os
import stat
import tempfile
import traceback
from pathlib import Path

import pytest

from dipp.errors import Code
from dipp.runner.executor import Completed, Limits
from dipp.runner.values import Policy
from dipp.sandbox.enclosure import enclose_host
from dipp.sandbox.environment import is_kept
from dipp.sandbox.gear import make_gear
from dipp.sandbox.ladder import climb
from dipp.sandbox.landlock import version
from dipp.sandbox.limits import Confinement
from dipp.testing import Harness, make_chain

# Not the user of other tests, which count its processes.
ANYBODY = 65533
POLICY = Policy(memory_bytes=64 << 20, open_files=64)
PRELUDE = """
import array, ctypes, fcntl, mmap, os, signal, socket
LIBC = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = getattr(LIBC, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
def own():
    # The module's own code: it may be read.
    return os.open(CODE, os.O_RDONLY)
"""
# Name, rung that refuses it, code. KEY is a file of the node, CODE one the module may read, PARENT
# the host's process number.
MODES = (
    ("opens-a-file-of-the-node-to-all", "os.chmod(KEY, 0o777)"),
    ("opens-a-folder-of-the-node-to-all", "os.chmod(os.path.dirname(KEY), 0o777)"),
    ("closes-a-folder-of-the-node", "os.chmod(os.path.dirname(KEY), 0)"),
    ("changes-the-mode-by-descriptor", "os.fchmod(own(), 0o666)"),
    ("changes-times", "os.utime(KEY, (1, 1))"),
    ("sets-an-attribute", "os.setxattr(KEY, 'user.x', b'1')"),
    ("gives-a-file-away", "os.chown(KEY, os.getuid(), os.getgid())"),
    ("gives-its-code-away", "os.fchown(own(), os.getuid(), os.getgid())"),
    ("watches-a-file-of-the-node",
     "call('inotify_add_watch', call('inotify_init'), KEY.encode(), 0xfff)"),
)  # fmt: skip
KERNEL = (
    ("has-the-kernel-kill-its-parent",
     "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, PARENT)"),
    ("has-the-kernel-send-sigkill",
     "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, signal.SIGKILL)"),
    ("has-the-kernel-signal-a-group",
     "fcntl.fcntl(os.pipe()[0], 15, array.array('i', [2, PARENT]).tobytes())"),
    ("holds-up-an-open-by-a-lease", "fcntl.fcntl(own(), fcntl.F_SETLEASE, fcntl.F_RDLCK)"),
    ("watches-a-folder",
     "fcntl.fcntl(os.open(os.path.dirname(CODE), os.O_RDONLY), fcntl.F_NOTIFY, 1)"),
    ("outlives-its-parent", "call('prctl', 1, 0, 0, 0, 0)"),
    ("hides-from-proc", "call('prctl', 4, 0, 0, 0, 0)"),
    ("adopts-orphans", "call('prctl', 36, 1, 0, 0, 0)"),
    ("types-on-a-terminal", "fcntl.ioctl(0, 0x5412, b'x')"),
    ("executes-from-memory",
     "fd = os.memfd_create('x')\nos.write(fd, b'#!/bin/sh\\n')\nos.execve(fd, ['x'], {})"),
    ("executes-by-the-loader", "os.execv('/lib64/ld-linux-x86-64.so.2', ['x', '/bin/true'])"),
    ("asks-by-io-uring", "call('syscall', 425, 1, ctypes.create_string_buffer(256))"),
    ("binds-an-abstract-socket", "socket.socketpair()[0].bind(chr(0) + 'dipp-abstract')"),
    ("kills-its-group", "os.kill(0, 0)"),
    ("kills-the-group-of-its-parent", "os.killpg(PARENT, 0)"),
    ("leaves-a-semaphore", "call('semget', 0x44495050, 1, 0o1600)"),
    ("leaves-a-queue", "call('msgget', 0x44495050, 0o1600)"),
    ("slows-its-user-down", "os.setpriority(os.PRIO_USER, os.getuid(), 19)"),
    ("becomes-traced", "call('ptrace', 0, 0, 0, 0)"),
    ("compares-processes", "call('syscall', 312, PARENT, os.getpid(), 0, 0, 0)"),
)  # fmt: skip
FILES = (
    ("reads-a-key", "open(KEY).read()"),
    ("reads-a-key-by-path-descriptor",
     "fd = os.open(KEY, os.O_PATH)\nopen(f'/proc/self/fd/{fd}').read()"),
    ("reads-a-key-by-symbolic-link", "os.symlink(KEY, 'link')\nopen('link').read()"),
    ("replaces-a-key", "open('new', 'w').close()\nos.rename('new', KEY)"),
    ("takes-a-key-away", "os.unlink(KEY)"),
    ("empties-a-key", "os.truncate(KEY, 0)"),
    ("lists-the-keys", "os.listdir(os.path.dirname(KEY))"),
    ("changes-its-code", "open(CODE, 'a')"),
    ("reads-its-parents-memory", "open(f'/proc/{PARENT}/mem', 'rb')"),
    ("reads-its-parents-environment", "open(f'/proc/{PARENT}/environ', 'rb')"),
    ("reads-its-own-memory-by-name", "open('/proc/self/mem', 'r+b')"),
    ("lists-processes", "os.listdir('/proc')"),
    ("opens-shared-memory",
     "call('shm_open', b'/dipp-x', os.O_CREAT | os.O_RDWR, 0o600)"),
    ("makes-a-device", "os.mknod('null', 0o20600, os.makedev(1, 3))"),
    ("changes-a-control-group", "open('/sys/fs/cgroup/cgroup.procs', 'w')"),
)  # fmt: skip
ATTACKS = [
    *((name, "seccomp", body) for name, body in (*MODES, *KERNEL)),
    *((name, "landlock", body) for name, body in FILES),
]
# Done without its rung, these touch nothing but what the test made.
HARMLESS = {
    "opens-a-file-of-the-node-to-all", "opens-a-folder-of-the-node-to-all", "changes-times",
    "changes-the-mode-by-descriptor", "gives-a-file-away", "watches-a-file-of-the-node",
    "has-the-kernel-kill-its-parent", "has-the-kernel-send-sigkill",
    "holds-up-an-open-by-a-lease", "watches-a-folder",
    "outlives-its-parent", "hides-from-proc", "adopts-orphans",
    "reads-a-key", "reads-a-key-by-symbolic-link", "lists-the-keys", "changes-its-code",
    "empties-a-key", "takes-a-key-away",
}  # fmt: skip


class Place:
    """Files of the node and of the module, which belong to whoever runs the test."""

    def __init__(self, root: Path, uid: int) -> None:
        self.key, self.code = root / "state" / "keys.pub", root / "modules" / "module.py"
        self.scratch = root / "scratch"
        for folder in (self.key.parent, self.code.parent, self.scratch):
            folder.mkdir(mode=0o700)
        self.key.write_text("key")
        self.code.write_text("code")
        for path in (root, *root.rglob("*")):
            os.chown(path, uid, -1)


@pytest.fixture(params=["as we are", "anybody"])
def uid(request):
    if request.param == "as we are":
        return os.geteuid()
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    return ANYBODY


@pytest.fixture
def place(uid):
    with tempfile.TemporaryDirectory() as path:
        yield Place(Path(path), uid)


def attempt(place, uid, body, skipped=()):
    """Run code in a host's child of that user; return what it raised, None if it worked."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_fd, _attack(place, uid, body, skipped, write_fd).encode())
        except BaseException:
            os.write(write_fd, f"broken: {traceback.format_exc()}".encode()[-4000:])
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        answer = file.read().decode()
    os.waitpid(pid, 0)
    assert answer, "no answer"
    return None if answer == "worked" else answer


def _attack(place, uid, body, skipped, keep_fd):
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    parent = os.getppid()
    os.chdir(place.scratch)
    own = [str(place.code.parent)]
    policy = Policy(**{**_fields(POLICY), "skipped_rungs": skipped})
    enclose_host(str(place.scratch), own, policy=policy, cgroup=None)
    gear = make_gear(policy, str(place.scratch), own)
    names = {"KEY": str(place.key), "CODE": str(place.code), "PARENT": parent}
    exec(PRELUDE, names)
    confinement = Confinement(
        policy=policy, timeout_s=5.0, parent_pid=parent, keep_fds=(keep_fd,), gear=gear
    )
    climb(confinement, (*skipped, "memory"))
    try:
        exec(body, names)
    except PermissionError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "worked"


def _fields(policy):
    return {name: getattr(policy, name) for name in type(policy).__dataclass_fields__}


@pytest.mark.parametrize(("rung", "body"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_an_attack_is_refused(place, uid, rung, body):
    if rung == "landlock" and not version():
        pytest.skip("this kernel has no Landlock")
    assert attempt(place, uid, body) == "refused"
    assert place.key.read_text() == "key"
    assert stat.S_IMODE(place.key.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("rung", "body"),
    [a[1:] for a in ATTACKS if a[0] in HARMLESS],
    ids=[a[0] for a in ATTACKS if a[0] in HARMLESS],
)
def test_and_works_without_its_rung(place, uid, rung, body):
    assert attempt(place, uid, body, skipped=(rung,)) is None


def test_what_modules_do_with_files_of_their_own_still_works(place, uid):
    body = (
        "import shutil, tempfile\nopen('a', 'w').write('x')\nshutil.copyfile('a', 'b')\n"
        "os.replace('b', 'c')\nos.mkdir('d')\nshutil.rmtree('d')\n"
        "with tempfile.TemporaryDirectory(dir='.') as d: open(d + '/x', 'w').close()\n"
        "fcntl.fcntl(own(), fcntl.F_GETFL)\nfcntl.flock(own(), fcntl.LOCK_SH)\n"
        "call('prctl', 15, b'name', 0, 0, 0)\nassert not os.isatty(own())"
    )
    assert attempt(place, uid, body) is None


# -- the process tree


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "plain"])
def harness(request):
    """With namespaces as root has them, and without as anybody else."""
    os.environ["SECRET_TOKEN"] = "hunter2"
    try:
        with Harness(Limits(), namespaces=request.param) as running:
            yield running
    finally:
        del os.environ["SECRET_TOKEN"]


def run(harness, tmp_path, body, *, second="", load=""):
    """Run a module, or two in a chain; return the outcome."""
    paths = []
    for name, text in (("first", body), ("second", second)):
        if text:
            lines = "".join(f"    {line}\n" for line in text.splitlines())
            path = tmp_path / f"{name}.py"
            path.write_text(f"{PRELUDE}\n{load}\ndef run(batch, params):\n{lines}")
            paths.append(path)
    outcome = harness.run(make_chain(*paths))
    harness.settle()
    return outcome


def verdict(outcome):
    if isinstance(outcome, Completed):
        outcome.close()
        return 0, ""
    return outcome.code, outcome.crash.last_log


OVERWRITE = """\
import numpy as np
start = np.asarray(batch.images[0].pixels).ctypes.data
call('mprotect', ctypes.c_void_p(start & ~4095), ctypes.c_size_t(4096), 3)
"""


def test_the_input_cannot_be_made_writable(harness, tmp_path):
    code, log = verdict(run(harness, tmp_path, OVERWRITE))
    assert (code, "Permission denied" in log or "mprotect" in log) == (601, True)


def test_nor_can_the_result_of_an_earlier_module(harness, tmp_path):
    first = "batch.images[0].edit()[:] = 7"
    outcome = run(harness, tmp_path, first, second=OVERWRITE)
    assert outcome.crash.module == 2
    code, log = verdict(outcome)
    assert (code, "Permission denied" in log or "mprotect" in log) == (601, True)


ENVIRONMENT = """\
entries = ctypes.POINTER(ctypes.c_char_p).in_dll(LIBC, 'environ')
index = 0
while entries[index]:
    assert b'hunter2' not in entries[index]
    index += 1
assert 'SECRET_TOKEN' not in os.environ
assert os.environ['PATH'] and os.environ['TMPDIR']
"""


def test_a_module_sees_no_secret_of_the_environment(harness, tmp_path):
    assert verdict(run(harness, tmp_path, ENVIRONMENT)) == (0, "")
    load = "environment = open('/proc/self/environ', 'rb').read()"
    assert (
        verdict(run(harness, tmp_path, "assert b'hunter2' not in environment", load=load))[0] == 0
    )
    assert not is_kept("SECRET_TOKEN")
    assert is_kept("LC_ALL")


def test_descriptors_sent_to_the_host_stay_nowhere(harness, tmp_path):
    body = """\
for fd in range(3, 64):
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1] * 20))]
        socket.socket(fileno=os.dup(fd)).sendmsg([b'junk'], rights)
    except OSError:
        pass
"""
    for _ in range(2):
        assert verdict(run(harness, tmp_path, body))[0] == Code.RESULT_INVALID
        held = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{harness.forge_pid}/fd"))
        assert verdict(run(harness, tmp_path, "pass")) == (0, "")
    after = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{harness.forge_pid}/fd"))
    assert after == held


LOADS = [
    ("reads-memory-of-the-node", "open('/proc/{node}/mem', 'rb')"),
    ("reads-the-environment-of-the-node", "open('/proc/{node}/environ', 'rb').read()"),
    ("opens-a-file-to-all", "os.chmod(__file__, 0o777)"),
    ("has-the-kernel-signal-the-node",
     "r, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {node})"),
    ("mounts", "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)"),
]  # fmt: skip


@pytest.mark.parametrize("load", [row[1] for row in LOADS], ids=[row[0] for row in LOADS])
def test_code_that_runs_while_it_is_loaded_is_refused_too(harness, tmp_path, load):
    outcome = run(harness, tmp_path, "pass", load=load.format(node=os.getpid()))
    assert outcome.code == Code.LOAD_CRASHED
    assert any(text in outcome.crash.last_log for text in ("PermissionError", "ProcessLookupError"))


def test_a_module_that_hides_its_environment_is_still_found(harness, tmp_path):
    """Strays are told by /proc/PID/environ, which is the process's own memory."""
    body = """\
entries = ctypes.POINTER(ctypes.c_void_p).in_dll(LIBC, 'environ')
if os.fork() == 0:
    os.setsid()
    index = 0
    while entries[index]:
        ctypes.memset(entries[index], 0, len(ctypes.string_at(entries[index])))
        index += 1
    signal.pause()
"""
    before = harness.executor.stats.orphans
    assert verdict(run(harness, tmp_path, body))[0] == 0
    assert harness.executor.stats.orphans == before + 1
