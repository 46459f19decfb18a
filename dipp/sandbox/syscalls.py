"""What a module may not ask the kernel for: one row per system call, with its group. Pure.

Theory of operation: a group is refused to the module child, to native modules in it, and to the
host that loads modules, as `GROUPS` says. A row with `unless` is refused only if one of its
arguments is not as it says there. Everything refused fails with EPERM, which Python raises as
PermissionError; a libc that finds no clone3 falls back to clone, whose arguments can be looked at.
The numbers are those of x86-64 and of AArch64; None where there is no such call.
Source: issue 6, style-anchors.md Annex A (27..31, 33), the kernel's syscall tables; what Landlock
leaves open (modes, owners, watches, leases) is from its manual page, under BUGS.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum, Flag, auto

from dipp.sandbox.bpf import OWN_PID, Constant


class Who(Flag):
    """To whom a group is refused."""

    PYTHON = auto()
    NATIVE = auto()
    HOST = auto()


_CHILD = Who.PYTHON | Who.NATIVE
_ALL = _CHILD | Who.HOST


class Group(Enum):
    """Why calls are refused."""

    NETWORK = "a module has no network"
    TRACE = "no process may look into another one"
    EXEC = "a module is not a program that starts others"
    SYSTEM = "a module does not administrate the machine"
    KEYS = "a module has no keys"
    NAMESPACES = "a module stays in the namespaces it was put in"
    QUEUES = "the batch queue belongs to the node"
    SYSV = "only native modules have a System V segment"
    IPC = "System V queues and semaphores outlive their maker"
    SIGNALS = "a module may signal itself only"
    OTHERS = "a module sets limits and priorities of itself only"
    MODES = "no file changes its mode, times or attributes: Landlock does not watch that"
    OWNERS = "a module gives no file away"
    WATCH = "a module does not watch what others do with files"
    ASYNC = "the kernel sends nobody signals for a module, and no lease holds up an open"
    ESCAPE = "a module dies with its host and can be found"


GROUPS: dict[Group, Who] = {
    Group.NETWORK: _ALL,
    Group.TRACE: _ALL,
    Group.EXEC: _ALL,
    Group.SYSTEM: _ALL,
    Group.KEYS: _ALL,
    Group.NAMESPACES: _ALL,
    Group.QUEUES: _ALL,
    # The host makes and sweeps the segments of native modules.
    Group.SYSV: Who.PYTHON,
    Group.IPC: _ALL,
    # The host ends its children.
    Group.SIGNALS: _CHILD,
    Group.OTHERS: _CHILD,
    Group.MODES: _ALL,
    # The host gives scratch directories to the module user.
    Group.OWNERS: _CHILD,
    Group.WATCH: _ALL,
    Group.ASYNC: _ALL,
    # The host's children ask for their parent's death after its filter is on.
    Group.ESCAPE: _CHILD,
}


@dataclass(frozen=True, slots=True)
class Unless:
    """What argument `index` must be: one of `values`, without the bits, none of `none_of`."""

    index: int
    values: tuple[Constant, ...] = ()
    no_bits: int = 0
    none_of: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One system call that is refused."""

    name: str
    x86_64: int | None
    aarch64: int | None
    group: Group
    unless: tuple[Unless, ...] = ()
    errno: int = errno.EPERM


_AF_UNIX = 1
_PRIO_PROCESS = 0
# All but CLONE_NEWTIME, which shares its bit with the exit signal.
_NEW_NAMESPACES = 0x7E020000
# CLONE_PARENT: a module would give its host another child. The host's nursery does.
_OTHER_PARENT = 0x8000
_ITSELF = (0, OWN_PID)
# F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: input on a pipe can be made to send any
# signal, SIGKILL too, to any process of the same user.
_SIGNALLING_FCNTLS = (8, 10, 15, 1024, 1026)
# FIOSETOWN, SIOCSPGRP; TIOCSTI and TIOCLINUX type on terminals.
_SIGNALLING_IOCTLS = (0x8901, 0x8902, 0x5412, 0x541C)
# PDEATHSIG, DUMPABLE (hides /proc/PID/environ, by which strays are found), MM, CHILD_SUBREAPER.
_ESCAPING_PRCTLS = (1, 4, 35, 36)


def _rows(group: Group, *rows: tuple[str, int | None, int | None]) -> tuple[Row, ...]:
    return tuple(Row(*row, group) for row in rows)


