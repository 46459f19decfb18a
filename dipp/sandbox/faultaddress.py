"""Learn the address of a fault: Python's own fault handler prints where, but not what was touched.

Theory of operation: nothing outside the process can tell. waitid has no address in its siginfo, the
kernel logs only signals without a handler, and ptrace is what modules must not have. Python code
cannot run in the handler: it would need the interpreter that has just failed. So the handler is
some thirty machine instructions (`tools/fault_stub`), which write one line to standard error and go
on to Python's handler. The line starts like that one's, and is no more trusted than the log it
comes in. Where it cannot be installed, crash records have no address and everything else holds.

Driver; `install` runs in the forge, whose children inherit the handlers. aarch64 was run under
qemu-user only.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Mapping

from dipp.sandbox.faultline import FAULT_SIGNALS, PREFIX

# Assembled; the address of the next handler and the prefix follow.
CODE: Mapping[str, bytes] = {
    "x86_64": bytes.fromhex(
        "8b4608ffc883f87e776957564883ec18bf02000000488d356c000000ba24000000b8010000000f05"
        "488b442418488b40104889e6b91000000048c1c00489c283e20f83fa0a720383c22783c230881648"
        "ffc6ffc975e3c6060abf020000004889e6ba11000000b8010000000f054883c4185e5fff25070000"
        "000f1f8000000000"
    ),
    "aarch64": bytes.fromhex(
        "290840b9290500513ff90171c8030054e007bda9fe0b00f9400080d2e1030010820480d2080880d2"
        "010000d4e30740f9630840f9e16300910402805263f0c393650c0012bf28007143000054a59c0011"
        "a5c00011251400388404007101ffff544501805225000039400080d2e1630091220280d2080880d2"
        "010000d4fe0b40f9e007c3a86900005820011fd61f2003d5"
    ),
}
_SA_SIGINFO, _SA_ONSTACK, _SA_NODEFER = 0x4, 0x08000000, 0x40000000
_PROT_READ, _PROT_EXEC = 0x1, 0x4


class _Action(ctypes.Structure):
    """struct sigaction of the C library, the same on both architectures."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def stub(machine: str, next_handler: int) -> bytes:
    """Return the code for a machine. Raises KeyError if there is none."""
    return CODE[machine] + next_handler.to_bytes(8, "little") + PREFIX


def install() -> bool:
    """Put the stub before the handlers that are there; say whether all faults are covered.

    To be called after `faulthandler.enable`, once: its memory stays for good.
    """
    library = ctypes.CDLL(None, use_errno=True)
    handlers = set()
    for number in FAULT_SIGNALS:
        before = _Action()
        if library.sigaction(number, None, ctypes.byref(before)) != 0:
            return False
        handlers.add(before.handler or 0)
    # 0 and 1 are "default" and "ignore"; the stub jumps to one address for all signals.
    if len(handlers) != 1 or not handlers - {0, 1}:
        return False
    try:
        address = _load(library, stub(platform.machine(), handlers.pop()))
    except (KeyError, OSError):
        return False
    action = _Action(handler=address, flags=_SA_SIGINFO | _SA_ONSTACK | _SA_NODEFER)
    results = [library.sigaction(n, ctypes.byref(action), None) for n in FAULT_SIGNALS]
    return not any(results)


def _load(library: ctypes.CDLL, code: bytes) -> int:
    """Return the address of executable memory with that code. Raises OSError if there is none."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # Kept for good: handlers have no end.
    _KEPT.append(memory)
    library.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    # Written while writable, then executable and never both.
    if library.mprotect(address, mmap.PAGESIZE, _PROT_READ | _PROT_EXEC) != 0:
        raise OSError(ctypes.get_errno(), "no executable memory")
    return address


_KEPT: list[mmap.mmap] = []
