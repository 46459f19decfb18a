"""Modules that misbehave on purpose, as data: the fault catalogue's groups A to E.

A row says what is injected and what must come of it; tests, the fault campaign and authors of
other runners read the same rows. Python sources are complete module files. Native faults are cases
of one C file, chosen by the string parameter `case`. Source: style-anchors.md Annex A.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dipp.errors import Code
from dipp.hostile_c import C_SOURCE
from dipp.runner.values import ModuleStep

OK = 0
_SHORT_S = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injection. `codes` are the verdicts that are right; `exception` is in the record.

    `native` faults name a case of the C file, `load` ones replace the whole shared object.
    """

    number: int
    name: str
    codes: tuple[int, ...]
    python: str = ""
    native: str = ""
    load_c: str = ""
    content: bytes | None = None
    timeout_s: float = 5.0
    exception: str = ""
    # None: any number of them.
    orphans: int | None = 0
    leaked_segments: int = 0
    # A text that the log in the crash record must contain.
    log: str = ""
    # Injected only if one of these rungs holds.
    needs: tuple[str, ...] = ()

    @property
    def needs_compiler(self) -> bool:
        """True if the module has to be built from C."""
        return bool(self.native or self.load_c)


_PRELUDE = """\
import ctypes, mmap, os, resource, signal, socket, sys, threading, time
from dipp.sdk import *
from dipp.workspace import SegmentRange
def run(batch, params):
    image = batch.images[0]
"""


def _python(body: str) -> str:
    return _PRELUDE + "".join(f"    {line}\n" for line in body.splitlines())


def _fault(number: int, name: str, *codes: int, body: str = "", **more: object) -> Fault:
    if body:
        more["python"] = _python(body)
    return Fault(number=number, name=name, codes=codes, **more)  # type: ignore[arg-type]


_SEND_TO_SOCKETS = """\
def send_to_all(data):
    for fd in range(3, 64):
        try:
            socket.socket(fileno=os.dup(fd)).send(data)
        except OSError:
            pass
"""
_DAEMON = """\
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        time.sleep(60)
    os._exit(0)
os.wait()
"""

