"""What a host puts on before it loads foreign code: the wider enclosure around its children's.

Driver. Code runs already while a module is loaded. A host needs more than its children - it forks
and kills them, makes System V segments, reads /proc - but no network, no other program and no file
outside its scratch directory. The names are those of the ladder, and so are the switches.
Source: design.md 2, faults 27, 30 and 49.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from dipp.runner.values import Policy
from dipp.sandbox import capabilities, landlock, limits, seccomp
from dipp.sandbox.cgroups import Cgroup
from dipp.sandbox.environment import forget_environment
from dipp.sandbox.gear import host_rules
from dipp.sandbox.ladder import reason_of
from dipp.sandbox.namespaces import separate_network
from dipp.sandbox.rungs import report
from dipp.sandbox.scratchspace import require_bound
from dipp.sandbox.syscalls import Who


def enclose_host(
    scratch_root: str,
    own_paths: Iterable[str],
    *,
    policy: Policy,
    cgroup: Cgroup | None,
) -> tuple[str, ...]:
    """Restrict this process and all that it forks for good; return what failed, with reasons."""

    def enter_cgroup() -> None:
        if cgroup is None:
            raise OSError(errno.EPERM, "no group can be made")
        # Host and nursery count too; what the host shares with its children is charged to it.
        cgroup.enter(policy.processes + 2, 2 * (policy.memory_bytes + policy.arena_bytes))

    def restrict_files() -> None:
        fd = landlock.create_ruleset(host_rules(scratch_root, own_paths))
        try:
            landlock.restrict_self(fd)
        finally:
            os.close(fd)

    def filter_calls() -> None:
        architecture = seccomp.native_architecture()
        if architecture is None:
            raise OSError(errno.ENOSYS, "no table")
        seccomp.install(seccomp.build_filter(Who.HOST, architecture).finish(os.getpid()))

    kept = capabilities.OF_HOSTS_WITH_USER if policy.user else capabilities.OF_HOSTS
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("environment", forget_environment),
        ("oom-first", limits.be_killed_first),
        ("cgroup", enter_cgroup),
        ("network", separate_network),
        ("capabilities", lambda: capabilities.keep_only(kept)),
        ("no-new-privileges", limits.forbid_privileges),
        ("landlock", restrict_files),
        ("seccomp", filter_calls),
    )
    failed = _unbound(scratch_root)
    for name, step in steps:
        if name in policy.skipped_rungs:
            failed.append(report(name, "switched off"))
            continue
        try:
            step()
        except OSError as error:
            # As in the child: what the platform refuses must not stop the mission.
            failed.append(report(name, reason_of(error)))
    return tuple(failed)


def _unbound(scratch_root: str) -> list[str]:
    """Say so if scratch has no bound: the forge's doing, for all its hosts, and never switched."""
    try:
        require_bound(scratch_root)
    except OSError as error:
        return [report("scratch", reason_of(error))]
    return []
