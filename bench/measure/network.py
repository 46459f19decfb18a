"""The network: parameter pulls, packets and RDP, in memory and between two processes over UDP.

In memory both ends run in this process in virtual time, so the figure is what a packet costs in
processor time; over UDP it is what a user sees, wake-ups of two processes included.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.effort import Effort
from bench.figures import Figure, Section
from bench.peer import ADDRESS, PARAMETERS, SINK_PORT, swallow, table
from bench.timing import Contestant, Times, contest
from csp.links.udp import UdpLink
from csp.loop import Loop
from csp.node import CspNode
from csp.param.client import PullItem
from csp.rdp import BULK
from csp.services import Identity
from csp.testing import Network

_BUDGET_S = 12.0
_OWN = 20
_PING_PORT, _CHUNK_BYTES = 1, 240
_ROUND = 200
_BULK_CHUNKS = 1_000
_ROOT = Path(__file__).resolve().parents[2]
Task = Callable[[CspNode], Coroutine[object, object, None]]


def measure(effort: Effort) -> Section:
    """Measure both ways."""
    budget_s = effort.budget_s(_BUDGET_S)
    tasks: dict[str, Task] = {"pull": _pull, "pull ten": _pull_ten, "ping": _ping, "bulk": _bulk}
    effort.say("in memory")
    memory = contest(
        {name: partial(_in_memory, task) for name, task in tasks.items()},
        budget_s=budget_s,
    )
    effort.say("over UDP to another process")
    with _two_processes() as run:
        contestants: dict[str, Contestant] = {
            name: partial(run, task) for name, task in tasks.items()
        }
        udp = contest({**contestants, "again": contestants["pull"]}, budget_s=budget_s)
    again, first = udp["again"], udp["pull"]
    payload_mb = _BULK_CHUNKS * _CHUNK_BYTES / 1e6
    return Section(
        name="network",
        title="The CSP network",
        figures=(
            # A request and its answer are two packets, and each is sent and received here.
            _rate("csp.packets_per_s", memory["ping"], 2 * _ROUND, "1/s",
                  "packets through two stacks in one process, CRC and all"),
            _rate("csp.param_pulls_per_s", memory["pull"], _ROUND, "1/s",
                  "pulls of one parameter, both ends in one process"),
            _rate("rdp.mb_per_s", memory["bulk"], payload_mb, "MB/s",
                  "RDP payload, both ends in one process"),
            _rate("csp.udp_round_trips_per_s", udp["ping"], _ROUND, "1/s",
                  "pings to another process over UDP, one after the other"),
            _rate("csp.udp_param_pulls_per_s", udp["pull"], _ROUND, "1/s",
                  "pulls of one parameter from another process over UDP"),
            _rate("csp.udp_params_per_s", udp["pull ten"], 10 * _ROUND, "1/s",
                  "parameters from another process over UDP, ten in a pull"),
            _rate("rdp.udp_mb_per_s", udp["bulk"], payload_mb, "MB/s",
                  "RDP payload to another process over UDP"),
            Figure(
                key="aa.udp_pulls",
                value=again.best / first.best,
                median=again.median / first.median,
                unit="×",
                what="control: pulls over UDP against themselves",
            ),
        ),
    )  # fmt: skip


def _rate(key: str, times: Times, count: float, unit: str, what: str) -> Figure:
    return Figure(
        key=key, value=count / times.best, median=count / times.median, unit=unit, what=what
    )


async def _repeat(work: Callable[[int], Awaitable[object]]) -> None:
    for number in range(_ROUND):
        await work(number)


async def _pull(node: CspNode) -> None:
    await _repeat(lambda i: node.params.pull(ADDRESS, [PullItem(param=i % PARAMETERS + 1)]))


async def _pull_ten(node: CspNode) -> None:
    items = [PullItem(param=number) for number in range(1, 11)]
    await _repeat(lambda i: node.params.pull(ADDRESS, items))


async def _ping(node: CspNode) -> None:
    await _repeat(lambda i: node.stack.request(ADDRESS, _PING_PORT, bytes(100), timeout_s=2.0))


async def _bulk(node: CspNode) -> None:
    connection = await node.stack.connect(ADDRESS, SINK_PORT, options=BULK)
    chunk = bytes(_CHUNK_BYTES)
    for _ in range(_BULK_CHUNKS - 1):
        await connection.send(chunk)
    await connection.send(chunk[:-3] + b"end")
    answer = await connection.receive(10.0)
    connection.close()
    if answer is None or int.from_bytes(answer, "little") != _BULK_CHUNKS * _CHUNK_BYTES:
        raise RuntimeError("RDP lost something on a link without losses")


def _in_memory(task: Task) -> float:
    network = Network()
    nodes = []
    for address in (_OWN, ADDRESS):
        node = CspNode(
            network.scheduler, address=address, identity=Identity(hostname="bench"), table=table(),
            seed=address,
        )  # fmt: skip
        node.attach(network.link(address))
        nodes.append(node)
    nodes[1].stack.listen(SINK_PORT, swallow)
    began = time.process_time()
    network.run(task(nodes[0]))
    return time.process_time() - began


@contextmanager
def _two_processes() -> Iterator[Callable[[Task], float]]:
    """Give a function that runs a task against the node in another process and times it."""
    loop = Loop()
    link = UdpLink("127.0.0.1", 9)
    command = [sys.executable, "-m", "bench.peer", str(link.local_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as peer:
        try:
            line = peer.stdout.readline() if peer.stdout else ""
            link.connect_to("127.0.0.1", int(line))
            node = CspNode(loop, address=_OWN, identity=Identity(hostname="bench"), table=table())
            node.attach(link, default=True)

            def run(task: Task) -> float:
                began = time.perf_counter()
                loop.run_until(loop.scheduler.spawn(task(node)), 60.0)
                return time.perf_counter() - began

            yield run
        finally:
            peer.terminate()
            link.close()
            loop.close()
