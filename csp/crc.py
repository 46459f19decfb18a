"""Compute CRC32C (Castagnoli), the checksum of CSP trailers, KISS frames and vmem areas.

Source: csp.md 2.5.
"""

from __future__ import annotations

from functools import cache

_POLYNOMIAL_REFLECTED = 0x82F63B78


@cache
def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL_REFLECTED if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


def crc32c_by_table(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC32C computed in Python: the fallback and the oracle of the tests."""
    table = _table()
    value = 0xFFFFFFFF
    for byte in bytes(data):
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


try:
    import google_crc32c
except ImportError:
    crc32c = crc32c_by_table
else:
    _value = google_crc32c.value

    def crc32c(data: bytes | bytearray | memoryview) -> int:
        """Return the CRC32C of the data as an unsigned 32-bit number; 0 for empty data."""
        # The C function takes bytes only.
        result: int = _value(data if type(data) is bytes else bytes(data))
        return result
