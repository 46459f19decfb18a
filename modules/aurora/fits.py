"""Binary tables of a FITS file, read with numpy alone.

Theory of operation: a file is a stream of blocks of 2880 bytes. Headers say how long their data
are, so a table nobody asked for is skipped without being kept. Everything a header says is hostile
until checked: sizes are bounded before memory is taken, and every failure is a `FitsError`.
Source: FITS standard 4.0, sections 3.3, 4.4 and 7.3; aurora.md 1.2 and 1.3.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import numpy as np
import numpy.typing as npt

BLOCK: Final = 2880
_CARD: Final = 80
MAX_HDU_BYTES: Final = 256 << 20
# Real headers of this instrument have up to 200 cards.
_MAX_HEADER_BLOCKS: Final = 128
_MAX_HDUS: Final = 64
_MAX_FIELDS: Final = 999
_SKIP_CHUNK: Final = 1 << 20

Problem = Literal["not_fits", "truncated", "bad_table", "no_emission", "geometry", "too_large"]
Value = bool | int | float | str
Header = Mapping[str, Value]
Column = npt.NDArray[Any]

_FORMAT: Final = re.compile(r"(\d{0,9})([LXBIJKAEDCMPQ])")
_DIMENSIONS: Final = re.compile(r"\(\s*\d{1,9}\s*(,\s*\d{1,9}\s*){0,7}\)")
# Type letter -> numpy type; bits, complex numbers and the heap are not read here, only passed over.
_TYPES: Final = {
    "L": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "A": "S",
}  # fmt: skip
_OTHER_BYTES: Final = {"C": 8, "M": 16, "P": 8, "Q": 16}


class FitsError(ValueError):
    """A file that cannot be used; `code` says why."""

    def __init__(self, code: Problem, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One binary table: its header and the columns that were asked for, by upper-case name."""

    header: Header
    rows: int
    columns: Mapping[str, Column]


Wanted = Mapping[str, Collection[str]]


def read_tables(
    path: Path, wanted: Wanted, max_hdu_bytes: int = MAX_HDU_BYTES
) -> tuple[Header, dict[str, Table]]:
    """Read the primary header and the wanted columns of the wanted tables.

    `wanted` maps EXTNAME to column names, both in upper case; what is not there is left out.
    Raises FitsError.
    """
    try:
        with open(path, "rb") as raw:
            is_packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if is_packed:
                with gzip.open(raw, "rb") as unpacked:
                    return _read_all(cast(BinaryIO, unpacked), wanted, max_hdu_bytes)
            return _read_all(raw, wanted, max_hdu_bytes)
    except EOFError as error:
        raise FitsError("truncated", f"{path}: {error}") from error
    except (OSError, zlib.error) as error:
        raise FitsError("not_fits", f"{path}: {error}") from error


def _read_all(file: BinaryIO, wanted: Wanted, limit: int) -> tuple[Header, dict[str, Table]]:
    primary = _read_header(file, is_first=True)
    if primary is None or primary.get("SIMPLE") is not True:
        raise FitsError("not_fits", "no SIMPLE = T")
    _skip(file, _data_bytes(primary))
    tables: dict[str, Table] = {}
    for _ in range(_MAX_HDUS):
        header = _read_header(file, is_first=False)
        if header is None:
            return primary, tables
        name = str(header.get("EXTNAME", "")).strip().upper()
        size = _data_bytes(header)
        is_table = str(header.get("XTENSION", "")).strip() == "BINTABLE"
        if name in wanted and name not in tables and is_table:
            tables[name] = _read_table(file, header, wanted[name], size, limit)
            if len(tables) == len(wanted):
                return primary, tables
        else:
            _skip(file, size)
    raise FitsError("too_large", f"more than {_MAX_HDUS} extensions")


# -- headers


def _read_header(file: BinaryIO, *, is_first: bool) -> Header | None:
    """Return the cards up to END, or None at the end of the file."""
    header: dict[str, Value] = {}
    for number in range(_MAX_HEADER_BLOCKS):
        block = file.read(BLOCK)
        if not block and number == 0 and not is_first:
            return None
        if is_first and number == 0 and not block.startswith(b"SIMPLE  ="):
            raise FitsError("not_fits", "does not begin with SIMPLE")
        if len(block) < BLOCK:
            raise FitsError("truncated", f"header block of {len(block)} bytes")
        for at in range(0, BLOCK, _CARD):
            card = block[at : at + _CARD].decode("latin-1")
            keyword = card[:8].rstrip()
            if keyword == "END":
                return header
            if card[8:10] == "= ":
                header.setdefault(keyword, _value(card[10:]))
    raise FitsError("too_large", f"a header of more than {_MAX_HEADER_BLOCKS} blocks")


