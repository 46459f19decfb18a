"""Modules that misbehave on purpose, as data: the fault catalogue's groups A to E. Pure.

A row says what is injected and what must come of it; tests, the fault campaign and authors of
other runners read the same rows. Python sources are complete module files. Native faults are cases
of one C file, chosen by the string parameter `case`. Source: style-anchors.md Annex A.
"""

from __future__ import annotations

from dipp.errors import Code
from dipp.hostile_lies import LIES, LOADING
from dipp.hostilefault import OK, SHORT_S, Fault, has_compiler, write_module
from dipp.hostilefault import make_fault as _fault

__all__ = [
    "DIES",
    "FAULTS",
    "HANGS",
    "HARMS_OTHERS",
    "LIES",
    "LOADING",
    "OK",
    "REFUSED_CALLS",
    "REFUSED_FILES",
    "Fault",
    "has_compiler",
    "write_module",
]

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
        12, "exits-at-exit", OK, body="import atexit\natexit.register(os._exit, 7)"
    ),
    _fault(
        13, "kills-itself", Code.SIGNAL, exception="SIGKILL",
        body="os.kill(os.getpid(), signal.SIGKILL)",
    ),
    _fault(
        14, "too-much-memory", Code.EXIT_WITHOUT_CODE, exception="MemoryError",
        body="data = bytearray(64 << 30)",
    ),
    _fault(14, "native-too-much-memory", Code.SIGNAL, native="memory"),
    _fault(
        # A second of CPU may take long on a machine that does other things too.
        15, "too-much-cpu", Code.SIGNAL, exception="SIGXCPU", timeout_s=60.0,
        body="resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
    ),
    _fault(
        16, "too-large-a-file", Code.SIGNAL, exception="SIGXFSZ",
        body="f = open('x', 'wb')\nf.seek(1 << 40)\nf.write(b'x')\nf.close()",
    ),
)  # fmt: skip

HANGS: tuple[Fault, ...] = (
    _fault(17, "busy-loop", Code.TIMEOUT, body="while True: pass", timeout_s=SHORT_S),
    _fault(17, "native-busy-loop", Code.TIMEOUT, native="spin", timeout_s=SHORT_S),
    _fault(
        18, "blocks-all-signals", Code.TIMEOUT, timeout_s=SHORT_S,
        body="signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(60)",
    ),
    _fault(
        19, "stops-itself", Code.TIMEOUT, timeout_s=SHORT_S,
        body="os.kill(os.getpid(), signal.SIGSTOP)",
    ),
    _fault(
        20, "deadlock", Code.TIMEOUT, timeout_s=SHORT_S,
        body="lock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    ),
    # Nine tenths of its time.
    _fault(21, "slow-but-in-time", OK, timeout_s=3.0, body="time.sleep(2.7)"),
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
    _fault(
        24, "floods-and-crashes", Code.SIGNAL, log="last words",
        body="for _ in range(400): os.write(1, b'x' * 65535 + b'\\n')\n"
        "os.write(2, b'last words\\n')\nos.abort()",
    ),
    _fault(25, "closes-everything", Code.PIPE_EMPTY, body="os.closerange(0, 1024)"),
)  # fmt: skip

HARMS_OTHERS: tuple[Fault, ...] = (
    _fault(26, "daemon", OK, body=_DAEMON, orphans=1),
    _fault(26, "daemon-and-crash", Code.SIGNAL, body=_DAEMON + "os.abort()", orphans=1),
    _fault(
        26, "daemon-and-hang", Code.TIMEOUT, body=_DAEMON + "time.sleep(60)", orphans=1,
        timeout_s=SHORT_S,
    ),
    _fault(
        27, "many-processes", OK, body=_MANY_PROCESSES, orphans=None, needs=_BOUNDED
    ),
    _fault(
        27, "fork-bomb", Code.TIMEOUT, body=_FORK_BOMB, orphans=None, needs=_BOUNDED,
        timeout_s=SHORT_S,
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

FAULTS: tuple[Fault, ...] = (*DIES, *HANGS, *HARMS_OTHERS, *LIES, *LOADING)
