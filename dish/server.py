"""Answer procedure requests on port 14. Pure: bytes in, answers out.

Types 10 and 11 are our extension (dish.md 14): a request of type 10 carries a verb and perhaps a
slot (`dish.status`). A bare type 10 packet is dropped, as the flown software does.
Source: dish.md 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from dish.errors import DecodeError, DishError, StoreError
from dish.program import decode, encode
from dish.status import Verb
from dish.store import Store

PORT = 14
END = 0x80
ERROR = 0x40
TYPE_MASK = 0x0F
_CRC_BYTES = 4

Handler = Callable[[bytes, int], list[bytes]]


class Type(IntEnum):
    """Packet types, the low four bits of the first byte. 12 to 15 are not used."""

    DEL = 0
    DEL_RESPONSE = 1
    PULL = 2
    PULL_RESPONSE = 3
    PUSH = 4
    PUSH_RESPONSE = 5
    SLOTS = 6
    SLOTS_RESPONSE = 7
    RUN = 8
    RUN_RESPONSE = 9
    CONTROL = 10
    CONTROL_RESPONSE = 11


@dataclass(slots=True)
class ServerCounters:
    """What came in; `dropped` had no answer, `errors` an error answer."""

    requests: int = 0
    errors: int = 0
    dropped: int = 0


def request(kind: Type, *body: int) -> bytes:
    """Return the first bytes of a request."""
    return bytes((END | kind, *body))


class ProcedureServer:
    """The port 14 service over a store.

    `run` starts a slot or raises DishError. `control` carries out a verb for a slot (None: all)
    and returns the bytes of its answer.
    """

    def __init__(
        self,
        store: Store,
        run: Callable[[int], None],
        control: Callable[[Verb, int | None], bytes],
    ) -> None:
        self.counters = ServerCounters()
        # Why the last request got an error answer, for the operator; the wire has no room for it.
        self.last_error = ""
        self._store = store
        self._run = run
        self._control = control
        self._handlers: dict[int, Handler] = {
            Type.DEL: self._delete,
            Type.PULL: self._pull,
            Type.PUSH: self._push,
            Type.SLOTS: self._slots,
            Type.RUN: self._start,
            Type.CONTROL: self._command,
        }

    def answer(self, data: bytes, *, has_crc: bool = True) -> list[bytes]:
        """Answer one packet: nothing for what is no request, else one packet, rarely two."""
        self.counters.requests += 1
        handler = self._handlers.get(data[0] & TYPE_MASK) if data else None
        if handler is None:
            self.counters.dropped += 1
            return []
        room = self._store.profile.buffer_bytes - (_CRC_BYTES if has_crc else 0)
        try:
            replies = handler(data, room)
        except DishError as error:
            self.counters.errors += 1
            self.last_error = str(error)
            return [bytes((END | ERROR | (data[0] & TYPE_MASK) + 1,))]
        if not replies:
            self.counters.dropped += 1
        return replies

    def _delete(self, data: bytes, _room: int) -> list[bytes]:
        if len(data) < 2:
            # DEL has no error answer; doing nothing is the safe reading of a short packet.
            return []
        self._store.delete(data[1])
        return [bytes((END | Type.DEL_RESPONSE,))]

    def _pull(self, data: bytes, room: int) -> list[bytes]:
        slot = _slot(data)
        raw = encode(self._store.pull(slot))
        if 2 + len(raw) > room:
            raise StoreError(f"procedure of {len(raw)} bytes does not fit a packet")
        return [bytes((END | Type.PULL_RESPONSE, slot)) + raw]

    def _push(self, data: bytes, _room: int) -> list[bytes]:
        slot = _slot(data)
        procedure = decode(data[2:], self._store.profile.max_instructions)
        self._store.push(slot, procedure)
        return [bytes((END | Type.PUSH_RESPONSE,))]

    def _slots(self, _data: bytes, room: int) -> list[bytes]:
        slots = bytes(self._store.occupied())
        fitting, rest = slots[: room - 1], slots[room - 1 :]
        if not rest:
            return [bytes((END | Type.SLOTS_RESPONSE,)) + fitting]
        # Flight cannot answer at all here; clients read on until END.
        return [
            bytes((Type.SLOTS_RESPONSE,)) + fitting,
            bytes((END | Type.SLOTS_RESPONSE,)) + rest,
        ]

    def _start(self, data: bytes, _room: int) -> list[bytes]:
        self._run(_slot(data))
        return [bytes((END | Type.RUN_RESPONSE,))]

    def _command(self, data: bytes, room: int) -> list[bytes]:
        if len(data) < 2 or data[1] not in Verb._value2member_map_:
            return []
        slot = data[2] if len(data) > 2 else None
        body = self._control(Verb(data[1]), slot)
        return [(bytes((END | Type.CONTROL_RESPONSE,)) + body)[:room]]


def _slot(data: bytes) -> int:
    if len(data) < 2:
        raise DecodeError(1, "a slot", "the end")
    return data[1]
