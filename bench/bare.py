"""What processes cost on this machine at all: nothing is checked, confined or recovered here.

`python -m bench.bare SECONDS` prints seconds of each round as JSON. It is a program of its own,
because it has to hold the libraries a pipeline host holds and nothing else: fork and end of a
process take as long as its memory is large. Source: performance.md 2, the prototypes.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time

from bench.timing import Contestant, clocked, contest
from dipp.runner.forge import preload

COUNTS = (1, 4, 16)
LIFE = "life"
# About the size of an order for one image, and of its answer.
_ORDER, _ANSWER_BYTES = bytes(67), 45
# Until the processes have slept, as those of a pipeline have when a batch comes.
_REST_S = 0.02
_REHEARSALS = 3


def main(argv: list[str]) -> int:
    """Measure and print."""
    preload()
    gc.collect()
    gc.freeze()
    gc.disable()
    contestants: dict[str, Contestant] = {str(count): _chain(count) for count in COUNTS}
    contestants[LIFE] = clocked(_live_and_die)
    times = contest(contestants, budget_s=float(argv[1]))
    print(json.dumps({name: each.seconds for name, each in times.items()}))
    return 0


def _live_and_die() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _chain(count: int) -> Contestant:
    def run() -> float:
        children = [_stand_by() for _ in range(count)]
        try:
            for _, channel in children:
                channel.recv(1)
            time.sleep(_REST_S)
            began = time.perf_counter()
            for _, channel in children:
                channel.send(_ORDER)
                channel.recv(len(_ORDER))
            return (time.perf_counter() - began) / count
        finally:
            for pid, channel in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                channel.close()

    return run


def _stand_by() -> tuple[int, socket.socket]:
    """Fork a child that has gone the way of an order some times, and waits for one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            _answer(theirs)
        finally:
            os._exit(1)
    theirs.close()
    return pid, ours


def _answer(channel: socket.socket) -> None:
    mirror, mirrored = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for _ in range(_REHEARSALS):
        mirror.send(_ORDER)
        _serve(mirrored)
        mirror.recv(len(_ORDER))
    channel.send(b"r")
    _serve(channel)
    signal.pause()


def _serve(channel: socket.socket) -> None:
    channel.send(channel.recv(len(_ORDER))[:_ANSWER_BYTES])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
