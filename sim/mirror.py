"""Copy new elements of the DIPP ring into the radio's own store, each exactly once. Pure.

Theory of operation: an element's slot in the ring's offset table is its identity: slots are used
one after the other and never renumbered, while positions shift when old elements go. The mirror
remembers the next slot, and how the last copied element looked (its place in the data area and a
checksum of its first bytes), so that it notices when DIPP came back with another ring. Then it
looks at everything again and leaves out what the store already holds. A copy counts only if the
ring's tail did not move while it was downloaded. What to do next is stored together with each
element (`ObservationStore.append`), so a kill at any instant neither loses nor doubles one.
Source: dipp.md 14.1 and 14.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from csp.crc import crc32c
from csp.errors import CspError, DecodeError
from csp.sched import Scheduler, Task

# Enough for length and metadata of an image block, which differ between any two pictures.
LOOK_BYTES = 256
# A node that is away is asked this much less often than one that answers.
_BACK_OFF = 3.0
# How often one element may come out broken before it is left out.
_MAX_ATTEMPTS = 3


class MirrorState(IntEnum):
    """The number is parameter `mirror_state`."""

    AWAY = 0
    IDLE = 1
    COPYING = 2
    FULL = 3
    OFF = 4
    STORE_FAULT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Tail and head of a ring, and the number of slots of its table."""

    tail: int
    head: int
    entries: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return (self.head - self.tail) % self.entries

    def position(self, slot: int) -> int | None:
        """Return how many elements are older than the one in a slot; `count` for the next slot.

        None for a slot that is outside.
        """
        position = (slot - self.tail) % self.entries
        return position if position <= self.count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How an element looks from outside: start and end in the data area, and its first bytes."""

    start: int
    end: int
    first_bytes: int
    first_crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the mirror is: the next slot to copy, and how the one before it looked.

    `comparing` says that what comes may already be there: the ring was another one.
    """

    next_slot: int
    look: Look
    comparing: bool = False


class RingSource(Protocol):
    """The DIPP ring over the bus. Every method raises CspError if the node does not answer."""

    async def bounds(self) -> Bounds:
        """Return tail and head."""

    async def look(self, slot: int) -> Look:
        """Return how the element in a slot looks; nonsense if the slot is not in use."""

    async def download(self, position: int) -> bytes:
        """Return an element, 0 = oldest."""


class ElementStore(Protocol):
    """Where the elements go."""

    progress: Progress | None

    def append(self, element: bytes, progress: Progress) -> None:
        """Keep an element and, with it, where to go on. Raises OSError, MisuseError."""

    def holds(self, element: bytes) -> bool:
        """Tell whether the same bytes are already there."""

    def note(self, progress: Progress) -> None:
        """Remember where to go on, without an element."""

    def fits(self, size: int) -> bool:
        """Tell whether an element may be appended under the present drop policy."""


@dataclass(slots=True)
class MirrorCounters:
    """What the mirror did since it was started."""

    copied: int = 0
    copied_bytes: int = 0
    missed: int = 0
    duplicates: int = 0
    faults: int = 0
    store_faults: int = 0
    broken: int = 0
    resyncs: int = 0
    waiting: int = 0


