"""On which processors a host and its children run.

Driver. A chain at rest gathers on one processor: where a batch goes back and forth between the host
and small modules, a switch there costs a fraction of waking another processor from its sleep. What
has work to do, a module or a host that forks, may run anywhere. Source: performance.md 2; measured
5 instead of 15 us for a message to a process that is in the caches.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpus:
    """`home` is where a chain waits, `all` is where it may run, `away` is elsewhere if possible."""

    home: frozenset[int]
    all: frozenset[int]
    away: frozenset[int]

    @classmethod
    def share(cls, number: int) -> Self:
        """Return those of the host with that number: hosts are spread over what this may use."""
        found = os.sched_getaffinity(0)
        home = {sorted(found)[number % len(found)]}
        away = found - home or found
        return cls(home=frozenset(home), all=frozenset(found), away=frozenset(away))


def move_to(cpus: frozenset[int]) -> None:
    """Run there from now on; stay where that is not allowed any more."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cpus)
