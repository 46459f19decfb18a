"""What node, forge, host and module child say to each other: one class per frame. Pure.

How they travel is in protocol.py. Source: design.md 2, performance.md 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dipp.runner.values import Chain, Policy, StageStats
from dipp.workspace import ImageRef, SeenImage

# The input and one arena per module of the longest chain.
MAX_SEGMENTS = 21
MAX_STEPS = 20
REASON_LIMIT_BYTES = 1024
# Segments that are no arenas of the pool; see `Go`.
BY_DESCRIPTOR, UNUSED, ANNOUNCED = 255, 254, 253


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeReady:
    """Forge to node: imports are done, hosts can be asked for; these rungs cannot hold here.

    Nobody can shorten a file that lies on `device`; 0 if there is no such device.
    """

    pid: int
    missing_rungs: tuple[str, ...] = ()
    device: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnHost:
    """Node to forge, with the host's control socket: fork a host."""

    host: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpawned:
    """Forge to node, with a pidfd: the host runs."""

    host: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRefused:
    """Forge to node: no host, because of this errno."""

    host: int
    errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostExited:
    """Forge to node: the host and everything below it is gone."""

    host: int
    signal: int
    status: int
    orphans: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadChain:
    """Node to host, with the progress page: this is what you are."""

    chain: Chain
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingModule:
    """Host to node: about to load the module at that position; blame it if I die now."""

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLoaded:
    """Host to node: ready for batches."""

    rss_kb: int
    missing_rungs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """Host to node: the module at that position cannot be loaded."""

    position: int
    code: int
    reason: str


class RunBatch(NamedTuple):
    """Node to host, with the input segment: run the chain on these images.

    `sent_s` is when, on the clock that all processes share.
    """

    batch_id: int
    images: tuple[ImageRef, ...]
    sent_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReleased:
    """Node to host: nobody reads the arenas of that batch any more."""

    batch_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Node to host, host to child: an order comes soon, get the code for it into the caches.

    With `has_input` the segment of its batch comes beside it.
    """

    has_input: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFilled:
    """Host to node: so many children stand by and nothing is left to prepare."""

    children: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDone:
    """Host to node, with the arenas after segment 0: the images the chain made.

    `latency_s` is the time from the order to the last accepted result, without what went before
    (children made ready) and came after (children buried).
    """

    batch_id: int
    images: tuple[ImageRef, ...]
    arenas: int
    stages: tuple[StageStats, ...]
    rss_kb: int
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFailed:
    """Host to node: a module failed; `crash` is an encoded crash record."""

    batch_id: int
    crash: bytes
    log: str
    stages: tuple[StageStats, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFault:
    """Host to node: a fault in the runner itself, as text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quit:
    """Node to host: end, you are no longer needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildReady:
    """Child to host: confined and memory mapped, and later, if nothing came, rehearsed as well."""

    is_rehearsed: int = 0


class Go(NamedTuple):
    """Host to child: run now.

    `segments` says for each segment of the batch where it is: the number of an arena that the child
    has mapped already, `BY_DESCRIPTOR` if it comes over the other socket, in order, `ANNOUNCED` if
    it came with an alert, or `UNUSED` if no image lies in it any more. With `fresh` the last
    descriptor is the arena to write instead of the child's own. With `hold` the child stays after
    its result until it is ended. A `brief` module stays on the processor where it waits. `shmid` is
    the System V segment of native code. A plain tuple, because a fresh process has to make it.
    """

    batch_id: int
    pipeline_id: int
    images: tuple[SeenImage, ...]
    segments: tuple[int, ...]
    fresh: bool = False
    hold: bool = False
    brief: bool = False
    shmid: int = -1


class ModuleForwarded(NamedTuple):
    """Child to host: the result is what it was given; it has not even looked."""

    batch_id: int


class ModuleDone(NamedTuple):
    """Child to host: the result."""

    batch_id: int
    pipeline_id: int
    images: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFailed:
    """Child to host: the module gave up with a code."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRaised:
    """Child to host: an exception that the module did not catch."""

    exception: str
    line: int
    reason: str


Frame = (
    ForgeReady | SpawnHost | HostSpawned | HostRefused | HostExited | LoadChain | LoadingModule
    | ChainLoaded | LoadFailed | RunBatch | BatchDone | BatchFailed | HostFault | Quit
    | BatchReleased | Alert | PoolFilled | ChildReady | Go | ModuleDone | ModuleForwarded
    | ModuleFailed | ModuleRaised
)  # fmt: skip
