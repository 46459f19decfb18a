"""Turn procedures into bytes and back. Source: dish.md 2.3, 2.4, 13.

The decoder trusts nothing: counts, operators and types are checked against the table, every string
must end inside the packet. Bytes after the last instruction are ignored, as flight does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dish.errors import DecodeError, MisuseError
from dish.isa import OPCODES, FieldKind, Opcode

MAX_INSTRUCTIONS = 255
MAX_SLOT = 255
MAX_NODE = 0xFFFF
_HEAD = struct.Struct("<HB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction; which attributes mean something is in its row of `isa.OPCODES`.

    Text may hold any byte but NUL: undecodable bytes are kept as surrogate escapes.
    """

    opcode: Opcode
    node: int = 0
    first: str = ""
    operator: int = 0
    second: str = ""
    result: str = ""
    value: str = ""
    slot: int = 0

    def __str__(self) -> str:
        """Return the text of `proc list`, without index and node."""
        row = OPCODES[self.opcode]
        operator = row.operators[self.operator].text if row.operators else ""
        return row.listing.format(
            first=self.first,
            second=self.second,
            result=self.result,
            value=self.value,
            slot=self.slot,
            operator=operator,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """An ordered list of 0 to 255 instructions."""

    instructions: tuple[Instruction, ...] = ()

    def __len__(self) -> int:
        return len(self.instructions)


NOOP = Instruction(opcode=Opcode.NOOP)


def encode_instruction(instruction: Instruction) -> bytes:
    """Return the wire bytes. Raises MisuseError for a value the format cannot carry."""
    row = OPCODES[instruction.opcode]
    if not 0 <= instruction.node <= MAX_NODE:
        raise MisuseError(f"node {instruction.node} is outside 0..{MAX_NODE}")
    parts = [_HEAD.pack(instruction.node, instruction.opcode)]
    for field in row.fields:
        if field.kind is FieldKind.OPERATOR:
            if not 0 <= instruction.operator < len(row.operators):
                raise MisuseError(f"{row.name} has no operator {instruction.operator}")
            parts.append(bytes((instruction.operator,)))
        elif field.kind is FieldKind.SLOT:
            if not 0 <= instruction.slot <= MAX_SLOT:
                raise MisuseError(f"slot {instruction.slot} is outside 0..{MAX_SLOT}")
            parts.append(bytes((instruction.slot,)))
        else:
            raw = getattr(instruction, field.attribute).encode("utf-8", "surrogateescape")
            if b"\0" in raw:
                raise MisuseError(f"{row.name}: text holds a NUL byte")
            parts.append(raw + b"\0")
    return b"".join(parts)


def encode(procedure: Procedure) -> bytes:
    """Return count byte and instructions. Raises MisuseError beyond 255 instructions."""
    if len(procedure) > MAX_INSTRUCTIONS:
        raise MisuseError(f"{len(procedure)} instructions, at most {MAX_INSTRUCTIONS}")
    return bytes((len(procedure),)) + b"".join(
        encode_instruction(instruction) for instruction in procedure.instructions
    )


def size_bytes(procedure: Procedure) -> int:
    """Return the encoded size as `proc size` shows it: push payload minus 2."""
    return len(encode(procedure))


def decode(data: bytes, max_instructions: int = MAX_INSTRUCTIONS) -> Procedure:
    """Read a procedure. Raises DecodeError; nothing of a wrong one is returned."""
    if not data:
        raise DecodeError(0, "an instruction count", "the end")
    count = data[0]
    if count > max_instructions:
        raise DecodeError(0, f"at most {max_instructions} instructions", str(count))
    instructions: list[Instruction] = []
    offset = 1
    for _ in range(count):
        instruction, offset = _decode_instruction(data, offset)
        instructions.append(instruction)
    return Procedure(instructions=tuple(instructions))


def _decode_instruction(data: bytes, offset: int) -> tuple[Instruction, int]:
    if len(data) - offset < _HEAD.size:
        raise DecodeError(offset, "node and type", "the end")
    node, type_ = _HEAD.unpack_from(data, offset)
    if type_ >= len(OPCODES):
        raise DecodeError(offset + 2, f"a type below {len(OPCODES)}", str(type_))
    row = OPCODES[type_]
    offset += _HEAD.size
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for field in row.fields:
        if field.kind is FieldKind.OPERATOR or field.kind is FieldKind.SLOT:
            if offset >= len(data):
                raise DecodeError(offset, field.attribute, "the end")
            number = data[offset]
            if field.kind is FieldKind.OPERATOR and number >= len(row.operators):
                raise DecodeError(offset, f"an operator of {row.name}", str(number))
            numbers[field.attribute] = number
            offset += 1
            continue
        end = data.find(0, offset)
        if end < 0:
            raise DecodeError(offset, f"{field.attribute} with a terminator", "the end")
        texts[field.attribute] = data[offset:end].decode("utf-8", "surrogateescape")
        offset = end + 1
    instruction = Instruction(
        opcode=row.opcode,
        node=node,
        first=texts.get("first", ""),
        second=texts.get("second", ""),
        result=texts.get("result", ""),
        value=texts.get("value", ""),
        operator=numbers.get("operator", 0),
        slot=numbers.get("slot", 0),
    )
    return instruction, offset
