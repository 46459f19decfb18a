"""The system call filter: `build_filter` makes it from the table, `install` puts it on for good.

Driver. A call of another architecture, or of the x32 table, is refused whatever its number means
there. The filter is made once per host and costs a child two system calls.
Source: syscalls.py, seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from dipp.sandbox import bpf
from dipp.sandbox.syscalls import Row, Unless, Who, rows_for

# Looked up once, here: in a fresh child every look-up copies pages.
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True)
class Architecture:
    """Its name, the kernel's word for it, and where x32 numbers begin, if there are any."""

    name: str
    audit: int
    first_foreign: int | None


ARCHITECTURES: dict[str, Architecture] = {
    "x86_64": Architecture("x86_64", 0xC000003E, _X32_BIT),
    "aarch64": Architecture("aarch64", 0xC00000B7, None),
}


class _Prog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def native_architecture() -> Architecture | None:
    """Return that of this machine, None if there is no table for it."""
    return ARCHITECTURES.get(platform.machine())


def build_filter(who: Who, architecture: Architecture, beyond: Who | None = None) -> bpf.Program:
    """Return the filter for a module child, for native code in it, or for a host.

    Filters add up and are inherited: `beyond` names the one that is on already.
    """
    code = [
        bpf.load(bpf.ARCH_OFFSET),
        bpf.skip_if_equal(architecture.audit, 1),
        bpf.refuse(errno.EPERM),
        bpf.load(bpf.NUMBER_OFFSET),
    ]
    if architecture.first_foreign is not None:
        code += [bpf.skip_if_below(architecture.first_foreign, 1), bpf.refuse(errno.EPERM)]
    rows: dict[int, list[Row]] = {}
    for row in rows_for(who, beyond):
        number = row.aarch64 if architecture.name == "aarch64" else row.x86_64
        if number is not None:
            rows.setdefault(number, []).append(row)
    branches = [(number, _body(same)) for number, same in sorted(rows.items())]
    return bpf.assemble([*code, *bpf.choose(branches, bpf.allow())])


def _body(rows: Sequence[Row]) -> list[bpf.Instruction]:
    """Return what decides about one call once its number has matched, by all rows about it."""
    code: list[bpf.Instruction] = []
    for row in rows:
        if not row.unless:
            return [*code, bpf.refuse(row.errno)]
        code += [part for unless in row.unless for part in _check(unless, row.errno)]
    return [*code, bpf.allow()]


def _check(unless: Unless, error: int) -> list[bpf.Instruction]:
    """Refuse if the argument is not what it must be, else go on behind."""
    load = bpf.load_argument(unless.index)
    if unless.no_bits:
        return [load, bpf.skip_if_no_bit(unless.no_bits, 1), bpf.refuse(error)]
    if unless.none_of:
        # Each goes to the refusal; the last one, and whatever else, over it.
        *others, last = unless.none_of
        jumps = [bpf.skip_if_equal(value, len(others) - i) for i, value in enumerate(others)]
        return [load, *jumps, bpf.skip_unless_equal(last, 1), bpf.refuse(error)]
    values = unless.values
    # The first value jumps over all the others and the refusal.
    matches = [bpf.skip_if_equal(value, len(values) - i) for i, value in enumerate(values)]
    return [load, *matches, bpf.refuse(error)]


def install(code: bytes) -> None:
    """Filter the calls of this process and its descendants. Raises OSError.

    Needs no-new-privileges or CAP_SYS_ADMIN.
    """
    program = _Prog(len(code) // bpf.INSTRUCTION.size, code)
    if _PRCTL(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
