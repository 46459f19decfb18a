"""Compare the figures of two runs. Pure.

Two runs are two moments of two machines: only what differs by more than both controls is called a
change, and which way is better is known only for figures that have a target or a telling unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.figures import MEDIAN_SUFFIX, TARGETS

CONTROL = "aa_control"
# Below this no difference between two runs is believed, however calm the controls were.
_LEAST_SPREAD = 0.05
_MORE_IS_BETTER = ("_per_s", "_mips", "_mb_s", "_kbit_s", "over_in_process", "over_1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure in two runs. `kind` is ok, bad or empty, as in the report."""

    key: str
    old: float
    new: float
    kind: str
    words: str

    @property
    def ratio(self) -> float:
        """New over old."""
        return self.new / self.old if self.old else float("inf")


def compare(new: Mapping[str, float], old: Mapping[str, float]) -> list[Change]:
    """Return the figures that both runs have."""
    spread = max(_LEAST_SPREAD, *(abs(each.get(CONTROL, 1.0) - 1) for each in (new, old)))
    found = []
    for key in sorted(new.keys() & old.keys()):
        if key.endswith(MEDIAN_SUFFIX) or key == CONTROL or key.startswith("aa."):
            continue
        kind, words = _judge(key, old[key], new[key], spread)
        found.append(Change(key=key, old=old[key], new=new[key], kind=kind, words=words))
    return found


def _judge(key: str, old: float, new: float, spread: float) -> tuple[str, str]:
    if old == new:
        return "", "same"
    if old and abs(new / old - 1) <= spread:
        return "", "within the control"
    is_better = (new > old) == _more_is_better(key)
    return ("ok", "better") if is_better else ("bad", "worse")


def _more_is_better(key: str) -> bool:
    target = TARGETS.get(key)
    if target is not None:
        return not target.is_ceiling
    return any(mark in key for mark in _MORE_IS_BETTER)
