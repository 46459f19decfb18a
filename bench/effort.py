"""How long a section may take, and whom it tells how far it is. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_QUICK_SHARE = 0.08


def _nobody(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """`quick` measures the same things with fewer sizes and rounds: to see that they work."""

    quick: bool = False
    say: Callable[[str], None] = _nobody

    def budget_s(self, seconds: float) -> float:
        """Return what of a time may be spent."""
        return seconds * _QUICK_SHARE if self.quick else seconds

    def some(self, usual: int, quick: int) -> int:
        """Return a number of repetitions."""
        return quick if self.quick else usual
