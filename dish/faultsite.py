"""A DISH node with a ground station and a neighbour on one medium, for rows of faults. Driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

from csp.faultrow import Case, require
from csp.loop import Loop
from csp.node import CspNode
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Value
from csp.services import PORT_PING, Identity
from csp.testing import Network
from dish.asm import assemble_one
from dish.client import ProcClient
from dish.errors import Ret
from dish.node import DishConfig, DishNode, prepare
from dish.outcome import Outcome
from dish.profile import PROFILES

DISH, GROUND, PEER = 4, 20, 9
DEADLINE_S = 30.0
T = TypeVar("T")


class Site:
    """A node, a ground station and perhaps a neighbour on one medium, in real time."""

    def __init__(self, case: Case, state: Path | None = None) -> None:
        config = DishConfig(address=DISH, seed=1, profile=PROFILES["default"], state=state)
        prepared = prepare(config)
        self.loop = Loop()
        self.network = Network(self.loop.scheduler)
        self.dish = DishNode(self.loop, config, prepared)
        self.dish.attach(self.network.link(DISH))
        self.ground = self.network.add(GROUND)
        self.proc = ProcClient(self.ground)
        self.params = RemoteTable(ParamClient(self.ground))
        self._neighbours: list[CspNode] = []
        case.cleanup.callback(self.close)

    def neighbour(self, *specs: ParamSpec) -> ParamTable:
        """Add another node with these parameters; return its table."""
        table = ParamTable(specs)
        identity = Identity(hostname="n", model="m", revision="r", date="", time="")
        node = CspNode(self.loop.scheduler, address=PEER, identity=identity, table=table, seed=2)
        node.attach(self.network.link(PEER))
        self._neighbours.append(node)
        return table

    def do(self, coro: Coroutine[object, object, T]) -> T:
        """Run something of the ground station. Raises what it raises."""
        return self.loop.run_until(self.loop.scheduler.spawn(coro), DEADLINE_S)

    def get(self, name: str, index: int | None = None) -> Value:
        """Pull a parameter of the node."""
        return self.do(self.params.get(DISH, name, index))

    def set(self, name: str, value: int, index: int) -> None:
        """Push an element of a parameter of the node."""
        self.do(self.params.set(DISH, name, value, index))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Run the loop until something is so. Raises Violation."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            require(time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}")
            self.loop.tick(0.02)

    def start(self, slot: int, text: str) -> None:
        """Put a procedure into a slot and run it."""
        self.do(self.proc.delete(DISH, slot))
        self.do(self.proc.push(DISH, slot, assemble_one(text)))
        self.do(self.proc.run(DISH, slot))

    def finish(self, slot: int, text: str) -> Outcome:
        """Run a procedure and wait for its outcome."""
        before = len(self.dish.service.outcomes)
        self.start(slot, text)
        self.until(lambda: len(self.dish.service.outcomes) > before, "a run ends")
        return self.dish.service.outcomes[-1]

    def still_works(self) -> None:
        """Ping the node in time and run a good procedure."""
        ping = self.ground.request(DISH, PORT_PING, b"x", timeout_s=1.0)
        require(self.do(ping) == b"x", "no answer to a ping")
        outcome = self.finish(49, "noop")
        require(outcome.ret == Ret.OK, f"the next good procedure: {outcome}")

    def close(self) -> None:
        """End the node and everything below it."""
        self.dish.close()
        for node in self._neighbours:
            node.close()
        self.loop.close()