_BOUNDED = ("cgroup", "processes")
# Stops by itself, above every bound.
_MANY_PROCESSES = """\
for count in range(200):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError:
        break
else:
    fail(1, 'nobody stopped it')
"""
_FORK_BOMB = """\
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
_LIBC_CALL = """\
def call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
"""
# Fault id, name, body: system calls that are refused with EPERM.
REFUSED_CALLS: tuple[tuple[int, str, str], ...] = (
    (28, "kills-its-parent", "os.kill(os.getppid(), signal.SIGKILL)"),
    # Signal 0 asks for the permission only, which is all that must not be given.
    (28, "kills-everybody", "os.kill(-1, 0)"),
    (28, "kills-by-descriptor",
     "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGKILL)"),
    (28, "limits-its-parent",
     "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))"),
    (29, "traces-its-parent", _LIBC_CALL + "call('ptrace', 16, os.getppid(), 0, 0)"),
    (29, "writes-memory-of-its-parent",
     _LIBC_CALL + "call('process_vm_writev', os.getppid(), None, 0, None, 0, 0)"),
    (30, "opens-a-socket", "socket.socket()"),
    (30, "opens-a-local-socket", "socket.socket(socket.AF_UNIX)"),
    (31, "executes-a-program", "os.execv('/bin/sh', ['sh', '-c', 'exit 0'])"),
    (31, "spawns-a-program", "import subprocess\nsubprocess.run(['/bin/true'])"),
    (31, "enters-a-namespace", _LIBC_CALL + "call('unshare', 0x10000000)"),
    (32, "makes-a-segment", _LIBC_CALL + "call('shmget', 0, 4096, 0o1600)"),
    (33, "unlinks-the-queue", _LIBC_CALL + "call('mq_unlink', b'/dipp-none')"),
)  # fmt: skip
# The same for files.
REFUSED_FILES: tuple[tuple[int, str, str], ...] = (
    (29, "opens-memory-of-its-parent", "open(f'/proc/{os.getppid()}/mem', 'r+b')"),
    (31, "writes-outside-its-scratch", "open('/tmp/dipp-was-here', 'w')"),
    (31, "writes-its-own-code", "open(__file__, 'a')"),
    (31, "reads-what-is-not-its-business", "open('/etc/hostname').read()"),
    (32, "reopens-its-mappings", "os.listdir('/proc/self/map_files')"),
    (33, "opens-foreign-shared-memory", "open('/dev/shm/dipp-was-here', 'w')"),
)

DIES: tuple[Fault, ...] = (
    _fault(1, "null-dereference", Code.SIGNAL, native="null", exception="SIGSEGV"),
    _fault(2, "write-to-rodata", Code.SIGNAL, native="rodata", exception="SIGSEGV"),
    _fault(3, "jump-to-null", Code.SIGNAL, native="jump", exception="SIGSEGV"),
    _fault(
        4, "truncated-mapping", Code.SIGNAL, exception="SIGBUS",
        body="f = open('x', 'w+b')\nf.truncate(4096)\nm = mmap.mmap(f.fileno(), 4096)\n"
        "f.truncate(0)\nm[0]",
    ),
    _fault(5, "division-by-zero", Code.SIGNAL, native="divide"),
    _fault(6, "illegal-instruction", Code.SIGNAL, native="illegal"),
    _fault(7, "abort", Code.SIGNAL, native="abort", exception="SIGABRT"),
    _fault(7, "double-free", Code.SIGNAL, native="double-free", exception="SIGABRT"),
    _fault(7, "python-abort", Code.SIGNAL, body="os.abort()", exception="SIGABRT"),
    _fault(8, "stack-overflow", Code.SIGNAL, native="overflow", exception="SIGSEGV"),
    _fault(
        8, "recursion", Code.EXIT_WITHOUT_CODE, exception="RecursionError",
        body="def again(): again()\nagain()",
    ),
    *(
        _fault(
            9, f"raises-{name}", Code.EXIT_WITHOUT_CODE, exception=name, body=f"raise {name}('x')"
        )
        for name in ("ValueError", "SystemExit", "KeyboardInterrupt", "MemoryError",
                     "GeneratorExit")
    ),
    _fault(10, "exits-1", Code.EXIT_WITHOUT_CODE, body="os._exit(1)"),
    _fault(10, "native-exits-1", Code.EXIT_WITHOUT_CODE, native="exit-1"),
    _fault(11, "exits-0", Code.PIPE_EMPTY, body="os._exit(0)"),
    _fault(11, "sys-exits-0", Code.PIPE_EMPTY, body="sys.exit(0)"),
    _fault(11, "native-exits-0", Code.PIPE_EMPTY, native="exit-0"),
    _fault(
        12, "exits-in-a-thread", Code.EXIT_WITHOUT_CODE,
        body="threading.Thread(target=os._exit, args=(5,)).start()\ntime.sleep(5)",
    ),
    _fault(
        13, "killed-from-outside", Code.SIGNAL, exception="SIGKILL",
        body="os.kill(os.getpid(), signal.SIGKILL)",
    ),
    _fault(
        14, "too-much-memory", Code.EXIT_WITHOUT_CODE, exception="MemoryError",
        body="data = bytearray(64 << 30)",
    ),
    _fault(14, "native-too-much-memory", Code.SIGNAL, native="memory"),
    _fault(
        15, "too-much-cpu", Code.SIGNAL, exception="SIGXCPU",
        body="resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
    ),
    _fault(
        16, "too-large-a-file", Code.SIGNAL, exception="SIGXFSZ",
        body="f = open('x', 'wb')\nf.seek(1 << 40)\nf.write(b'x')\nf.close()",
    ),
)  # fmt: skip

HANGS: tuple[Fault, ...] = (
    _fault(17, "busy-loop", Code.TIMEOUT, body="while True: pass", timeout_s=_SHORT_S),
    _fault(17, "native-busy-loop", Code.TIMEOUT, native="spin", timeout_s=_SHORT_S),
    _fault(
        18, "blocks-all-signals", Code.TIMEOUT, timeout_s=_SHORT_S,
        body="signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(60)",
    ),
    _fault(
        19, "stops-itself", Code.TIMEOUT, timeout_s=_SHORT_S,
        body="os.kill(os.getpid(), signal.SIGSTOP)",
    ),
    _fault(
        20, "deadlock", Code.TIMEOUT, timeout_s=_SHORT_S,
        body="lock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    ),
    _fault(21, "slow-but-in-time", OK, timeout_s=1.0, body="time.sleep(0.6)"),
    _fault(
        22, "done-at-the-deadline", OK, Code.TIMEOUT, timeout_s=0.3, body="time.sleep(0.29)"
    ),
    _fault(
        23, "replaces-sigalrm", OK,
        body="signal.signal(signal.SIGALRM, signal.SIG_IGN)\nsignal.alarm(0)",
    ),
    _fault(
        24, "floods-the-log", OK,
        body="for _ in range(1600): os.write(1, bytes(65536)); os.write(2, b'last words')",
    ),
    _fault(25, "closes-everything", Code.PIPE_EMPTY, body="os.closerange(0, 1024)"),
)  # fmt: skip

HARMS_OTHERS: tuple[Fault, ...] = (
    _fault(26, "daemon", OK, body=_DAEMON, orphans=1),
    _fault(26, "daemon-and-crash", Code.SIGNAL, body=_DAEMON + "os.abort()", orphans=1),
    _fault(
        26, "daemon-and-hang", Code.TIMEOUT, body=_DAEMON + "time.sleep(60)", orphans=1,
        timeout_s=_SHORT_S,
    ),
    _fault(
        27, "many-processes", OK, body=_MANY_PROCESSES, orphans=None, needs=_BOUNDED
    ),
    _fault(
        27, "fork-bomb", Code.TIMEOUT, body=_FORK_BOMB, orphans=None, needs=_BOUNDED,
        timeout_s=_SHORT_S,
    ),
    *(
        _fault(
            number, name, Code.EXIT_WITHOUT_CODE, exception="PermissionError", body=body,
            needs=("seccomp",),
        )
        for number, name, body in REFUSED_CALLS
    ),
    *(
        _fault(
            number, name, Code.EXIT_WITHOUT_CODE, exception="PermissionError", body=body,
            needs=("landlock",),
        )
        for number, name, body in REFUSED_FILES
    ),
    _fault(32, "removes-its-segment", Code.SHM_ATTACH, native="remove"),
    _fault(34, "leaks-a-segment", OK, native="leak", leaked_segments=1),
    _fault(34, "leaks-and-crashes", Code.SIGNAL, native="leak-and-crash", leaked_segments=1),
    _fault(35, "leaks-descriptors", OK, body="[os.dup(0) for _ in range(50)]"),
    _fault(
        36, "changes-everything", OK,
        body="os.chdir('/')\nos.umask(0)\nsignal.pthread_sigmask(signal.SIG_BLOCK, {2, 15})\n"
        "os.environ.clear()\nimport locale; locale.setlocale(locale.LC_ALL, 'C')",
    ),
    _fault(
        37, "prints-control-codes", Code.SIGNAL, log="\\x1b[2J\\x07",
        body="os.write(2, b'\\x1b[2J\\x07\\n')\nos.abort()",
    ),
)  # fmt: skip

LIES: tuple[Fault, ...] = (
    _fault(38, "wrong-segment-id", Code.SHM_ATTACH, native="other-segment"),
    _fault(
        38, "unknown-segment", Code.RESULT_INVALID,
        body="image._pixels_ref = SegmentRange(segment=9, offset=0, length=image.metadata.size)",
    ),
    _fault(39, "negative-size", Code.RESULT_INVALID, native="size-negative"),
    _fault(39, "zero-size", Code.RESULT_INVALID, native="size-zero"),
    _fault(39, "size-beyond-segment", Code.RESULT_INVALID, native="size-large"),
    _fault(
        39, "range-beyond-segment", Code.RESULT_INVALID,
        body="image._pixels_ref = SegmentRange(segment=0, offset=1 << 40, length=64)",
    ),
    _fault(40, "count-too-large", Code.RESULT_INVALID, native="count-large"),
    _fault(40, "count-negative", Code.RESULT_INVALID, native="count-negative"),
    _fault(40, "count-zero", Code.RESULT_INVALID, native="count-zero"),
    _fault(41, "other-pipeline", Code.RESULT_INVALID, body="batch.pipeline_id = 6"),
    _fault(41, "native-other-pipeline", Code.RESULT_INVALID, native="pipeline"),
    _fault(42, "metadata-past-end", Code.RESULT_INVALID, native="meta-size"),
    _fault(
        43, "metadata-garbage", Code.RESULT_INVALID,
        body="image._meta_ref = image._space.store(b'\\xff' * 9)",
    ),
    _fault(
        43, "metadata-truncated", Code.RESULT_INVALID,
        body="image._meta_ref = image._space.store(image.metadata.encode()[:-3])",
    ),
    _fault(
        43, "metadata-duplicate-keys", Code.RESULT_INVALID,
        body="image.update(items=(('a', 1), ('a', 2)))",
    ),
    _fault(44, "not-a-number", Code.RESULT_INVALID, body="image.set_item('x', float('nan'))"),
    _fault(
        44, "huge-dimensions", Code.RESULT_INVALID, body="image.update(width=2**31 - 1)"
    ),
    _fault(44, "size-is-a-lie", Code.RESULT_INVALID, body="image.update(size=3)"),
    _fault(
        45, "garbage-before-result", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "send_to_all(b'garbage')",
    ),
    _fault(
        45, "empty-message-before-result", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "send_to_all(bytes([31]))",
    ),
    _fault(
        45, "too-long-a-message", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "send_to_all(bytes(180000))",
    ),
    _fault(
        45, "two-results", Code.RESULT_INVALID,
        body=_SEND_TO_SOCKETS + "from dipp.runner.protocol import ModuleDone, encode_frame\n"
        "send_to_all(encode_frame(ModuleDone(batch_id=batch.batch_id, pipeline_id=1, images=())))",
    ),
    _fault(45, "returns-nonsense", Code.RESULT_INVALID, body="return [1, 2, 3]"),
    _fault(45, "images-of-nonsense", Code.RESULT_INVALID, body="batch.images.append(b'x')"),
    _fault(45, "too-many-images", Code.RESULT_INVALID, body="batch.images *= 5000"),
)  # fmt: skip

_C_PROBE = "typedef struct { long m; int n, s, i, p; void *d; } B; B run(B *b) { return *b; }\n"

LOADING: tuple[Fault, ...] = (
    _fault(46, "missing-file", Code.MODULE_NOT_FOUND),
    _fault(47, "no-run", Code.MODULE_NO_RUN, python="x = 1\n"),
    _fault(47, "run-is-no-function", Code.MODULE_NO_RUN, python="run = 5\n"),
    _fault(47, "native-no-run", Code.MODULE_NO_RUN, load_c="int walk;\n"),
    _fault(48, "no-python", Code.MODULE_NOT_FOUND, python="def run(:\n"),
    _fault(48, "null-bytes", Code.MODULE_NOT_FOUND, python="x = 1\0\n"),
    _fault(48, "text-as-object", Code.MODULE_NOT_FOUND, content=b"not an ELF file"),
    _fault(48, "truncated-object", Code.MODULE_NOT_FOUND, content=b"\x7fELF\2\1\1" + bytes(99)),
    _fault(
        49, "constructor-crashes", Code.LOAD_CRASHED,
        load_c=_C_PROBE + "__attribute__((constructor)) void c(void) { *(volatile int *)0 = 1; }\n",
    ),
    _fault(
        49, "constructor-exits", Code.LOAD_CRASHED,
        load_c="#include <stdlib.h>\n" + _C_PROBE
        + "__attribute__((constructor)) void c(void) { exit(0); }\n",
    ),
    _fault(49, "import-raises", Code.LOAD_CRASHED, python="raise SystemExit(0)\n"),
    _fault(49, "import-crashes", Code.LOAD_CRASHED, python="import os; os.abort()\n"),
    _fault(
        49, "load-hook-fails", 703,
        python="from dipp.sdk import fail\ndef load(params): fail(3)\ndef run(b, p): pass\n",
    ),
    _fault(
        50, "other-interface", Code.MODULE_NOT_FOUND,
        python="from dipp.sdk import Manifest\nMANIFEST = Manifest('x', '1', '', abi=99)\n"
        "def run(batch, params): pass\n",
    ),
    _fault(
        50, "native-other-interface", Code.MODULE_NOT_FOUND,
        load_c=_C_PROBE + "int dipp_abi_version = 99;\n",
    ),
)  # fmt: skip

FAULTS: tuple[Fault, ...] = (*DIES, *HANGS, *HARMS_OTHERS, *LIES, *LOADING)


def has_compiler() -> bool:
    """Say whether native faults can be built here."""
    return shutil.which("gcc") is not None


def compile_module(source: str, path: Path) -> Path:
    """Build a shared object. Raises subprocess.CalledProcessError."""
    command = ["gcc", "-w", "-O1", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source.encode(), check=True, timeout=60)
    return path


def write_module(fault: Fault, directory: Path) -> ModuleStep:
    """Put the module of a fault in place and return the step that runs it."""
    params: tuple[tuple[str, str], ...] = ()
    path = directory / f"fault_{fault.number}_{fault.name}.py"
    if fault.native:
        path = directory / "hostile.so"
        if not path.exists():
            compile_module(C_SOURCE, path)
        params = (("case", fault.native),)
    elif fault.load_c:
        path = compile_module(fault.load_c, path.with_suffix(".so"))
    elif fault.content is not None:
        path = path.with_suffix(".so")
        path.write_bytes(fault.content)
    elif fault.python:
        path.write_text(fault.python)
    return ModuleStep(
        index=1, name=path.stem, path=str(path), params=params, timeout_s=fault.timeout_s
    )
