"""Upload to a node in passes, and manage what it has. Pure.

Theory of operation: the node decides where an upload continues, so this side keeps no state: after
the loss of the link, the node, or this program, the same call goes on. Within one call, connections
are tried until the upload is done or nothing has moved for the given patience.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from csp.connection import Connection
from csp.errors import NoResponse, PeerError, Refused
from csp.files.status import FilesError, Status
from csp.files.transfer import LinkBudget, Plan, make_plan
from csp.files.wire import (
    DATA_MAX_BYTES,
    FILES_PORT,
    Answer,
    Data,
    Delete,
    End,
    Entry,
    ListFiles,
    Offer,
    Part,
    Reply,
    Request,
    Rollback,
    Sign,
    VersionKind,
    check_name,
    decode_answer,
)
from csp.sched import Timeout
from csp.signing import Seal
from csp.stack import Stack

# Names on board are far fewer; more entries are not a list.
_MAX_ENTRIES = 4096
# Between attempts to reach a node that does not answer.
_RETRY_S = 1.0
# Some repetitions of the handshake, over any link an upload makes sense on.
CONNECT_TIMEOUT_S = 5.0
# How often a node may ask for bytes again that its disk has lost.
_MAX_REWINDS = 3

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a node has."""

    entries: tuple[Entry, ...]
    free_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """How an upload went: connections it took, packets sent and repeated. `already`: no change."""

    already: bool
    connections: int
    packets: int
    repeated: int


@dataclass(slots=True)
class _Tally:
    connections: int = 0
    packets: int = 0
    repeated: int = 0
    reached: int = 0
    rewinds: int = 0


def _ignore(received: int) -> None:
    """Report to nobody."""


