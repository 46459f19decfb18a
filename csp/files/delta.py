"""Describe new content as copies from old content and insertions between them. Pure.

Theory of operation: a delta is a list of operations and, behind it, all inserted bytes in one run,
so that the compressor sees like beside like. Each operation is three varints: how many bytes to
insert, how many to copy after them, and, if any, how far from the end of the previous copy the
next one starts (zigzag: small after a small change). The encoder finds copies through an index of
short keys of the base; after each copy it tries the same alignment first. The decoder trusts
nothing: every operation must make progress, stay in the base, and the result has a size known
beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator

from csp.errors import DecodeError

# Shorter copies cost about as much as the bytes themselves. It also bounds the number of
# operations a hostile delta can hold.
MIN_COPY_BYTES = 8
_KEY_BYTES = 12
# Entries of the index: about 50 MB of Python objects on the ground, none on board.
_MAX_KEYS = 1 << 18
_VARINT_MAX_BYTES = 5
# The decoder hands out pieces of about this size, so that its caller can do other things between.
_PIECE_BYTES = 65_536


def body_limit(size: int) -> int:
    """Return how long the delta of a content of `size` bytes may be, uncompressed."""
    return 2 * size + 1024


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if not value & 1 else -(value + 1 >> 1)


def encode_delta(base: bytes, target: bytes) -> bytes:
    """Return a delta that makes `target` from `base`."""
    operations, literals = bytearray(), bytearray()
    done, copied_to = 0, 0
    for start, source, length in _find_copies(base, target):
        operations += _varint(start - done) + _varint(length)
        operations += _varint(_zigzag(source - copied_to))
        literals += target[done:start]
        done, copied_to = start + length, source + length
    if done < len(target):
        operations += _varint(len(target) - done) + _varint(0)
        literals += target[done:]
    return bytes(_varint(len(operations)) + operations + literals)


def _find_copies(base: bytes, target: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (position in target, position in base, length), in order and not overlapping."""
    index = _index(base)
    position, done, shift = 0, 0, 0
    last = len(target) - _KEY_BYTES
    while position <= last:
        key = target[position : position + _KEY_BYTES]
        aligned = position + shift
        if aligned >= 0 and base[aligned : aligned + _KEY_BYTES] == key:
            source = aligned
        else:
            found = index.get(key)
            if found is None:
                position += 1
                continue
            source = found
        length = _KEY_BYTES + _common(base, source + _KEY_BYTES, target, position + _KEY_BYTES)
        while position > done and source and base[source - 1] == target[position - 1]:
            position, source, length = position - 1, source - 1, length + 1
        yield position, source, length
        shift = source - position
        position += length
        done = position


def _index(base: bytes) -> dict[bytes, int]:
    step = 1
    while len(base) // step > _MAX_KEYS:
        step *= 2
    # Backwards, so that the first of equal keys stays: its match can be the longest.
    places = range(0, len(base) - _KEY_BYTES + 1, step)
    return {base[place : place + _KEY_BYTES]: place for place in reversed(places)}


def _common(base: bytes, source: int, target: bytes, position: int) -> int:
    """Return how many bytes are equal from the two positions on."""
    limit = min(len(base) - source, len(target) - position)
    done, step, growing = 0, 32, True
    while step and done < limit:
        step = min(step, limit - done)
        here, there = source + done, position + done
        if base[here : here + step] == target[there : there + step]:
            done += step
        else:
            growing = False
        step = step * 2 if growing else step // 2
    return done


def decode_delta(body: bytes, base: bytes, size: int) -> Iterator[bytes]:
    """Yield the pieces of a content of exactly `size` bytes. Raises DecodeError.

    Memory is bounded by a piece beyond what one copy yields, and that by `size`.
    """
    end, start = _read_varint(body, 0, len(body))
    end += start
    if end > len(body):
        raise DecodeError("operations run past the delta", expected=end, actual=len(body))
    literal, copied_to, left = end, 0, size
    piece = bytearray()
    offset = start
    while offset < end:
        at = offset
        insert, offset = _read_varint(body, offset, end)
        copy, offset = _read_varint(body, offset, end)
        if insert + copy > left or insert > len(body) - literal:
            raise DecodeError("operation makes too much", offset=at, expected=left, actual=insert)
        piece += body[literal : literal + insert]
        literal += insert
        left -= insert + copy
        if copy:
            distance, offset = _read_varint(body, offset, end)
            source = copied_to + _unzigzag(distance)
            copied_to = source + copy
            if copy < MIN_COPY_BYTES or source < 0 or copied_to > len(base):
                raise DecodeError("copy is not in the base", offset=at, actual=source)
            piece += base[source:copied_to]
        elif offset != end:
            raise DecodeError("only the last operation may have no copy", offset=at)
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if left or literal != len(body):
        raise DecodeError("delta makes another size", expected=size, actual=size - left)
    yield bytes(piece)


def _read_varint(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """Return a value and the offset behind it. Raises DecodeError."""
    value = 0
    for index in range(_VARINT_MAX_BYTES):
        if offset + index >= end:
            raise DecodeError("number cut off", offset=offset)
        byte = data[offset + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, offset + index + 1
    raise DecodeError("number too long", offset=offset)
