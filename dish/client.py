"""Ask a node's procedure service: del, pull, push, slots, run, status, stop. See dish.md 2."""

from __future__ import annotations

from csp.errors import DecodeError, MisuseError, Refused
from csp.packet import Priority
from csp.stack import Stack
from dish import errors
from dish.program import Procedure, decode, encode
from dish.server import END, ERROR, PORT, TYPE_MASK, Type
from dish.server import request as head
from dish.status import Status, Verb, decode_status

# An answer is one packet, two for a list of more than 251 slots.
_MAX_PACKETS = 4
# What really travels to a node with 256-byte buffers: 4 bytes are the checksum (dish.md 2.4).
M7_BUFFER_BYTES = 256
_OVERHEAD_BYTES = 6


def fits(procedure: Procedure, buffer_bytes: int = M7_BUFFER_BYTES) -> bool:
    """Tell whether a push of this procedure travels to a node with such buffers."""
    return len(encode(procedure)) + _OVERHEAD_BYTES <= buffer_bytes


class ProcClient:
    """Procedure requests of one stack.

    Every method raises NoResponse after `timeout_s`, Refused for an error answer and DecodeError
    for an answer that makes no sense.
    """

    def __init__(self, stack: Stack, timeout_s: float = 1.0) -> None:
        self._stack = stack
        self.timeout_s = timeout_s

    async def delete(self, node: int, slot: int) -> None:
        """Empty a slot. That it was empty, or is reserved, is no error."""
        await self._ask(node, head(Type.DEL, _slot(slot)), Type.DEL_RESPONSE)

    async def pull(self, node: int, slot: int) -> Procedure:
        """Return the procedure of a slot."""
        data = await self._ask(node, head(Type.PULL, _slot(slot)), Type.PULL_RESPONSE)
        if len(data) < 2 or data[1] != slot:
            raise DecodeError("answer for another slot", expected=slot, actual=data[1:2].hex())
        try:
            return decode(data[2:])
        except errors.DecodeError as error:
            raise DecodeError(str(error), offset=2 + error.offset) from None

    async def push(self, node: int, slot: int, procedure: Procedure) -> None:
        """Fill a free slot. Refused if it is occupied, reserved, or the node has no room."""
        data = head(Type.PUSH, _slot(slot)) + encode(procedure)
        await self._ask(node, data, Type.PUSH_RESPONSE)

    async def slots(self, node: int) -> list[int]:
        """Return the occupied slots, ascending."""
        data = await self._ask(node, head(Type.SLOTS), Type.SLOTS_RESPONSE, Priority.NORM)
        return list(data[1:])

    async def run(self, node: int, slot: int) -> None:
        """Start a procedure. How it ends is in the `proc_last_*` parameters."""
        await self._ask(node, head(Type.RUN, _slot(slot)), Type.RUN_RESPONSE)

    async def status(self, node: int) -> Status:
        """Return what is running and how the last run ended. Only nodes of this project answer."""
        data = head(Type.CONTROL, Verb.STATUS)
        answer = await self._ask(node, data, Type.CONTROL_RESPONSE, Priority.NORM)
        try:
            return decode_status(answer[1:])
        except errors.DecodeError as error:
            raise DecodeError(str(error), offset=1 + error.offset) from None

    async def control(self, node: int, verb: Verb, slot: int | None = None) -> int:
        """Stop, pause, resume or step the runs of a slot, or all; return how many there were."""
        body = (verb,) if slot is None else (verb, _slot(slot))
        data = await self._ask(node, head(Type.CONTROL, *body), Type.CONTROL_RESPONSE)
        return data[1] if len(data) > 1 else 0

    async def _ask(
        self, node: int, data: bytes, expected: Type, prio: Priority = Priority.HIGH
    ) -> bytes:
        """Send a request and collect its answer, which comes back as one packet with END."""
        answer = b""
        with self._stack.open(node, PORT, prio=prio) as client:
            client.send(data)
            for _ in range(_MAX_PACKETS):
                packet = await client.receive(self.timeout_s)
                if not packet or packet[0] & TYPE_MASK != expected:
                    raise DecodeError("not the answer", expected=expected, actual=packet[:1].hex())
                if packet[0] & ERROR:
                    raise Refused(f"node {node} refused")
                answer += packet if not answer else packet[1:]
                if packet[0] & END:
                    return answer
        raise DecodeError("an answer without end", actual=_MAX_PACKETS)


def _slot(slot: int) -> int:
    if not 0 <= slot <= 255:
        raise MisuseError(f"slot {slot} is outside 0..255")
    return slot
