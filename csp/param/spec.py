"""Define a parameter: its id, name, type, size, texts, and where its value is kept."""

from __future__ import annotations

from dataclasses import dataclass

from csp.param.errors import SpecError
from csp.param.types import TYPES, Mask, ParamType, TypeRow, Value

ID_MAX = 65535  # ten bits and one extension byte, csp.md 9
ARRAY_MAX = 254  # the size field is one byte and 255 is read as 1, csp.md 9
NAME_MAX, UNIT_MAX, HELP_MAX = 35, 9, 149  # bytes, csp.md 10


def encode_text(text: str) -> bytes:
    """Turn parameter text into bytes: UTF-8, and bytes that are not UTF-8 survive."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(raw: bytes) -> str:
    """Turn bytes up to the first NUL into text. Never fails."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSpec:
    """What a parameter is. Raises SpecError if it cannot be represented on the wire.

    `area` and `address` say where its value persists (bytes, little endian, no alignment needed);
    `default` is its value at boot, zero if None; a scalar fills an array. Source: csp.md 9, 10.
    """

    id: int
    name: str
    type: ParamType
    array_size: int = 1
    mask: Mask = Mask.NONE
    unit: str = ""
    help: str = ""
    area: str | None = None
    address: int | None = None
    default: Value | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.id <= ID_MAX:
            raise SpecError(f"parameter {self.name!r}: id {self.id} is not 0..{ID_MAX}")
        if not 1 <= self.array_size <= ARRAY_MAX:
            raise SpecError(
                f"parameter {self.name!r}: array size {self.array_size} is not 1..{ARRAY_MAX}"
            )
        if not self.name or any(character in self.name for character in "\0 \t\r\n"):
            raise SpecError(f"parameter name {self.name!r} is empty or has white space")
        for what, text, limit in (
            ("name", self.name, NAME_MAX),
            ("unit", self.unit, UNIT_MAX),
            ("help", self.help, HELP_MAX),
        ):
            if len(encode_text(text)) > limit or "\0" in text:
                raise SpecError(
                    f"parameter {self.name!r}: {what} has more than {limit} bytes, or a NUL"
                )
        if (self.area is None) != (self.address is None):
            raise SpecError(f"parameter {self.name!r}: area and address go together")
        if self.address is not None and self.address < 0:
            raise SpecError(f"parameter {self.name!r}: negative address")

    @property
    def row(self) -> TypeRow:
        """The row of its type."""
        return TYPES[self.type]

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements."""
        return TYPES[self.type].size * self.array_size
