"""List, read, write and check the memory areas of other nodes. Source: csp.md 12."""

from __future__ import annotations

from collections.abc import Callable

from csp.connection import Connection
from csp.crc import crc32c
from csp.errors import DecodeError, NoResponse, PeerError, Refused
from csp.packet import Priority
from csp.rdp import RdpOptions
from csp.stack import Stack
from csp.vmem.wire import (
    CHUNK_BYTES,
    VMEM_PORT,
    AreaInfo,
    Request,
    RequestKind,
    RingRequest,
    decode_list,
    decode_ring_length,
    encode_request,
    encode_ring_request,
    is_last_list_packet,
)

Progress = Callable[[int, int], None]

# More packets than any node has areas for.
_MAX_LIST_PACKETS = 64
# An element of the flown ring is smaller (dipp.md 14.1).
_MAX_RING_BYTES = 1_000_000_000


class Incomplete(PeerError):
    """A transfer broke off. `data` is what has arrived, or `sent` what was acknowledged."""

    def __init__(self, message: str, *, data: bytes = b"", sent: int = 0) -> None:
        super().__init__(message)
        self.data = data
        self.sent = sent


def _version_for(address: int, length: int) -> int:
    """Return the lowest version that can express the range; all nodes know the lowest."""
    if address + length <= 0xFFFFFFFF:
        return 1
    return 2 if length <= 0xFFFFFFFF else 3


