"""When to stop trying: restarts within a period. Pure. Source: style-anchors.md 2.3."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class RestartIntensity:
    """Allows `limit` restarts in any `period_s` seconds, then refuses until it is re-armed.

    The defaults are the supervisor's own of style-anchors.md 4: three in a minute.
    """

    limit: int = 3
    period_s: float = 60.0
    gave_up: bool = False
    _times: deque[float] = field(default_factory=deque)

    def allow(self, now: float) -> bool:
        """Count a restart; False once there were too many."""
        while self._times and self._times[0] <= now - self.period_s:
            self._times.popleft()
        self._times.append(now)
        if len(self._times) > self.limit:
            self.gave_up = True
        return not self.gave_up

    def rearm(self) -> None:
        """Forget the past, by order of the operator."""
        self._times.clear()
        self.gave_up = False
