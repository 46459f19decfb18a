"""The process that works: takes orders from its engine, one after the other, and reports.

Driver; a program of its own (`python -m dipp.archive.runner FD`), started by `handle.Runner`. It
has a forge and an executor as a node has. It ends when its line is hung up, or after a while
without orders.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
import traceback
from collections.abc import Sequence

import cv2

from csp.sched import Cancelled
from dipp.archive.chains import Context, fingerprint
from dipp.archive.handle import MESSAGE_LIMIT_BYTES, READY, Line
from dipp.archive.places import open_store
from dipp.archive.records import Order, Report, State
from dipp.archive.work import Work
from dipp.errors import Code, ContentError, DippError
from dipp.runfiles import FileRunner
from dipp.runner.executor import Limits

# A runner that a cluster has forgotten gives its memory back after this.
_IDLE_S = 300.0
_TICK_S = 1.0


class _Server:
    """The line, watched while a chain runs and while there is nothing to do."""

    def __init__(self, line: Line, runner: FileRunner) -> None:
        self._line = line
        self._runner = runner
        self._orders: list[Order] = []
        runner.loop.add_reader(line.fileno(), self._on_line)

    def _on_line(self) -> None:
        try:
            message = self._line.receive()
        except ConnectionResetError:
            message = b""
        if not message:
            self._runner.loop.remove_reader(self._line.fileno())
            # Ends the wait for a running chain, wherever it is.
            raise Cancelled("the engine hung up")
        self._orders.append(Order.decode(message))

    def next(self) -> Order | None:
        """Return the next order, None after a while without. Raises Cancelled."""
        idle_since = time.monotonic()
        while not self._orders and time.monotonic() - idle_since < _IDLE_S:
            self._runner.loop.tick(_TICK_S)
        return self._orders.pop(0) if self._orders else None


def serve(line: Line, context: Context) -> None:
    """Work until the line is hung up."""
    cv2.setNumThreads(1)
    # Damaged pictures are told in the records; lines of its own would break the progress bar.
    cv2.setLogLevel(0)
    store = open_store(context.store)
    # One chain, so one host; the other limits are those of a node.
    with FileRunner(Limits(max_hosts=1)) as runner:
        server, work = _Server(line, runner), Work(context, runner, store)
        line.send(READY)
        with contextlib.suppress(Cancelled):
            while (order := server.next()) is not None:
                report = _report(work, order)
                _send(line, report)
                if report.state is State.DIED:
                    # Its forge may be beyond repair; the engine starts another runner.
                    return


def _report(work: Work, order: Order) -> Report:
    try:
        return work.do(order)
    except Cancelled:
        raise
    except Exception as error:  # boundary: a fault of ours costs an attempt, and is told
        traceback.print_exc()
        return Report(state=State.DIED, reason=repr(error), code=Code.NODE_DIED)


def _send(line: Line, report: Report) -> None:
    message = report.encode()
    if len(message) > MESSAGE_LIMIT_BYTES and report.record is not None:
        # Whoever asks reads it from the store.
        report = Report(state=report.state, is_new=report.is_new, reason=report.record.key)
        message = report.encode()
    try:
        line.send(message)
    except (BrokenPipeError, ConnectionResetError):
        # The engine is gone; the next order says so.
        return


def main(argv: Sequence[str]) -> int:
    """Run as `python -m dipp.archive.runner FD`; the first message is the context."""
    line = Line(socket.socket(fileno=int(argv[0])))
    line.sock.set_inheritable(False)
    message = line.receive()
    if not message:
        return 0
    try:
        context = Context.decode(message)
        own = fingerprint(context.chain)
        if own != context.fingerprint:
            raise ContentError(
                f"{socket.gethostname()} has other modules for {context.pipeline}: chain "
                f"{own[:12]}, wanted {context.fingerprint[:12]}; install the same there"
            )
        serve(line, context)
    except DippError as error:
        line.send(str(error).encode("utf-8", "backslashreplace")[:MESSAGE_LIMIT_BYTES])
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
