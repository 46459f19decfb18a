"""The binary delta and the forms content travels in: exact, small, bounded."""

from __future__ import annotations

import contextlib
import random

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError
from csp.files.delta import body_limit, decode_delta, encode_delta
from csp.files.forms import Form, decode_form, encode_form


def rebuilt(body, base, size):
    return b"".join(decode_delta(body, base, size))


def random_bytes(size, seed=1):
    return random.Random(seed).randbytes(size)


BASE = random_bytes(20_000)

# target, at most this many bytes of delta
EDITS = {
    "nothing changed": (BASE, 12),
    "one byte changed": (BASE[:9000] + b"\0" + BASE[9001:], 30),
    "one byte inserted": (BASE[:9000] + b"\0" + BASE[9000:], 30),
    "a block removed": (BASE[:5000] + BASE[6000:], 30),
    "two blocks exchanged": (BASE[10_000:] + BASE[:10_000], 30),
    "start cut off": (BASE[7:], 20),
    "appended": (BASE + b"end", 20),
    "doubled": (BASE + BASE, 30),
    "empty": (b"", 8),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_costs_about_what_was_edited(name):
    target, limit = EDITS[name]
    body = encode_delta(BASE, target)
    assert len(body) <= limit
    assert rebuilt(body, BASE, len(target)) == target


@pytest.mark.parametrize("base", [b"", b"short", bytes(5000)])
@pytest.mark.parametrize("target", [b"", b"x", b"short", bytes(4999), random_bytes(300, 2)])
def test_any_base_will_do(base, target):
    body = encode_delta(base, target)
    assert rebuilt(body, base, len(target)) == target
    assert len(body) <= body_limit(len(target))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_deltas_of_random_edits_are_exact(data):
    alphabet = st.sampled_from([b"a", b"bc", bytes(20), b"module", random_bytes(40)])
    base = b"".join(data.draw(st.lists(alphabet, max_size=30)))
    target = bytearray(base)
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(target)))
        end = data.draw(st.integers(at, min(len(target), at + 60)))
        target[at:end] = data.draw(st.binary(max_size=20))
    body = encode_delta(base, bytes(target))
    assert rebuilt(body, base, len(target)) == target
    assert len(body) <= body_limit(len(target))


def test_every_truncation_is_an_error_or_another_content():
    target = BASE[:300] + b"new" + BASE[500:900]
    body = encode_delta(BASE, target)
    for end in range(len(body)):
        with pytest.raises(DecodeError):
            rebuilt(body[:end], BASE, len(target))


def test_bit_flips_never_make_more_than_announced():
    target = BASE[:300] + b"new" + BASE[500:900]
    body = encode_delta(BASE, target)
    for position in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[position // 8] ^= 1 << position % 8
        try:
            result = rebuilt(bytes(flipped), BASE, len(target))
        except DecodeError:
            continue
        assert len(result) == len(target)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 100))
def test_garbage_raises_only_the_named_error(body, size):
    with contextlib.suppress(DecodeError):
        assert len(rebuilt(body, BASE, size)) == size


HOSTILE = {
    "copy of one byte": (bytes([3, 0, 1, 0]), 1),
    "copy before the base": (bytes([3, 0, 8, 1]), 8),
    "copy behind the base": (bytes([5, 0, 8, 0xFE, 0xFF, 0x7F]), 8),
    "no progress": (bytes([4, 0, 0, 0, 0]), 0),
    "more than announced": (bytes([3, 0, 9, 0]), 8),
    "insertion without bytes": (bytes([2, 5, 0]), 5),
    "bytes nobody inserts": (bytes([2, 1, 0]) + b"xy", 1),
    "endless number": (bytes([0xFF] * 9), 1),
    "operations past the end": (bytes([100, 0]), 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_deltas_are_refused(name):
    body, size = HOSTILE[name]
    with pytest.raises(DecodeError):
        rebuilt(body, BASE, size)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("content", [b"", b"x", b"import numpy\n" * 200, random_bytes(70_000, 4)])
def test_every_form_is_exact(form, content):
    base = BASE if form is Form.DELTA else None
    stream = encode_form(form, content, base)
    assert b"".join(decode_form(form, stream, base, len(content))) == content


@pytest.mark.parametrize("form", Form)
def test_a_form_of_another_size_is_refused(form):
    base = BASE if form is Form.DELTA else None
    stream = encode_form(form, bytes(1000), base)
    for size in (0, 999, 1001):
        with pytest.raises(DecodeError):
            list(decode_form(form, stream, base, size))


@pytest.mark.parametrize("form", [Form.BROTLI, Form.DELTA])
def test_truncated_streams_are_refused(form):
    base = BASE if form is Form.DELTA else None
    stream = encode_form(form, b"some module" * 9 + BASE[:50], base)
    for end in range(len(stream)):
        with pytest.raises(DecodeError):
            list(decode_form(form, stream[:end], base, 149))
    with pytest.raises(DecodeError):
        list(decode_form(form, stream + b"x", base, 149))


@pytest.mark.parametrize("form", [Form.BROTLI, Form.DELTA])
def test_bit_flips_in_streams_give_the_size_or_the_named_error(form):
    base = BASE if form is Form.DELTA else None
    content = b"some module" * 9 + BASE[:50]
    stream = encode_form(form, content, base)
    for position in range(len(stream) * 8):
        flipped = bytearray(stream)
        flipped[position // 8] ^= 1 << position % 8
        try:
            result = b"".join(decode_form(form, bytes(flipped), base, len(content)))
        except DecodeError:
            continue
        assert len(result) == len(content)


@pytest.mark.parametrize("form", [Form.BROTLI, Form.DELTA])
def test_a_bomb_is_stopped_soon_after_the_announced_size(form):
    bomb = brotli.compress(bytes(64 << 20), quality=5, lgwin=22)
    assert len(bomb) < 1000
    base = BASE if form is Form.DELTA else None
    pieces = []
    with pytest.raises(DecodeError):
        pieces.extend(decode_form(form, bomb, base, 10_000))
    assert sum(map(len, pieces)) <= 300_000


def test_a_delta_needs_its_base():
    with pytest.raises(MisuseError):
        encode_form(Form.DELTA, b"x")
    with pytest.raises(MisuseError):
        list(decode_form(Form.DELTA, b"", None, 0))
