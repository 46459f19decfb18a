"""Messages of the file service and the staged file: one table of both directions, then damage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError
from csp.files.forms import Form
from csp.files.stagelog import encode_header, encode_piece, file_limit, scan
from csp.files.status import MEANING, FilesError, Status
from csp.files.wire import (
    DATA_MAX_BYTES,
    NAME_MAX_BYTES,
    Data,
    Delete,
    End,
    Entry,
    ListFiles,
    Offer,
    Part,
    Reply,
    Rollback,
    Sign,
    StageState,
    Version,
    VersionKind,
    check_name,
    decode_answer,
    decode_request,
)
from csp.packet import SAFE_DATA_BYTES

SHA, BASE_SHA, DIGEST = bytes(range(32)), bytes(range(32, 64)), b"12345678"


def offer(**changes):
    fields = {
        "name": "cloud.py",
        "form": Form.BROTLI,
        "content_size": 1000,
        "content_crc": 0x01020304,
        "content_sha256": SHA,
        "wire_size": 400,
        "wire_digest": DIGEST,
    }
    return Offer(**fields | changes)


DELTA_OFFER = offer(form=Form.DELTA, base_sha256=BASE_SHA)
STAGE = StageState(
    form=Form.DELTA, content_sha256=SHA, wire_size=400, received=17, wire_digest=DIGEST
)
FULL_ENTRY = Entry(
    name="n" * NAME_MAX_BYTES,
    versions=tuple(Version(kind=kind, size=70_000, sha256=SHA) for kind in VersionKind),
    stage=STAGE,
)

REQUESTS = [
    (ListFiles(), "0100"),
    (ListFiles(name="a.py"), "0104612e7079"),
    (
        offer(),
        "0201" + "e8030000" + "04030201" + SHA.hex() + "90010000" + DIGEST.hex()
        + "08636c6f75642e7079",
    ),
    (
        DELTA_OFFER,
        "0202" + "e8030000" + "04030201" + SHA.hex() + "90010000" + DIGEST.hex()
        + BASE_SHA.hex() + "08636c6f75642e7079",
    ),
    (Data(data=b"abc"), "03616263"),
    (Rollback(name="a", sha256=SHA), "04" + SHA.hex() + "0161"),
    (Delete(name="a", parts=Part.STAGE | Part.PREVIOUS), "05050161"),
    (Sign(name="a", sha256=SHA, seal=b"\x05" * 68), "06" + SHA.hex() + "05" * 68 + "0161"),
]  # fmt: skip
ANSWERS = [
    (Entry(name="a"), "8100000161"),
    (
        Entry(
            name="a",
            versions=(Version(kind=VersionKind.PREVIOUS, size=3, sha256=SHA),),
            stage=STAGE,
        ),
        "8101" + "0203000000" + SHA.hex() + "01"
        + "02" + SHA.hex() + "90010000" + "11000000" + DIGEST.hex() + "0161",
    ),
    (End(count=2, free_bytes=1 << 33, limit_bytes=5), "820200000000000200000005000000"),
    (Reply(status=Status.CONTINUE, offset=258), "8301000002010000"),
    (Reply(status=Status.STORAGE_FAILED, errno=5), "830e050000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), REQUESTS)
def test_requests_are_these_bytes(value, expected):
    assert value.encode().hex() == expected
    assert decode_request(bytes.fromhex(expected)) == value


@pytest.mark.parametrize(("value", "expected"), ANSWERS)
def test_answers_are_these_bytes(value, expected):
    assert value.encode().hex() == expected
    assert decode_answer(bytes.fromhex(expected)) == value


def test_the_biggest_messages_fit_a_packet():
    assert len(FULL_ENTRY.encode()) <= SAFE_DATA_BYTES
    assert decode_answer(FULL_ENTRY.encode()) == FULL_ENTRY
    assert len(offer(name="n" * NAME_MAX_BYTES, form=Form.DELTA, base_sha256=SHA).encode()) <= 200
    assert len(Data(data=bytes(DATA_MAX_BYTES)).encode()) == SAFE_DATA_BYTES


@pytest.mark.parametrize(
    ("decode", "message"),
    [(decode_request, v.encode()) for v, _ in REQUESTS if not isinstance(v, Data)]
    + [(decode_answer, v.encode()) for v, _ in ANSWERS]
    + [(decode_answer, FULL_ENTRY.encode())],
)
def test_messages_have_one_valid_length(decode, message):
    for end in range(len(message)):
        with pytest.raises(DecodeError):
            decode(message[:end])
    with pytest.raises(DecodeError):
        decode(message + b"\0")


@pytest.mark.parametrize(
    ("decode", "message"),
    [(decode_request, v.encode()) for v, _ in REQUESTS]
    + [(decode_answer, v.encode()) for v, _ in ANSWERS]
    + [(decode_answer, FULL_ENTRY.encode())],
)
def test_bit_flips_give_values_or_the_named_error(decode, message):
    for position in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[position // 8] ^= 1 << position % 8
        try:
            value = decode(bytes(flipped))
        except DecodeError:
            continue
        assert value.encode() == bytes(flipped)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=SAFE_DATA_BYTES))
def test_random_messages_give_values_or_the_named_error(message):
    for decode in (decode_request, decode_answer):
        try:
            value = decode(message)
        except DecodeError:
            continue
        assert value.encode() == message


BAD_MESSAGES = [
    "",
    "00",
    "03",
    "8000",
    "05000161",
    "05080161",
    "04",
    "01 02 c3a9",
    "0131" + "61" * 49,
]


@pytest.mark.parametrize("message", BAD_MESSAGES)
def test_bad_requests_are_refused(message):
    with pytest.raises(DecodeError):
        decode_request(bytes.fromhex(message))


def test_what_does_not_fit_is_not_encoded():
    for value in (
        Data(data=b""),
        Data(data=bytes(DATA_MAX_BYTES + 1)),
        ListFiles(name="n" * 49),
        offer(form=Form.DELTA),
        offer(base_sha256=SHA),
    ):
        with pytest.raises(MisuseError):
            value.encode()


@pytest.mark.parametrize("name", ["a", "cloud_cover.py", "9-net+v2.tflite", "_x", "n" * 48])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../a", "a\0", "a\n", "a b", "a~new", "é", "n" * 49, "-x",
     "/etc/passwd"],
)  # fmt: skip
def test_names_that_could_mean_something_else(name):
    with pytest.raises(FilesError) as caught:
        check_name(name)
    assert caught.value.status is Status.BAD_NAME


def test_every_status_has_a_meaning():
    assert set(MEANING) == set(Status)


# -- the staged file

PIECES = [b"x" * 40, bytes(range(200)), b"end"]


def staged(pieces=PIECES):
    return encode_header(DELTA_OFFER) + b"".join(map(encode_piece, pieces))


def test_a_staged_file_says_what_was_received():
    found = scan(staged())
    assert found.offer == DELTA_OFFER
    assert found.stream == b"".join(PIECES)
    assert found.intact_bytes == len(staged()) <= file_limit(DELTA_OFFER.wire_size)


def test_a_staged_file_cut_anywhere_keeps_its_intact_start():
    data = staged()
    ends = [len(staged(PIECES[:count])) for count in range(len(PIECES) + 1)]
    for size in range(len(data)):
        complete = [end for end in ends if end <= size]
        if not complete:
            with pytest.raises(DecodeError):
                scan(data[:size])
            continue
        for tail in (b"", bytes(50), b"\xff" * 50):
            found = scan(data[:size] + tail)
            assert found.intact_bytes == complete[-1]
            assert found.stream == b"".join(PIECES[: len(complete) - 1])


def test_a_flipped_bit_costs_only_what_follows():
    data = staged()
    whole = b"".join(PIECES)
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            found = scan(bytes(flipped))
        except DecodeError:
            assert position // 8 < len(encode_header(DELTA_OFFER))
            continue
        assert whole.startswith(found.stream)
        assert len(found.stream) < len(whole)


def test_more_than_was_offered_is_not_taken():
    pieces = [bytes(200), bytes(200), bytes(40)]
    assert len(scan(staged(pieces)).stream) == 400


def test_a_header_of_another_message_is_refused():
    request = Delete(name="a").encode()
    body = b"CSPSTAG1" + len(request).to_bytes(2, "little") + request
    from csp.crc import crc32c

    with pytest.raises(DecodeError):
        scan(body + crc32c(body).to_bytes(4, "little"))