def _value(text: str) -> Value:
    text = text.strip()
    if text.startswith("'"):
        quoted = re.match(r"'((?:[^']|'')*)'", text)
        return (quoted[1] if quoted else text[1:]).replace("''", "'").rstrip()
    text = text.split("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    for convert in (int, float):
        try:
            return convert(text.replace("D", "E") if convert is float else text)
        except ValueError:
            continue
    return text


def _count(header: Header, key: str, default: int | None = None) -> int:
    value = header.get(key, default)
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise FitsError("bad_table", f"{key} is {value!r}")
    return value


def _data_bytes(header: Header) -> int:
    """Return the bytes of data that follow a header, without the fill."""
    bits = header.get("BITPIX")
    if type(bits) is not int or abs(bits) not in (8, 16, 32, 64):
        raise FitsError("bad_table", f"BITPIX is {bits!r}")
    axes = _count(header, "NAXIS")
    if axes == 0:
        return 0
    if axes > 8:
        raise FitsError("bad_table", f"NAXIS is {axes}")
    size = math.prod(_count(header, f"NAXIS{axis}") for axis in range(1, axes + 1))
    size = abs(bits) // 8 * _count(header, "GCOUNT", 1) * (_count(header, "PCOUNT", 0) + size)
    if size >= 1 << 48:
        raise FitsError("too_large", f"{size} bytes in one extension")
    return size


def _skip(file: BinaryIO, size: int) -> None:
    """Pass over data and fill without keeping them."""
    left = -(-size // BLOCK) * BLOCK
    while left:
        got = len(file.read(min(left, _SKIP_CHUNK)))
        if not got:
            raise FitsError("truncated", f"{left} bytes of data are missing")
        left -= got


# -- tables


def _read_table(
    file: BinaryIO, header: Header, names: Collection[str], size: int, limit: int
) -> Table:
    row_bytes, rows = _count(header, "NAXIS1"), _count(header, "NAXIS2")
    if header.get("BITPIX") != 8 or header.get("NAXIS") != 2 or header.get("GCOUNT", 1) != 1:
        raise FitsError("bad_table", "not the header of a binary table")
    if size > limit:
        raise FitsError("too_large", f"a table of {size} bytes, at most {limit}")
    fields = _fields(header, row_bytes, rows, names)
    data = _read_exactly(file, row_bytes * rows)
    _skip_rest(file, size, row_bytes * rows)
    columns: dict[str, Column] = {}
    for name, (dtype, shape, offset) in fields.items():
        one = np.dtype((dtype, shape)) if shape else dtype
        record = np.dtype(
            {"names": ["x"], "formats": [one], "offsets": [offset], "itemsize": row_bytes}
        )
        columns[name] = np.frombuffer(data, record, count=rows)["x"]
    return Table(header=header, rows=rows, columns=columns)


def _fields(
    header: Header, row_bytes: int, rows: int, names: Collection[str]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]:
    """Return type, shape and offset of the wanted columns; check that all fit the row."""
    count = _count(header, "TFIELDS")
    if count > _MAX_FIELDS:
        raise FitsError("bad_table", f"{count} columns")
    found: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
    offset = 0
    for number in range(1, count + 1):
        match = _FORMAT.match(str(header.get(f"TFORM{number}", "")).strip())
        if match is None:
            raise FitsError("bad_table", f"TFORM{number} is {header.get(f'TFORM{number}')!r}")
        repeat, letter = int(match[1] or 1), match[2]
        name = str(header.get(f"TTYPE{number}", "")).strip().upper()
        if letter in _TYPES:
            dtype = np.dtype(f"S{repeat}" if letter == "A" else _TYPES[letter])
            width = repeat if letter == "A" else repeat * dtype.itemsize
            # The row must be able to hold the column before numpy is told about it.
            if name in names and name not in found and 0 < width <= row_bytes - offset:
                shape = () if letter == "A" else _shape(header, number, repeat)
                found[name] = (dtype, shape, offset)
        else:
            width = -(-repeat // 8) if letter == "X" else repeat * _OTHER_BYTES[letter]
        offset += width
    if offset != row_bytes:
        raise FitsError("bad_table", f"columns of {offset} bytes in rows of {row_bytes}")
    return found


def _shape(header: Header, number: int, repeat: int) -> tuple[int, ...]:
    text = header.get(f"TDIM{number}")
    if text is None:
        return (repeat,) if repeat != 1 else ()
    if not _DIMENSIONS.fullmatch(str(text).strip()):
        raise FitsError("bad_table", f"TDIM{number} is {text!r}")
    shape = tuple(int(word) for word in reversed(re.findall(r"\d+", str(text))))
    if math.prod(shape) != repeat:
        raise FitsError("bad_table", f"TDIM{number} {text!r} has not {repeat} elements")
    return shape


def _read_exactly(file: BinaryIO, size: int) -> bytearray:
    """Read in pieces, so that memory is taken only for what the file really has."""
    data = bytearray()
    read: Callable[[int], bytes] = file.read
    while len(data) < size:
        piece = read(min(size - len(data), _SKIP_CHUNK))
        if not piece:
            raise FitsError("truncated", f"{len(data)} of {size} bytes of a table")
        data += piece
    return data


def _skip_rest(file: BinaryIO, size: int, used: int) -> None:
    """Pass over the heap and the fill after the rows."""
    left = -(-size // BLOCK) * BLOCK - used
    while left:
        got = len(file.read(min(left, _SKIP_CHUNK)))
        if not got:
            raise FitsError("truncated", f"{left} bytes after a table are missing")
        left -= got
