"""The table of rungs: name, probe, apply.

Driver. `probe` asks the platform without changing anything and returns why a rung cannot hold;
`apply` restricts the calling process for good. The order is the order of the table.
Source: style-anchors.md 3, defect D21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dipp.sandbox import limits
from dipp.sandbox.limits import Confinement


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One restriction. `probe` returns None if it can be applied here, else the reason."""

    name: str
    probe: Callable[[], str | None]
    apply: Callable[[Confinement], None]


LADDER: tuple[Rung, ...] = (
    Rung(name="session", probe=limits.always, apply=limits.new_session),
    Rung(name="parent-death", probe=limits.probe_prctl, apply=limits.die_with_parent),
    Rung(name="descriptors", probe=limits.always, apply=limits.close_others),
    Rung(name="no-new-privileges", probe=limits.probe_prctl, apply=limits.no_new_privileges),
    Rung(name="limits", probe=limits.always, apply=limits.set_limits),
    Rung(name="memory", probe=limits.probe_statm, apply=limits.limit_memory),
)


def missing_rungs(skipped: Sequence[str] = (), ladder: Sequence[Rung] = LADDER) -> tuple[str, ...]:
    """Return the rungs that will not hold, each as `name: why`."""
    reasons = ((rung, "switched off" if rung.name in skipped else rung.probe()) for rung in ladder)
    return tuple(f"{rung.name}: {reason}"[:64] for rung, reason in reasons if reason)


def climb(
    confinement: Confinement, skipped: Sequence[str] = (), ladder: Sequence[Rung] = LADDER
) -> tuple[str, ...]:
    """Apply every rung that is not skipped; return the names of those that failed."""
    failed = []
    for rung in ladder:
        if rung.name in skipped:
            continue
        try:
            rung.apply(confinement)
        except (OSError, ValueError):
            # A kernel or container that refuses a restriction must not stop the mission.
            failed.append(rung.name)
    return tuple(failed)
