"""Serve the files of a node on port 9: one task per connection, requests in order. Pure.

A request that fails is answered with its code; errors of the storage become codes here and nowhere
else. Installing yields between steps, so that the node answers others meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from csp.connection import Connection
from csp.errors import DecodeError, MisuseError
from csp.files.status import SIGNATURE_STATUS, FilesError, Status
from csp.files.store import FileStore, Stage
from csp.files.wire import (
    FILES_PORT,
    Answer,
    Data,
    Delete,
    End,
    ListFiles,
    Offer,
    Reply,
    Rollback,
    Sign,
    decode_request,
)
from csp.stack import Stack

# A peer that is alive but says nothing gives its place back after this.
_IDLE_S = 120.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(slots=True)
class FilesCounters:
    """What was asked of the service; for telemetry."""

    offers: int = 0
    installed: int = 0
    received_bytes: int = 0
    refused: int = 0
    signatures_refused: int = 0
    storage_faults: int = 0


class FilesServer:
    """The file service of one node. Making it starts to listen."""

    def __init__(self, stack: Stack, store: FileStore, *, port: int = FILES_PORT) -> None:
        self.store = store
        self.counters = FilesCounters()
        self._scheduler = stack.scheduler
        stack.listen(port, self._serve)

    async def _serve(self, connection: Connection) -> None:
        session = _Session(self, connection)
        try:
            while await session.step():
                pass
        finally:
            session.close()

    async def pause(self) -> None:
        """Let everything else that is due happen first."""
        await self._scheduler.sleep(0)


class _Session:
    """One connection: at most one upload at a time."""

    def __init__(self, server: FilesServer, connection: Connection) -> None:
        self._server = server
        self._store = server.store
        self._counters = server.counters
        self._connection = connection
        self._stage: Stage | None = None

    async def step(self) -> bool:
        """Handle one request; return whether to go on."""
        message = await self._connection.receive(_IDLE_S)
        if message is None:
            return False
        try:
            return await self._handle(message)
        except DecodeError:
            failed = Reply(status=Status.BAD_REQUEST)
        except FilesError as error:
            failed = Reply(status=error.status)
            self._counters.signatures_refused += error.status in SIGNATURE_STATUS
        except MisuseError:
            # The ledger of signatures: full, or its disk is.
            self._counters.storage_faults += 1
            failed = Reply(status=Status.STORAGE_FAILED, errno=errno.EIO)
        except OSError as error:
            self._counters.storage_faults += 1
            number = error.errno or errno.EIO
            full = number in _FULL
            failed = Reply(
                status=Status.DISK_FULL if full else Status.STORAGE_FAILED, errno=number & 0xFFFF
            )
        self._counters.refused += 1
        await self._answer(failed)
        # What follows of an upload that failed is worthless; the peer has to ask anew.
        return self._stage is None

    async def _handle(self, message: bytes) -> bool:
        request = decode_request(message)
        if isinstance(request, Data):
            await self._take(request)
        elif isinstance(request, Offer):
            await self._begin(request)
        elif isinstance(request, ListFiles):
            await self._list(request.name)
        elif isinstance(request, Rollback):
            changed = self._store.rollback(request.name, request.sha256)
            await self._answer(Reply(status=Status.DONE if changed else Status.ALREADY))
        elif isinstance(request, Delete):
            self._store.delete(request.name, request.parts)
            await self._answer(Reply(status=Status.DONE))
        elif isinstance(request, Sign):
            kept = self._store.sign(request.name, request.sha256, request.seal)
            await self._answer(Reply(status=Status.DONE if kept else Status.ALREADY))
        return True

    async def _begin(self, offer: Offer) -> None:
        self.close()
        self._counters.offers += 1
        self._stage = self._store.begin(offer)
        if self._stage is None:
            await self._answer(Reply(status=Status.ALREADY))
        elif self._stage.complete:
            await self._finish(self._stage)
        else:
            await self._answer(Reply(status=Status.CONTINUE, offset=self._stage.received))

    async def _take(self, request: Data) -> None:
        stage = self._stage
        if stage is None:
            raise FilesError(Status.BAD_REQUEST, "data without an offer")
        stage.append(request.data)
        self._counters.received_bytes += len(request.data)
        if stage.complete:
            await self._finish(stage)

    async def _finish(self, stage: Stage) -> None:
        await self._pausing(stage.finish())
        if not stage.complete:
            await self._answer(Reply(status=Status.CONTINUE, offset=stage.received))
            return
        self._stage = None
        self._counters.installed += 1
        await self._answer(Reply(status=Status.DONE))

    async def _list(self, name: str) -> None:
        store = self._store
        count = 0
        for each in [name] if name else store.names():
            entry = store.entry(each)
            if entry is not None:
                count += 1
                await self._answer(entry)
            await self._server.pause()
        free_bytes, limit = store.free_bytes(), store.limits.content_bytes
        await self._answer(End(count=count, free_bytes=free_bytes, limit_bytes=limit))

    async def _pausing(self, steps: Iterator[None]) -> None:
        for _ in steps:
            await self._server.pause()

    async def _answer(self, answer: Answer) -> None:
        await self._connection.send(answer.encode())

    def close(self) -> None:
        """Make what was received durable, and let go of the upload."""
        stage, self._stage = self._stage, None
        if stage is None:
            return
        try:
            stage.sync()
        except OSError:
            # The upload continues from what the disk has; the final check finds any loss.
            self._counters.storage_faults += 1
