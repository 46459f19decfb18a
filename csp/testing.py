"""Test what speaks CSP: a virtual network with faults, and a node that answers from a script.

Everything runs in virtual time and repeats exactly with the same seed. Ships with the package, so
that users test their own nodes with it. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from csp.guard import Guard
from csp.interface import Interface
from csp.links.memory import MemoryBus
from csp.links.shaper import ShapedLink
from csp.packet import Packet
from csp.sched import Scheduler
from csp.shaper import Shaper
from csp.stack import Answer, Stack

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What each node's way out does to its frames; see `csp.shaper.Shaper`.

    Jitter bigger than the time between frames reorders them.
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0

    def shaper(self, seed: int) -> Shaper:
        """Return a channel with these faults."""
        return Shaper(
            self.rate_bps,
            self.delay_s,
            self.loss,
            self.corruption,
            None,
            seed,
            jitter_s=self.jitter_s,
            duplication=self.duplication,
        )


class Network:
    """Nodes on one broadcast medium.

    `channels` maps an address to the shaper of that node's way out: change its loss, rate or
    windows while the test runs.
    """

    def __init__(
        self,
        scheduler: Scheduler | None = None,
        *,
        faults: Faults | None = None,
        version: int = 2,
        seed: int = 0,
    ) -> None:
        self.scheduler = scheduler if scheduler is not None else Scheduler()
        self.channels: dict[int, Shaper] = {}
        self.stacks: dict[int, Stack] = {}
        self._bus = MemoryBus(self.scheduler)
        self._faults = faults if faults is not None else Faults()
        self._version = version
        self._seed = seed
        self._links: dict[int, ShapedLink] = {}

    def link(self, address: int) -> ShapedLink:
        """Return a link to this network, for nodes that attach it themselves."""
        channel = self._faults.shaper(self._seed * 65_537 + address)
        link = ShapedLink(self._bus.link(f"VIRT{address}"), outgoing=channel)
        self.channels[address] = channel
        self._links[address] = link
        return link

    def add(self, address: int, *, guard: Guard | None = None, dedup: bool = True) -> Stack:
        """Add a bare stack with this address. Ports are up to the caller."""
        stack = Stack(
            self.scheduler,
            version=self._version,
            rng=random.Random(self._seed * 131 + address),
            dedup=dedup,
        )
        link = self.link(address)
        interface = stack.add_interface(link.name, address, link.send, guard=guard)
        link.open(self.scheduler, lambda frame: stack.receive(interface, frame))
        self.stacks[address] = stack
        return stack

    def remove(self, address: int) -> None:
        """Switch a node off: it neither hears nor says anything more."""
        self._links.pop(address).close()
        self.stacks.pop(address, None)
        self.channels.pop(address, None)

    def reboot(self, address: int) -> Stack:
        """Replace a node by a fresh one with the same address that remembers nothing."""
        self.remove(address)
        self._seed += 1
        return self.add(address)

    def run(self, coro: Coroutine[Any, Any, T], limit_s: float = 3600.0) -> T:
        """Run a coroutine in virtual time to its end. Raises Timeout after `limit_s` of it."""
        return self.scheduler.run_virtual(self.scheduler.spawn(coro, "test"), limit_s)

    def wait(self, duration_s: float) -> None:
        """Let virtual time pass."""

        async def idle() -> None:
            await self.scheduler.sleep(duration_s)

        self.run(idle(), duration_s + 1)


class FakeNode:
    """A node that answers each port from `answers` and remembers what it was asked in `seen`.

    An answer is bytes, a sequence of packets, None for silence, or a function of the packet.
    """

    def __init__(
        self,
        stack: Stack,
        answers: dict[int, Answer | Callable[[Packet], Answer]] | None = None,
    ) -> None:
        self.stack = stack
        self.answers = dict(answers or {})
        self.seen: list[Packet] = []
        for port in self.answers:
            stack.bind(port, self._answer)

    def _answer(self, packet: Packet) -> Answer:
        self.seen.append(packet)
        answer = self.answers.get(packet.dport)
        return answer(packet) if callable(answer) else answer


def random_frame(rng: random.Random, address: int, version: int = 2) -> bytes:
    """Return a frame of random content that the node with this address will look at."""
    size = rng.choice((0, 1, 3, 5, 6, 7, 9, 11, 15, 34, 60, 200, 300))
    frame = bytearray(rng.randbytes(size))
    if rng.random() < 0.9 and size >= 6:
        if version == 2:
            frame[0] = frame[0] & 0xC0 | address >> 8
            frame[1] = address & 0xFF
        else:
            frame[0] = frame[0] & 0xFE | address >> 4
            frame[1] = frame[1] & 0x0F | (address & 0x0F) << 4
    return bytes(frame)


def interface_of(stack: Stack) -> Interface:
    """Return the first interface of a stack, to feed frames into it by hand."""
    return stack.interfaces[0]