class Mirror:
    """One mirror. `check` raises DecodeError for bytes that are not an element.

    `enabled` False keeps it off the bus. It starts with its first step and ends with `stop`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        source: RingSource,
        store: ElementStore,
        poll_s: float,
        check: Callable[[bytes], None],
    ) -> None:
        self._scheduler = scheduler
        self._source = source
        self._store = store
        self._poll_s = poll_s
        self._check = check
        self.state = MirrorState.AWAY
        self.enabled = True
        self.counters = MirrorCounters()
        self._verified = False
        self._comparing = store.progress is None or store.progress.comparing
        self._attempts = 0
        self._task: Task[None] = scheduler.spawn_background(self._run(), "mirror")

    def stop(self) -> None:
        """Copy no more. Harmless if done twice."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            pause_s = self._poll_s
            if not self.enabled:
                self.state = MirrorState.OFF
            else:
                try:
                    await self.step()
                except OSError:
                    # The disk is full or broken; the element is still in DIPP's ring.
                    self.counters.store_faults += 1
                    self.state = MirrorState.STORE_FAULT
                    pause_s *= _BACK_OFF
                except CspError:
                    self.counters.faults += 1
                    self.state = MirrorState.AWAY
                    # After an absence it may be another ring: look before going on.
                    self._verified = False
                    pause_s *= _BACK_OFF
            await self._scheduler.sleep(pause_s)

    async def step(self) -> None:
        """Copy all that is new. Raises CspError if DIPP falls silent, OSError from the store."""
        bounds = await self._source.bounds()
        slot = await self._next_slot(bounds)
        while self.enabled and slot != bounds.head:
            self.counters.waiting = bounds.count - (bounds.position(slot) or 0)
            self.state = MirrorState.COPYING
            element, look, bounds, slot = await self._copy(bounds, slot)
            if element is None:
                continue
            if not self._store.fits(len(element)):
                self.state = MirrorState.FULL
                return
            slot = (slot + 1) % bounds.entries
            self._keep(element, self._progress(slot, look))
        self.counters.waiting = 0
        # What came back after a reset has been compared; from here on all is new.
        self._comparing = False
        self.state = MirrorState.IDLE

    async def _next_slot(self, bounds: Bounds) -> int:
        """Return the slot to go on with, after making sure it is still the same ring."""
        progress = self._store.progress
        if progress is None:
            return bounds.tail
        slot = progress.next_slot
        position = bounds.position(slot)
        if position is None:
            behind = (bounds.tail - slot) % bounds.entries
            if behind >= bounds.entries // 2:
                return self._resync(bounds)
            # Evicted before we came: gone, and said so.
            self.counters.missed += behind
            self._verified = True
            return bounds.tail
        if not self._verified and position > 0:
            before = (slot - 1) % bounds.entries
            if await self._source.look(before) != progress.look:
                return self._resync(bounds)
        self._verified = True
        return slot

    def _resync(self, bounds: Bounds) -> int:
        self.counters.resyncs += 1
        self._comparing, self._verified = True, True
        return bounds.tail

    async def _copy(self, bounds: Bounds, slot: int) -> tuple[bytes | None, Look, Bounds, int]:
        """Download one element; None if it has to be tried again, or went away meanwhile."""
        position = bounds.position(slot)
        if position is None:
            raise DecodeError("the ring moved away", expected=slot, actual=bounds.tail)
        look = await self._source.look(slot)
        element = await self._source.download(position)
        after = await self._source.bounds()
        if after.tail != bounds.tail:
            return None, look, after, self._after_eviction(after, slot)
        if not self._is_sound(element, look):
            self._attempts += 1
            if self._attempts < _MAX_ATTEMPTS:
                return None, look, after, slot
            self.counters.broken += 1
            self._attempts = 0
            following = (slot + 1) % after.entries
            self._store.note(self._progress(following, look))
            return None, look, after, following
        self._attempts = 0
        return element, look, after, slot

    def _after_eviction(self, bounds: Bounds, slot: int) -> int:
        if bounds.position(slot) is not None:
            return slot
        self.counters.missed += (bounds.tail - slot) % bounds.entries
        return bounds.tail

    def _is_sound(self, element: bytes, look: Look) -> bool:
        if crc32c(element[: look.first_bytes]) != look.first_crc:
            return False
        try:
            self._check(element)
        except DecodeError:
            return False
        return True

    def _progress(self, next_slot: int, look: Look) -> Progress:
        return Progress(next_slot=next_slot, look=look, comparing=self._comparing)

    def _keep(self, element: bytes, progress: Progress) -> None:
        if self._comparing and self._store.holds(element):
            self.counters.duplicates += 1
            self._store.note(progress)
            return
        self._store.append(element, progress)
        self.counters.copied += 1
        self.counters.copied_bytes += len(element)