class FilesClient:
    """Talks to the file service of one node.

    `timeout_s` is the patience for a connection to open, beyond what the link's delay takes; once
    open, the link's timers decide.
    """

    def __init__(
        self,
        stack: Stack,
        node: int,
        *,
        budget: LinkBudget | None = None,
        port: int = FILES_PORT,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.budget = budget if budget is not None else LinkBudget()
        self._stack = stack
        self._scheduler = stack.scheduler
        self.node = node
        self._port = port
        self._options = self.budget.options()
        self._silence_s = self._options.conn_timeout_ms / 1000
        self._timeout_s = timeout_s + 4 * self.budget.delay_s

    # -- asking

    async def list(self, name: str = "") -> Listing:
        """Return all files, or those of a name. Raises FilesError, PeerError."""
        connection = await self._connect()
        try:
            await connection.send(ListFiles(name=name).encode())
            entries: list[Entry] = []
            while len(entries) <= _MAX_ENTRIES:
                answer = await self._receive(connection)
                if isinstance(answer, End):
                    return Listing(
                        entries=tuple(entries),
                        free_bytes=answer.free_bytes,
                        limit_bytes=answer.limit_bytes,
                    )
                if isinstance(answer, Reply):
                    raise FilesError(answer.status, name, errno=answer.errno)
                entries.append(answer)
            raise Refused(f"node {self.node} lists more than {_MAX_ENTRIES} files")
        finally:
            connection.close()

    async def entry(self, name: str) -> Entry | None:
        """Return what the node has under a name, None if nothing. Raises FilesError, PeerError."""
        listing = await self.list(check_name(name))
        return next((each for each in listing.entries if each.name == name), None)

    async def plan(self, name: str, content: bytes, bases: Mapping[bytes, bytes]) -> Plan:
        """Ask the node what it has and decide how to upload. Raises FilesError, PeerError.

        `bases` are contents the ground has, by SHA-256: deltas are made from those on board.
        Compressing runs here and takes some seconds per megabyte.
        """
        return make_plan(name, content, await self.entry(name), bases, self.budget)

    # -- changing

    async def sign(self, name: str, sha256: bytes, seal: Seal) -> bool:
        """Vouch for a content that is on board or will be uploaded.

        Returns False if the node asks for no signatures. Raises FilesError (BAD_SIGNATURE,
        OLD_SIGNATURE), PeerError.
        """
        request = Sign(name=check_name(name), sha256=sha256, seal=seal.encode())
        return await self._ask(request) is Status.DONE

    async def upload(
        self, plan: Plan, *, report: Report = _ignore, patience_s: float = 60.0
    ) -> Uploaded:
        """Carry out a plan. `report` is told how many bytes of the stream are on board.

        Raises FilesError if the node refuses, NoResponse after `patience_s` without progress; the
        same call or a new plan continues then.
        """
        if plan.offer is None:
            return Uploaded(already=True, connections=0, packets=0, repeated=0)
        tally = _Tally(reached=plan.received)
        moved_at = self._scheduler.now
        while True:
            reached = tally.reached
            try:
                status = await self._attempt(plan.offer, plan.stream, tally, report)
            except FilesError:
                raise
            except PeerError as error:
                if tally.reached > reached:
                    moved_at = self._scheduler.now
                if self._scheduler.now - moved_at >= patience_s:
                    raise NoResponse(
                        f"upload of {plan.name} stopped at {tally.reached} of "
                        f"{len(plan.stream)} bytes ({error}); repeat it to continue"
                    ) from error
                await self._scheduler.sleep(_RETRY_S)
            else:
                return Uploaded(
                    already=status is Status.ALREADY,
                    connections=tally.connections,
                    packets=tally.packets,
                    repeated=tally.repeated,
                )

    async def _attempt(self, offer: Offer, stream: bytes, tally: _Tally, report: Report) -> Status:
        connection = await self._connect()
        tally.connections += 1
        try:
            await connection.send(offer.encode())
            while True:
                reply = await self._reply(connection)
                if reply.status is not Status.CONTINUE:
                    report(len(stream))
                    return reply.status
                if reply.offset < tally.reached:
                    tally.rewinds += 1
                if tally.rewinds > _MAX_REWINDS or reply.offset > len(stream):
                    raise FilesError(Status.STORAGE_FAILED, f"bytes lost at {reply.offset}")
                await self._send_from(connection, stream, reply.offset, tally, report)
        finally:
            tally.repeated += connection.machine.retransmissions
            connection.close()

    async def _send_from(
        self, connection: Connection, stream: bytes, offset: int, tally: _Tally, report: Report
    ) -> None:
        """Send the stream from an offset; stops early when the node answers, as it then refuses."""
        machine = connection.machine
        first = offset
        tally.reached = offset
        while True:
            tally.reached = max(first, offset - machine.unacknowledged * DATA_MAX_BYTES)
            report(tally.reached)
            if machine.received or offset >= len(stream):
                return
            data = stream[offset : offset + DATA_MAX_BYTES]
            try:
                await connection.send(Data(data=data).encode())
            except PeerError:
                if machine.received:
                    return
                raise
            tally.packets += 1
            offset += len(data)

    async def rollback(self, name: str) -> bool:
        """Make the previous version active. Returns False if there was nothing to change.

        Raises FilesError (NOT_FOUND without a previous version), PeerError.
        """
        entry = await self.entry(name)
        previous = entry.version(VersionKind.PREVIOUS) if entry is not None else None
        if previous is None:
            raise FilesError(Status.NOT_FOUND, f"{name} has no previous version")
        return await self._ask(Rollback(name=name, sha256=previous.sha256)) is Status.DONE

    async def delete(self, name: str, parts: Part = Part.ALL) -> None:
        """Remove parts of what the node has under a name. Raises FilesError, PeerError."""
        await self._ask(Delete(name=check_name(name), parts=parts))

    # -- one connection

    async def _ask(self, request: Request) -> Status:
        connection = await self._connect()
        try:
            await connection.send(request.encode())
            return (await self._reply(connection)).status
        finally:
            connection.close()

    async def _connect(self) -> Connection:
        opening = self._stack.connect(self.node, self._port, options=self._options)
        task = self._scheduler.spawn(opening, f"connect to port {self._port}")
        try:
            return await self._scheduler.wait_for(task, self._timeout_s)
        except Timeout:
            raise NoResponse(
                f"no response from node {self.node} port {self._port} within {self._timeout_s:g} s"
            ) from None
        finally:
            task.cancel()

    async def _receive(self, connection: Connection) -> Answer:
        message = await connection.receive(self._silence_s)
        if message is None:
            raise Refused(f"node {self.node} ended the connection")
        return decode_answer(message)

    async def _reply(self, connection: Connection) -> Reply:
        answer = await self._receive(connection)
        if not isinstance(answer, Reply):
            raise Refused(f"node {self.node} answers something else")
        if answer.status not in (Status.DONE, Status.CONTINUE, Status.ALREADY):
            raise FilesError(answer.status, errno=answer.errno)
        return answer