SYSCALLS: tuple[Row, ...] = (
    *_rows(
        Group.NETWORK,
        ("socket", 41, 198), ("connect", 42, 203), ("bind", 49, 200), ("listen", 50, 201),
        ("accept", 43, 202), ("accept4", 288, 242),
        # These reach a socket without the calls above.
        ("io_uring_setup", 425, 425), ("io_uring_enter", 426, 426), ("io_uring_register", 427, 427),
    ),
    Row("socketpair", 53, 199, Group.NETWORK, (Unless(0, (_AF_UNIX,)),)),
    *_rows(
        Group.TRACE,
        ("ptrace", 101, 117), ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271),
        ("pidfd_getfd", 438, 438), ("kcmp", 312, 272), ("process_madvise", 440, 440),
        ("process_mrelease", 448, 448), ("perf_event_open", 298, 241),
        ("userfaultfd", 323, 282), ("move_pages", 279, 239), ("migrate_pages", 256, 238),
    ),
    *_rows(Group.EXEC, ("execve", 59, 221), ("execveat", 322, 281)),
    *_rows(
        Group.SYSTEM,
        ("mount", 165, 40), ("umount2", 166, 39), ("pivot_root", 155, 41), ("chroot", 161, 51),
        ("open_tree", 428, 428), ("move_mount", 429, 429), ("fsopen", 430, 430),
        ("fsconfig", 431, 431), ("fsmount", 432, 432), ("fspick", 433, 433),
        ("mount_setattr", 442, 442), ("swapon", 167, 224), ("swapoff", 168, 225),
        ("reboot", 169, 142), ("init_module", 175, 105), ("delete_module", 176, 106),
        ("finit_module", 313, 273), ("kexec_load", 246, 104), ("kexec_file_load", 320, 294),
        ("bpf", 321, 280), ("acct", 163, 89), ("quotactl", 179, 60), ("quotactl_fd", 443, 443),
        ("syslog", 103, 116), ("iopl", 172, None), ("ioperm", 173, None),
        ("modify_ldt", 154, None), ("open_by_handle_at", 304, 265), ("fanotify_init", 300, 262),
        ("settimeofday", 164, 170), ("clock_settime", 227, 112), ("adjtimex", 159, 171),
        ("clock_adjtime", 305, 266), ("sethostname", 170, 161), ("setdomainname", 171, 162),
        ("vhangup", 153, 58),
    ),
    *_rows(
        Group.KEYS, ("add_key", 248, 217), ("request_key", 249, 218), ("keyctl", 250, 219),
    ),
    *_rows(Group.NAMESPACES, ("unshare", 272, 97), ("setns", 308, 268)),
    Row("clone", 56, 220, Group.NAMESPACES, (Unless(0, no_bits=_NEW_NAMESPACES),)),
    Row("clone", 56, 220, Group.ESCAPE, (Unless(0, no_bits=_OTHER_PARENT),)),
    Row("clone3", 435, 435, Group.NAMESPACES, errno=errno.ENOSYS),
    *_rows(
        Group.QUEUES,
        ("mq_open", 240, 180), ("mq_unlink", 241, 181), ("mq_timedsend", 242, 182),
        ("mq_timedreceive", 243, 183), ("mq_notify", 244, 184), ("mq_getsetattr", 245, 185),
    ),
    *_rows(
        Group.SYSV,
        ("shmget", 29, 194), ("shmctl", 31, 195), ("shmat", 30, 196), ("shmdt", 67, 197),
    ),
    *_rows(
        Group.IPC,
        ("semget", 64, 190), ("semctl", 66, 191), ("semop", 65, 193), ("semtimedop", 220, 192),
        ("msgget", 68, 186), ("msgctl", 71, 187), ("msgrcv", 70, 188), ("msgsnd", 69, 189),
    ),
    *_rows(Group.SIGNALS, ("tkill", 200, 130), ("pidfd_send_signal", 424, 424)),
    Row("kill", 62, 129, Group.SIGNALS, (Unless(0, (OWN_PID,)),)),
    Row("tgkill", 234, 131, Group.SIGNALS, (Unless(0, (OWN_PID,)),)),
    Row("rt_sigqueueinfo", 129, 138, Group.SIGNALS, (Unless(0, (OWN_PID,)),)),
    Row("rt_tgsigqueueinfo", 297, 240, Group.SIGNALS, (Unless(0, (OWN_PID,)),)),
    Row("prlimit64", 302, 261, Group.OTHERS, (Unless(0, _ITSELF),)),
    Row("setpriority", 141, 140, Group.OTHERS, (Unless(0, (_PRIO_PROCESS,)), Unless(1, _ITSELF))),
    Row("ioprio_set", 251, 30, Group.OTHERS, (Unless(0, (1,)), Unless(1, _ITSELF))),
    Row("sched_setparam", 142, 118, Group.OTHERS, (Unless(0, _ITSELF),)),
    Row("sched_setscheduler", 144, 119, Group.OTHERS, (Unless(0, _ITSELF),)),
    Row("sched_setaffinity", 203, 122, Group.OTHERS, (Unless(0, _ITSELF),)),
    Row("sched_setattr", 314, 274, Group.OTHERS, (Unless(0, _ITSELF),)),
    *_rows(
        Group.MODES,
        ("chmod", 90, None), ("fchmod", 91, 52), ("fchmodat", 268, 53), ("fchmodat2", 452, 452),
        ("utime", 132, None), ("utimes", 235, None), ("futimesat", 261, None),
        ("utimensat", 280, 88),
        ("setxattr", 188, 5), ("lsetxattr", 189, 6), ("fsetxattr", 190, 7),
        ("setxattrat", 463, 463),
        ("removexattr", 197, 14), ("lremovexattr", 198, 15), ("fremovexattr", 199, 16),
        ("removexattrat", 466, 466), ("file_setattr", 469, 469),
    ),
    *_rows(
        Group.OWNERS,
        ("chown", 92, None), ("fchown", 93, 55), ("lchown", 94, None), ("fchownat", 260, 54),
    ),
    *_rows(
        Group.WATCH,
        ("inotify_init", 253, None), ("inotify_init1", 294, 26), ("inotify_add_watch", 254, 27),
        ("fanotify_mark", 301, 263),
    ),
    Row("fcntl", 72, 25, Group.ASYNC, (Unless(1, none_of=_SIGNALLING_FCNTLS),)),
    Row("ioctl", 16, 29, Group.ASYNC, (Unless(1, none_of=_SIGNALLING_IOCTLS),)),
    Row("prctl", 157, 167, Group.ESCAPE, (Unless(0, none_of=_ESCAPING_PRCTLS),)),
)  # fmt: skip


def rows_for(who: Who, beyond: Who | None = None) -> tuple[Row, ...]:
    """Return what is refused to somebody; without what is refused to `beyond` already."""
    return tuple(
        row
        for row in SYSCALLS
        if GROUPS[row.group] & who and not (beyond and GROUPS[row.group] & beyond)
    )
