from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError
from csp.hmac import append_hmac, derive_key, strip_hmac
from csp.sfp import Assembler, encode_fragments

KEY = derive_key("secret")


@given(st.binary(min_size=1, max_size=500), st.integers(1, 60))
def test_fragments_join_to_the_same_data(data, size):
    assembler = Assembler()
    results = [assembler.feed(payload) for payload in encode_fragments(data, size)]
    assert results[:-1] == [None] * (len(results) - 1)
    assert results[-1] == data


def test_fragment_layout():
    assert list(encode_fragments(b"abcde", 3)) == [
        b"abc" + bytes.fromhex("00000000" + "00000005"),
        b"de" + bytes.fromhex("00000003" + "00000005"),
    ]


@pytest.mark.parametrize("lost", range(4))
def test_a_lost_fragment_starts_over(lost):
    payloads = list(encode_fragments(bytes(range(40)), 10))
    assembler = Assembler()
    remaining = [payload for number, payload in enumerate(payloads) if number != lost]
    results = []
    for payload in remaining:
        try:
            results.append(assembler.feed(payload))
        except DecodeError:
            continue
    assert bytes(range(40)) not in results
    assert [assembler.feed(payload) for payload in payloads][-1] == bytes(range(40))


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "00" * 7,
        "00000000" + "00000000",
        "61" + "00000000" + "00000000",
        "61" + "00000001" + "00000005",
        "61" + "00000000" + "ffffffff",
    ],
)
def test_impossible_fragments_are_named(payload):
    with pytest.raises(DecodeError):
        Assembler(1000).feed(bytes.fromhex(payload))


@pytest.mark.parametrize(("data", "size"), [(b"", 10), (b"x", 0)])
def test_impossible_splits_are_misuse(data, size):
    with pytest.raises(MisuseError):
        list(encode_fragments(data, size))


def test_hmac_is_the_specified_one():
    key = hashlib.sha1(b"secret").digest()[:16]
    expected = b"data" + hmac.new(key, b"data", "sha1").digest()[:4]
    assert append_hmac(b"data", KEY) == expected
    assert strip_hmac(expected, KEY) == b"data"


@pytest.mark.parametrize("bit", range(64))
def test_hmac_finds_every_flipped_bit(bit):
    payload = bytearray(append_hmac(b"data", KEY))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        strip_hmac(bytes(payload), KEY)


@pytest.mark.parametrize("size", range(8))
def test_hmac_refuses_truncation(size):
    with pytest.raises(DecodeError):
        strip_hmac(append_hmac(b"data", KEY)[:size], KEY)
