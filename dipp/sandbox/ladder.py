"""The table of rungs that a module child climbs: name and restriction.

Driver. `apply` restricts the calling process for good. Whether a rung holds on a platform is found
out by climbing (`trial.py`), which is the only probe that cannot be wrong. The order is the order
of the table: whatever needs a privilege or a file comes before what takes it away.
Source: style-anchors.md 3, issue 6, defect D21.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dipp.sandbox import capabilities, landlock, limits, seccomp
from dipp.sandbox.limits import Confinement
from dipp.sandbox.rungs import report


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One restriction. `apply` raises OSError or ValueError where it cannot be had.

    What `is_common` a nursery puts on, for all children that it forks.
    """

    name: str
    apply: Callable[[Confinement], None]
    is_common: bool = False


def change_user(confinement: Confinement) -> None:
    """Become the module user. Raises OSError if there is none."""
    user = confinement.gear.user
    if user is None:
        name = confinement.policy.user
        raise OSError(errno.EPERM, f"{name} is unknown or needs root" if name else "none is wanted")
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def drop_capabilities(confinement: Confinement) -> None:
    """Keep none."""
    capabilities.keep_only()


def restrict_files(confinement: Confinement) -> None:
    """Leave only libraries to read and scratch to write. Raises OSError."""
    fd = confinement.gear.ruleset_fd
    if fd < 0:
        raise OSError(errno.ENOSYS, "no rule set")
    landlock.restrict_self(fd)
    os.close(fd)


def filter_calls(confinement: Confinement) -> None:
    """Refuse system calls that no module needs. Raises OSError."""
    gear = confinement.gear
    program = gear.native_filter if confinement.is_native else gear.python_filter
    if program is None:
        raise OSError(errno.ENOSYS, "no filter")
    seccomp.install(program.finish(os.getpid()))


LADDER: tuple[Rung, ...] = (
    Rung(name="session", apply=limits.new_session),
    # Before the parent's death is asked for: a change of user forgets that.
    Rung(name="user", apply=change_user, is_common=True),
    Rung(name="parent-death", apply=limits.die_with_parent),
    Rung(name="descriptors", apply=limits.close_others),
    Rung(name="capabilities", apply=drop_capabilities, is_common=True),
    Rung(name="no-new-privileges", apply=limits.no_new_privileges, is_common=True),
    Rung(name="limits", apply=limits.set_limits, is_common=True),
    Rung(name="limits", apply=limits.limit_time),
    Rung(name="processes", apply=limits.limit_processes),
    Rung(name="memory", apply=limits.limit_memory, is_common=True),
    Rung(name="landlock", apply=restrict_files, is_common=True),
    Rung(name="seccomp", apply=filter_calls),
)
NURSERY_LADDER = tuple(rung for rung in LADDER if rung.is_common or rung.name == "descriptors")
# What a child of a nursery still has to climb.
CHILD_LADDER = tuple(rung for rung in LADDER if not rung.is_common)


def reason_of(error: Exception) -> str:
    """Return the text of an error without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def climb(
    confinement: Confinement, skipped: Sequence[str] = (), ladder: Sequence[Rung] = LADDER
) -> tuple[str, ...]:
    """Apply every rung that is not skipped; return those that failed, each as `name: why`."""
    failed = []
    for rung in ladder:
        if rung.name in skipped:
            continue
        try:
            rung.apply(confinement)
        except (OSError, ValueError) as error:
            # A kernel or container that refuses a restriction must not stop the mission.
            failed.append(report(rung.name, reason_of(error)))
    return tuple(failed)
