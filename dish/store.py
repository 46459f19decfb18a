"""Hold the procedures of a node in slots. Pure.

Slots 0 to `max_slot`; those below `reserved` belong to native procedures and can only be run and
called. A push never overwrites. Source: dish.md 1, 2.2, 10 and 13.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable

from csp.crc import crc32c
from dish.errors import DecodeError, StoreError
from dish.profile import Profile
from dish.program import Procedure, decode, encode

_MAGIC = b"DISHSTO1"
_HEAD = struct.Struct("<8sIH")  # magic, body bytes, entries
_TAIL = struct.Struct("<I")  # CRC32C of all before it
_ENTRY = struct.Struct("<BI")  # slot, procedure bytes
# 256 slots of what fits the largest known CSP buffer, and then some.
MAX_IMAGE_BYTES = _HEAD.size + _TAIL.size + 256 * (_ENTRY.size + 4096)


class Store:
    """Procedures by slot.

    `admit` may refuse a push by raising StoreError, for example because memory is short. `persist`
    makes a set durable or raises StoreError: then a push is refused, while a delete happens all the
    same and `unsaved` is set, because DEL has no error answer.
    """

    def __init__(
        self,
        profile: Profile,
        natives: Iterable[int] = (),
        *,
        persist: Callable[[dict[int, Procedure]], None] = lambda procedures: None,
        admit: Callable[[int, Procedure], None] = lambda slot, procedure: None,
    ) -> None:
        self.profile = profile
        self.natives = frozenset(natives)
        self._slots: dict[int, Procedure] = {}
        self._persist = persist
        self.unsaved = False
        self._admit = admit
        for slot in self.natives:
            if not 0 <= slot < profile.reserved:
                raise StoreError(f"native procedure in slot {slot}, which is not reserved")

    def _is_free(self, slot: int) -> bool:
        procedure = self._slots.get(slot)
        # In the static store an empty procedure cannot be told from none.
        return procedure is None or (self.profile.is_static and len(procedure) == 0)

    def _check_range(self, slot: int) -> None:
        if not 0 <= slot <= self.profile.max_slot:
            raise StoreError(f"slot {slot} is outside 0..{self.profile.max_slot}")
        if slot < self.profile.reserved:
            raise StoreError(f"slot {slot} is reserved")

    def push(self, slot: int, procedure: Procedure) -> None:
        """Fill a free slot. Raises StoreError; the store is unchanged then."""
        self._check_range(slot)
        if not self._is_free(slot):
            raise StoreError(f"slot {slot} is occupied")
        if len(procedure) > self.profile.max_instructions:
            raise StoreError(
                f"{len(procedure)} instructions, at most {self.profile.max_instructions}"
            )
        self._admit(slot, procedure)
        filled = {**self._slots, slot: procedure}
        self._persist(filled)
        self._slots = filled
        self.unsaved = False

    def pull(self, slot: int) -> Procedure:
        """Return the procedure of a slot. Raises StoreError."""
        self._check_range(slot)
        procedure = self._slots.get(slot)
        if procedure is None:
            if self.profile.is_static:
                return Procedure()
            raise StoreError(f"slot {slot} is empty")
        return procedure

    def delete(self, slot: int) -> bool:
        """Empty a slot; False if there was nothing to do, which is no error."""
        if self._slots.pop(slot, None) is None:
            return False
        self.unsaved = True
        self.save()
        return True

    def save(self) -> None:
        """Make a delete durable that could not be before; does nothing else. Never raises."""
        if self.unsaved:
            with contextlib.suppress(StoreError):
                self._persist(self.procedures())
                self.unsaved = False

    def fetch(self, slot: int) -> Procedure | None:
        """Return what a run or call of this slot would execute, None if nothing."""
        return None if self._is_free(slot) else self._slots[slot]

    def occupied(self) -> list[int]:
        """Return the slots in use, ascending, native procedures included."""
        pushed = {slot for slot in self._slots if not self._is_free(slot)}
        return sorted(pushed | self.natives)

    def procedures(self) -> dict[int, Procedure]:
        """Return the pushed procedures by slot."""
        return dict(self._slots)

    def load(self, procedures: dict[int, Procedure]) -> list[int]:
        """Take over procedures from an earlier run; return the slots this profile refuses."""
        refused: list[int] = []
        for slot, procedure in procedures.items():
            try:
                self._check_range(slot)
            except StoreError:
                refused.append(slot)
                continue
            if len(procedure) > self.profile.max_instructions:
                refused.append(slot)
            else:
                self._slots[slot] = procedure
        return refused


def encode_image(procedures: dict[int, Procedure]) -> bytes:
    """Return the file form of a store."""
    body = bytearray()
    for slot, procedure in sorted(procedures.items()):
        raw = encode(procedure)
        body += _ENTRY.pack(slot, len(raw)) + raw
    data = _HEAD.pack(_MAGIC, len(body), len(procedures)) + bytes(body)
    return data + _TAIL.pack(crc32c(data))


def decode_image(data: bytes) -> dict[int, Procedure]:
    """Read the file form. Raises DecodeError for anything but a complete, intact image."""
    if len(data) < _HEAD.size + _TAIL.size:
        raise DecodeError(0, f"{_HEAD.size + _TAIL.size} bytes", str(len(data)))
    magic, length, count = _HEAD.unpack_from(data)
    body = data[_HEAD.size : -_TAIL.size]
    if magic != _MAGIC:
        raise DecodeError(0, repr(_MAGIC), repr(magic))
    if len(body) != length or data[-_TAIL.size :] != _TAIL.pack(crc32c(data[: -_TAIL.size])):
        raise DecodeError(_HEAD.size, "an intact body", "damage")
    procedures: dict[int, Procedure] = {}
    offset = 0
    for _ in range(count):
        if len(body) - offset < _ENTRY.size:
            raise DecodeError(_HEAD.size + offset, "an entry", "the end")
        slot, size = _ENTRY.unpack_from(body, offset)
        offset += _ENTRY.size
        procedures[slot] = decode(body[offset : offset + size])
        offset += size
    return procedures
