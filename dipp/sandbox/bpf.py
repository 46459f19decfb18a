"""A small assembler for the kernel's classic packet filters, as seccomp uses them. Pure.

Theory of operation: a program is a list of instructions; a jump says how many instructions it
skips if its comparison holds and if not. `choose` searches a sorted table by halves: the kernel
tries a new filter on every number there is, so a long chain of comparisons would cost a child most
of a millisecond. `OWN_PID` in the place of a constant is filled in when the
program is about to be used, so that everything else can be made ahead. Integers are those of a
little-endian machine, which both supported architectures are.
Source: linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

INSTRUCTION: Final = struct.Struct("<HBBI")
_K_OFFSET: Final = 4
# A comparison's jumps have 8 bits.
_FARTHEST: Final = 0xFF

# Classes and modes of the instructions that are needed: load word, jump, return.
_LD_W_ABS, _JA, _JEQ, _JGE, _JSET, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
ALLOW, _ERRNO, _USER_NOTIF = 0x7FFF0000, 0x00050000, 0x7FC00000
# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
NUMBER_OFFSET, ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16


class _Placeholder(Enum):
    OWN_PID = "own pid"


OWN_PID: Final = _Placeholder.OWN_PID
Constant = int | _Placeholder


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `k` is its constant."""

    code: int
    k: Constant
    if_true: int = 0
    if_false: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """Assembled instructions and the places where the process number belongs."""

    code: bytes
    pid_offsets: tuple[int, ...]

    def finish(self, own_pid: int) -> bytes:
        """Return the code for one process."""
        code = bytearray(self.code)
        for offset in self.pid_offsets:
            struct.pack_into("<I", code, offset, own_pid)
        return bytes(code)


def load(offset: int) -> Instruction:
    """Load the word at an offset of the call's description."""
    return Instruction(_LD_W_ABS, offset)


def load_argument(index: int) -> Instruction:
    """Load the low half of an argument 0..5; all arguments that are compared are ints."""
    return Instruction(_LD_W_ABS, _ARGS_OFFSET + 8 * index)


def skip_if_equal(k: Constant, count: int) -> Instruction:
    """Skip so many instructions if the loaded word is the constant."""
    return Instruction(_JEQ, k, count, 0)


def skip_unless_equal(k: Constant, count: int) -> Instruction:
    """Skip so many instructions if the loaded word is not the constant."""
    return Instruction(_JEQ, k, 0, count)


def skip_if_below(k: int, count: int) -> Instruction:
    """Skip so many instructions if the loaded word is less than the constant."""
    return Instruction(_JGE, k, 0, count)


def skip_if_no_bit(mask: int, count: int) -> Instruction:
    """Skip so many instructions if the loaded word has no bit of the mask."""
    return Instruction(_JSET, mask, 0, count)


def choose(
    branches: Sequence[tuple[int, Sequence[Instruction]]], otherwise: Instruction
) -> list[Instruction]:
    """Continue with the branch of the loaded word. `branches` are sorted by their numbers.

    Every branch must end with a return, and so does `otherwise`.
    """
    if not branches:
        return [otherwise]
    if len(branches) == 1:
        number, body = branches[0]
        return [skip_if_equal(number, 1), otherwise, *body]
    middle = len(branches) // 2
    low, high = choose(branches[:middle], otherwise), choose(branches[middle:], otherwise)
    first_high = branches[middle][0]
    if len(low) > _FARTHEST:
        return [skip_if_below(first_high, 1), Instruction(_JA, len(low)), *low, *high]
    return [Instruction(_JGE, first_high, len(low), 0), *low, *high]


def allow() -> Instruction:
    """Let the call through."""
    return Instruction(_RET, ALLOW)


def refuse(errno: int) -> Instruction:
    """Let the call fail with this error number."""
    return Instruction(_RET, _ERRNO | errno)


def ask() -> Instruction:
    """Let whoever listens at the filter's descriptor decide."""
    return Instruction(_RET, _USER_NOTIF)


def assemble(instructions: Sequence[Instruction]) -> Program:
    """Return the program. Raises ValueError for a jump beyond its 8 bits or past the end."""
    code = bytearray()
    offsets = []
    for index, item in enumerate(instructions):
        farthest = max(item.if_true, item.if_false)
        if farthest > _FARTHEST or index + farthest >= len(instructions):
            raise ValueError(f"instruction {index} jumps {farthest} further")
        if isinstance(item.k, _Placeholder):
            offsets.append(len(code) + _K_OFFSET)
        k = 0 if isinstance(item.k, _Placeholder) else item.k
        code += INSTRUCTION.pack(item.code, item.if_true, item.if_false, k)
    return Program(bytes(code), tuple(offsets))
