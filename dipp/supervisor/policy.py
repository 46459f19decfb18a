"""When to stop trying: restarts of the forge, failures of modules. Pure, time is an argument.

Theory of operation: failures are counted per module, version and setting. Each is followed by a
short rest that doubles while it goes on failing; so many within a period, and the module is
quarantined until it is re-armed. Whether a failure counts, and whether the batch runs again, is in
the row of its code. Source: style-anchors.md 2.3 and 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from dipp.errors import Code, is_retryable


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

    @property
    def count(self) -> int:
        """How many restarts of the last period are remembered; older ones until the next."""
        return len(self._times)

    def recall(self, count: int, now: float, *, gave_up: bool) -> None:
        """Take over so many restarts from a time whose clock is not known, as if they were now."""
        self._times.extend([now] * count)
        self.gave_up = gave_up

    def rearm(self) -> None:
        """Forget the past, by order of the operator."""
        self._times.clear()
        self.gave_up = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much a module may fail. `failures` 0 means that it is never quarantined.

    The defaults are those of style-anchors.md 4.
    """

    failures: int = 3
    period_s: float = 60.0
    retries: int = 1


# A module that has just failed may run again after this long, doubled per failure in a row. Short,
# because batches wait for it: quarantine is what ends a series, this only spaces it.
BACKOFF_S, BACKOFF_MAX_S = 0.1, 2.0

# Failures that say nothing about the module: the operator's will, or a machine short of something.
_NOT_ITS_FAULT = frozenset(
    {Code.OPERATOR_STOP, Code.NODE_DIED, Code.PIPE_CREATE, Code.PIPE_READ, Code.MODULE_QUARANTINED}
)


def is_blamed(code: int, module: int) -> bool:
    """Say whether a failure with that code counts against the module at that position."""
    return module > 0 and code not in _NOT_ITS_FAULT


def may_retry(code: int, retries: int, tolerance: Tolerance) -> bool:
    """Say whether the same batch runs again after that many retries.

    Only where its code says that this may help: a timeout or a shortage, never a crash.
    """
    return is_retryable(code) and retries < tolerance.retries


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleKey:
    """What failures are counted for: a module of a pipeline in one version with one setting.

    Another file or other parameters make another key, so a change re-arms by itself.
    """

    pipeline: int
    name: str
    version: str


@dataclass(slots=True)
class _Standing:
    failures: RestartIntensity
    in_a_row: int = 0
    not_before: float = 0.0


# Six pipelines of twenty modules in three versions, and as many again that are out of use.
_BOOK_LIMIT = 720


class ModuleBook:
    """The standing of every module that has failed. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._standings: dict[ModuleKey, _Standing] = {}

    def is_usable(self, key: ModuleKey) -> bool:
        """Say whether the module is not quarantined."""
        standing = self._standings.get(key)
        return standing is None or not standing.failures.gave_up

    def wait_s(self, key: ModuleKey, now: float) -> float:
        """Return how long the module still has to rest."""
        standing = self._standings.get(key)
        return max(0.0, standing.not_before - now) if standing else 0.0

    def failed(self, key: ModuleKey, now: float, tolerance: Tolerance) -> bool:
        """Count a failure; say whether it was the one that quarantines the module."""
        standing = self._standings.get(key)
        if standing is None:
            self._make_room()
            standing = self._standings[key] = _Standing(RestartIntensity())
        standing.in_a_row += 1
        doubled = BACKOFF_S * 2.0 ** min(standing.in_a_row - 1, 16)
        standing.not_before = now + min(doubled, BACKOFF_MAX_S)
        if tolerance.failures <= 0:
            return False
        intensity, was_usable = standing.failures, not standing.failures.gave_up
        # The last of so many failures is the one that is too many.
        intensity.limit, intensity.period_s = tolerance.failures - 1, tolerance.period_s
        return not intensity.allow(now) and was_usable

    def succeeded(self, key: ModuleKey) -> None:
        """End the back-off of a module. Failures stay counted until they are old enough."""
        standing = self._standings.get(key)
        if standing is not None:
            standing.in_a_row, standing.not_before = 0, 0.0

    def failures(self) -> Iterator[tuple[ModuleKey, int]]:
        """Yield every module that has failed lately or is quarantined, and how often it failed."""
        for key, standing in self._standings.items():
            if standing.failures.count:
                yield key, standing.failures.count

    def recall(self, key: ModuleKey, failures: int, now: float, *, is_out: bool) -> None:
        """Take over how a module stood before a restart; its failures are as new."""
        self._make_room()
        standing = self._standings[key] = _Standing(RestartIntensity())
        standing.failures.recall(failures, now, gave_up=is_out)

    def rearm(self, pipeline: int | None = None) -> int:
        """Forget the failures of a pipeline or of all; return how many modules are free again."""
        found = [key for key in self._standings if pipeline in (None, key.pipeline)]
        freed = sum(not self.is_usable(key) for key in found)
        for key in found:
            del self._standings[key]
        return freed

    def _make_room(self) -> None:
        if len(self._standings) >= _BOOK_LIMIT:
            # Rather the oldest that still works; a quarantined one must not come back by itself.
            victim = next((k for k in self._standings if self.is_usable(k)), None)
            self._standings.pop(victim or next(iter(self._standings)))
