"""What a host makes ready once, so that its children only have to put it on.

Driver. Making a rule set of Landlock or a filter takes longer than many a module; putting them on
takes microseconds. A part that cannot be made is left out, and the rung that needs it fails.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dipp.runner.values import ModuleStep, Policy
from dipp.sandbox import landlock, seccomp
from dipp.sandbox.bpf import Program
from dipp.sandbox.syscalls import Who

# Beside Python's own: where libraries, their data and time zones are.
_LIBRARIES = (
    "/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib",
    "/usr/share", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/opt/lib", "/nix/store",
)  # fmt: skip
# What libraries ask about the machine at their first use. Nothing about processes.
_MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_OUR_PACKAGES = ("csp", "dipp", "modules")


@dataclass(frozen=True, slots=True)
class User:
    """Whom a module runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gear:
    """`ruleset_fd` -1 and None mean that there is no such thing here."""

    ruleset_fd: int = -1
    python_filter: Program | None = None
    native_filter: Program | None = None
    process_limit: int | None = None
    user: User | None = None
    # Rungs that need not be tried.
    absent: tuple[str, ...] = ()


def make_gear(
    policy: Policy,
    scratch_root: str,
    own_paths: Iterable[str] = (),
    *,
    user: User | None = None,
    is_host_filtered: bool = False,
) -> Gear:
    """Prepare everything for the children of one host. Never fails; parts may be missing.

    `own_paths` is what `paths_of` gave: what its modules may read beside the libraries.
    What a filter of the host refuses already is not repeated in those of its children. `user` is
    what `find_user` gave, before the user list was out of reach.
    """
    ruleset_fd = -1
    with contextlib.suppress(OSError):
        if landlock.version():
            ruleset_fd = landlock.create_ruleset(child_rules(scratch_root, own_paths))
    beyond = Who.HOST if is_host_filtered else None
    uid = user.uid if user else os.getuid()
    return Gear(
        ruleset_fd=ruleset_fd,
        python_filter=_filter(Who.PYTHON, beyond),
        native_filter=_filter(Who.NATIVE, beyond),
        # Root is never bounded; see cgroups.py.
        process_limit=count_threads(uid) + policy.processes if uid else None,
        user=user,
        absent=(*(("user",) if not policy.user else ()), *(("processes",) if not uid else ())),
    )


def recount(gear: Gear, policy: Policy) -> Gear:
    """Return the gear with a limit that fits what else the user runs by now."""
    if gear.process_limit is None:
        return gear
    uid = gear.user.uid if gear.user else os.getuid()
    return replace(gear, process_limit=count_threads(uid) + policy.processes)


def _filter(who: Who, beyond: Who | None) -> Program | None:
    architecture = seccomp.native_architecture()
    return seccomp.build_filter(who, architecture, beyond) if architecture else None


def child_rules(scratch_root: str, own_paths: Iterable[str]) -> list[tuple[tuple[str, ...], int]]:
    """Return what a module child may reach: paths and rights."""
    return [
        (readable_paths(own_paths), landlock.READ),
        (_DEVICES, landlock.DEVICE),
        ((scratch_root,), landlock.READ | landlock.WRITE),
    ]


def host_rules(scratch_root: str, own_paths: Iterable[str]) -> list[tuple[tuple[str, ...], int]]:
    """Return what a host may reach: the same, and /proc to watch its children."""
    return [*child_rules(scratch_root, own_paths), (("/proc",), landlock.READ)]


def paths_of(steps: Iterable[ModuleStep]) -> list[str]:
    """Return the directories of modules, where their models lie, and files that parameters name.

    With a named file goes the JSON beside it: a model is of no use without its side-car.
    """
    paths = []
    for step in steps:
        paths.append(os.path.dirname(os.path.realpath(step.path)))
        texts = (value for _, value in step.params if isinstance(value, str))
        named = [text for text in texts if os.path.isabs(text) and os.path.isfile(text)]
        sidecars = [f"{os.path.splitext(text)[0]}.json" for text in named]
        paths += [*named, *filter(os.path.isfile, sidecars)]
    return paths


def readable_paths(own_paths: Iterable[str]) -> tuple[str, ...]:
    """Return the libraries and what else may be read."""
    package_root = Path(__file__).resolve().parents[2]
    ours = [package_root / name for name in _OUR_PACKAGES]
    # Our checkout is on the path too, but its other contents are nobody's business.
    paths = [path for path in map(Path, sys.path) if path.resolve() != package_root]
    interpreter = [Path(sys.prefix), Path(sys.base_prefix) / "lib", Path(os.__file__).parent]
    found = dict.fromkeys(map(str, (*interpreter, *paths, *ours, *own_paths)))
    return (*found, *_LIBRARIES, *_MACHINE)


def find_user(name: str) -> User | None:
    """Return the user of that name or number; None if it is not wanted, unknown or not allowed."""
    if not name or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return None
    return User(entry.pw_uid, entry.pw_gid) if entry.pw_uid else None


def count_threads(uid: int) -> int:
    """Return how many threads a user has now; those count against its limit."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == uid:
                total += len(os.listdir(f"/proc/{name}/task"))
    return total
