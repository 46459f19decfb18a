"""Find out which rungs hold, by putting them on in processes that end at once.

Driver; called in a host when it has loaded its modules, and in the forge before there is any.
Source: issue 6, style-anchors.md 3.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from dipp.runner.values import Policy
from dipp.sandbox.cgroups import Cgroups
from dipp.sandbox.enclosure import enclose_host
from dipp.sandbox.gear import Gear, make_gear
from dipp.sandbox.ladder import climb
from dipp.sandbox.limits import Confinement
from dipp.sandbox.namespaces import PidNamespaces, separate_ipc
from dipp.sandbox.rungs import merge, report

_LIMIT_BYTES = 4096
_BROKEN = ("trial: ended without an answer",)
NO_NAMESPACES = report("namespaces", "not allowed or switched off")


def try_ladder(policy: Policy, gear: Gear) -> tuple[str, ...]:
    """Return the rungs that do not hold for the children of this process, each as `name: why`."""
    parent = os.getpid()

    def attempt(keep_fd: int) -> Sequence[str]:
        confinement = Confinement(
            policy=policy, timeout_s=1.0, parent_pid=parent, keep_fds=(keep_fd,), gear=gear
        )
        off = [report(name, "switched off") for name in policy.skipped_rungs]
        return (*off, *climb(confinement, policy.skipped_rungs))

    return _in_child(os.fork, attempt)


def try_everything(scratch_root: str, namespaces: PidNamespaces) -> tuple[str, ...]:
    """Return the rungs that would not hold in a host of the usual policy and its children."""
    policy = Policy()
    cgroups = Cgroups()
    cgroup = cgroups.create()
    is_separate = False

    def fork() -> int:
        nonlocal is_separate
        pid, is_separate = namespaces.fork()
        return pid

    def attempt(keep_fd: int) -> Sequence[str]:
        missing = () if is_separate and separate_ipc() else (NO_NAMESPACES,)
        outer = enclose_host(scratch_root, (), policy=policy, cgroup=cgroup)
        return merge(missing, outer, try_ladder(policy, make_gear(policy, scratch_root)))

    try:
        return _in_child(fork, attempt)
    finally:
        if cgroup is not None:
            cgroup.remove()


def _in_child(fork: Callable[[], int], attempt: Callable[[int], Sequence[str]]) -> tuple[str, ...]:
    """Return what the attempt returns in a child; it may only write to the descriptor it gets."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        pid = fork()
    except OSError:
        os.close(read_fd)
        os.close(write_fd)
        return _BROKEN
    if pid == 0:
        with contextlib.suppress(BaseException):  # boundary: no answer is an answer
            # The last line tells that nothing is missing from it.
            os.write(write_fd, "\n".join([*attempt(write_fd), ""]).encode()[:_LIMIT_BYTES] + b".")
        os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        answer = file.read(_LIMIT_BYTES + 1)
    os.waitpid(pid, 0)
    *lines, end = answer.decode(errors="replace").split("\n")
    return tuple(lines) if end == "." else _BROKEN
