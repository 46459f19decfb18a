"""The names of all rungs, in the order of their bits in telemetry. Pure.

A name keeps its bit for ever: ground software knows the bits. New ones go to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The field of the frame that carries a report about a rung.
REPORT_LIMIT = 64


@dataclass(frozen=True, slots=True)
class RungName:
    """A rung and what it means for a module."""

    name: str
    meaning: str


RUNGS: tuple[RungName, ...] = (
    RungName("session", "own session and process group"),
    RungName("parent-death", "dies with its host"),
    RungName("descriptors", "no descriptor but its own"),
    RungName("no-new-privileges", "set-uid programs are powerless"),
    RungName("limits", "bounded CPU time, file size, open files; no core dumps"),
    RungName("memory", "bounded address space"),
    RungName("processes", "bounded number of processes of its user"),
    RungName("user", "runs as a user of its own"),
    RungName("capabilities", "no capabilities"),
    RungName("landlock", "reads libraries and its own directory, writes scratch"),
    RungName("seccomp", "no network, no tracing, no programs, no foreign signals"),
    RungName("oom-first", "dies first if the machine runs out of memory"),
    RungName("namespaces", "own process numbers, queues and segments"),
    RungName("network", "a network namespace with nothing in it"),
    RungName("cgroup", "bounded number of processes, whoever it runs as"),
    RungName("environment", "no environment variables but harmless ones"),
    RungName("scratch", "all modules together write no more than a small file system holds"),
)


def report(name: str, reason: str) -> str:
    """Return what is said about a rung that does not hold."""
    return f"{name}: {reason}"[:REPORT_LIMIT]


def active_names(missing: Sequence[str]) -> tuple[str, ...]:
    """Return the rungs that hold, given the reports about those that do not."""
    absent = {text.partition(":")[0] for text in missing}
    return tuple(rung.name for rung in RUNGS if rung.name not in absent)


def active_mask(missing: Sequence[str]) -> int:
    """Return the same as a bit mask, bit 0 for the first name."""
    names = active_names(missing)
    return sum(1 << bit for bit, rung in enumerate(RUNGS) if rung.name in names)


def merge(*groups: Sequence[str]) -> tuple[str, ...]:
    """Join reports; of two about the same rung the first counts."""
    found: dict[str, str] = {}
    for text in (text for group in groups for text in group):
        found.setdefault(text.partition(":")[0], text)
    return tuple(found.values())