class VmemClient:
    """Memory requests of one stack.

    `options` are the RDP options of transfers, None for those of libcsp. `pause_s` is how long a
    transfer over RDP may stand still.
    """

    def __init__(
        self,
        stack: Stack,
        timeout_s: float = 1.0,
        *,
        pause_s: float = 10.0,
        options: RdpOptions | None = None,
    ) -> None:
        self.stack = stack
        self.timeout_s = timeout_s
        self.pause_s = pause_s
        self.options = options

    async def list(self, node: int, version: int = 2) -> list[AreaInfo]:
        """Return the areas of a node. Raises NoResponse, DecodeError."""
        request = encode_request(Request(version=version, kind=RequestKind.LIST))
        packets: list[bytes] = []
        with self.stack.open(node, VMEM_PORT, prio=Priority.HIGH) as client:
            client.send(request)
            while len(packets) < _MAX_LIST_PACKETS:
                packets.append(await client.receive(self.timeout_s))
                if is_last_list_packet(version, packets[-1]):
                    return decode_list(version, packets)
        raise DecodeError("a list without end", actual=_MAX_LIST_PACKETS)

    async def crc32(self, node: int, address: int, length: int, version: int | None = None) -> int:
        """Return the CRC32C of a range. Raises NoResponse also if the range is in no area."""
        request = Request(
            version=version or _version_for(address, length),
            kind=RequestKind.CRC32,
            address=address,
            length=length,
        )
        answer = await self.stack.request(
            node, VMEM_PORT, encode_request(request), prio=Priority.HIGH, timeout_s=self.timeout_s
        )
        if len(answer) != 4:
            raise DecodeError("not a checksum", expected=4, actual=len(answer))
        return int.from_bytes(answer, "big")

    async def download(
        self,
        node: int,
        address: int,
        length: int,
        *,
        version: int | None = None,
        rdp: bool = True,
        progress: Progress | None = None,
    ) -> bytes:
        """Return a range. Raises Incomplete with what arrived, to go on from there; NoResponse.

        Refused means not one byte came: the range is in no area.
        """
        request = encode_request(
            Request(
                version=version or _version_for(address, length),
                kind=RequestKind.DOWNLOAD,
                address=address,
                length=length,
            )
        )
        if not rdp:
            return await self._download_plain(node, request, length, progress)
        connection = await self._connect(node)
        try:
            await connection.send(request)
            return await self._collect(connection, length, progress)
        finally:
            connection.close()

    async def _download_plain(
        self, node: int, request: bytes, length: int, progress: Progress | None
    ) -> bytes:
        data = bytearray()
        with self.stack.open(node, VMEM_PORT, prio=Priority.HIGH) as client:
            client.send(request)
            while len(data) < length:
                try:
                    data += await client.receive(self.timeout_s)
                except NoResponse as error:
                    if not data:
                        raise
                    raise Incomplete(str(error), data=bytes(data)) from None
                if progress is not None:
                    progress(len(data), length)
        return _exactly(data, length)

    async def _collect(
        self, connection: Connection, length: int, progress: Progress | None
    ) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                chunk = await connection.receive(self.pause_s)
            except PeerError as error:
                raise Incomplete(str(error), data=bytes(data)) from None
            if chunk is None:
                break
            data += chunk
            if progress is not None:
                progress(len(data), length)
        if not data and length:
            raise Refused(f"node {connection.peer} sends nothing from there")
        return _exactly(data, length)

    async def upload(
        self,
        node: int,
        address: int,
        data: bytes,
        *,
        version: int | None = None,
        verify: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Write a range and, with `verify`, compare checksums. Raises Incomplete, NoResponse.

        Refused means that the node does not hold what was sent.
        """
        request = Request(
            version=version or _version_for(address, len(data)),
            kind=RequestKind.UPLOAD,
            address=address,
            length=len(data),
        )
        connection = await self._connect(node)
        try:
            await connection.send(encode_request(request))
            await self._stream(connection, data, progress)
        finally:
            connection.close()
        await connection.wait_closed()
        if verify and data:
            found = await self.crc32(node, address, len(data), version)
            if found != crc32c(data):
                raise Refused(f"node {node} holds other bytes at {address:#x} than were sent")

    async def _stream(self, connection: Connection, data: bytes, progress: Progress | None) -> None:
        for position in range(0, len(data), CHUNK_BYTES):
            try:
                await connection.send(data[position : position + CHUNK_BYTES])
            except PeerError as error:
                raise Incomplete(str(error), sent=position) from None
            if progress is not None:
                progress(min(position + CHUNK_BYTES, len(data)), len(data))
        try:
            await connection.drain()
        except PeerError as error:
            raise Incomplete(str(error), sent=0) from None

    # -- rings of images (DISCOSAT)

    async def ring_download(
        self, node: int, name: str, index: int, progress: Progress | None = None
    ) -> bytes:
        """Return one element of a ring; index 0 is the oldest, -1 the newest.

        Raises Refused if there is none, Incomplete, NoResponse, DecodeError.
        """
        request = RingRequest(kind=RequestKind.RING_DOWNLOAD, name=name, value=index)
        connection = await self._connect(node)
        try:
            await connection.send(encode_ring_request(request))
            first = await connection.receive(self.pause_s)
            if first is None:
                raise Refused(f"ring {name} of node {node} has no element {index}")
            length = decode_ring_length(first)
            if length > _MAX_RING_BYTES:
                raise DecodeError("ring element too long", actual=length)
            return await self._collect(connection, length, progress)
        finally:
            connection.close()

    async def ring_upload(
        self, node: int, name: str, data: bytes, progress: Progress | None = None
    ) -> None:
        """Append one element to a ring. There is no answer. Raises Incomplete, NoResponse."""
        request = RingRequest(kind=RequestKind.RING_UPLOAD, name=name, value=len(data))
        connection = await self._connect(node)
        try:
            await connection.send(encode_ring_request(request))
            await self._stream(connection, data, progress)
        finally:
            connection.close()
        await connection.wait_closed()

    async def _connect(self, node: int) -> Connection:
        return await self.stack.connect(node, VMEM_PORT, prio=Priority.HIGH, options=self.options)


def _exactly(data: bytearray, length: int) -> bytes:
    if len(data) < length:
        raise Incomplete(f"{len(data)} of {length} bytes", data=bytes(data))
    if len(data) > length:
        raise DecodeError("more data than asked for", expected=length, actual=len(data))
    return bytes(data)
