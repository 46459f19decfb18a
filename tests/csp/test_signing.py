"""Signatures, the ledger of counters, and keys in files."""

from __future__ import annotations

import builtins
import hashlib
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp import cli
from csp.errors import DecodeError, MisuseError
from csp.keyfiles import (
    OperatorKey,
    generate,
    load_trust,
    operator_key,
    read_public,
    revoke_key,
    trust_key,
    trusted_keys,
)
from csp.ledger import LEDGER_BYTES, MAX_ROWS, Ledger
from csp.signing import (
    COUNTER_MAX,
    SEAL_BYTES,
    Seal,
    Signer,
    Trust,
    decode_seal,
    file_statement,
    fingerprint,
)
from csp.vmem.area import RamArea
from csp.vmem.file import FileArea

# RFC 8032, section 7.1, test 2.
RFC_PRIVATE = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
RFC_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
ALICE, BOB = Signer(bytes([1]) * 32), Signer(bytes([2]) * 32)


def test_it_is_the_signature_of_the_standard():
    signer = Signer(RFC_PRIVATE)
    assert signer.public_key == RFC_PUBLIC
    assert signer.sign(b"\x72") == RFC_SIGNATURE
    assert Trust([RFC_PUBLIC]).is_signed(b"\x72", RFC_SIGNATURE)


def test_any_of_the_keys_may_have_signed_and_no_other():
    signature = BOB.sign(b"x")
    assert Trust([ALICE.public_key, BOB.public_key]).is_signed(b"x", signature)
    assert not Trust([ALICE.public_key]).is_signed(b"x", signature)
    assert not Trust([]).is_signed(b"x", signature)


@settings(max_examples=200, deadline=None)
@given(
    bit=st.integers(0, 8 * 64 - 1), name=st.text(st.characters(codec="ascii"), max_size=9),
    counter=st.integers(1, COUNTER_MAX), content=st.binary(max_size=20),
)  # fmt: skip
def test_any_other_bit_is_no_signature(bit, name, counter, content):
    trust = Trust([ALICE.public_key])
    seal = ALICE.seal_file(name, content, counter)
    assert decode_seal(seal.encode()) == seal
    sha256 = hashlib.sha256(content).digest()
    statement = file_statement(name, sha256, counter)
    assert trust.is_signed(statement, seal.signature)
    flipped = bytearray(seal.signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not trust.is_signed(statement, bytes(flipped))
    for other in (
        file_statement(name + "x", sha256, counter),
        file_statement(name, sha256, counter ^ 1),
        file_statement(name, bytes(32), counter),
    ):
        assert not trust.is_signed(other, seal.signature)


@pytest.mark.parametrize("size", [0, 1, SEAL_BYTES - 1, SEAL_BYTES + 1])
def test_a_seal_has_one_length(size):
    with pytest.raises(DecodeError):
        decode_seal(bytes(size))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(MisuseError):
        Trust([key])
    with pytest.raises(MisuseError):
        Signer(key)


def test_without_the_library_nothing_is_silently_accepted(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    for call in (lambda: Trust([ALICE.public_key]), lambda: Signer(bytes(32))):
        with pytest.raises(MisuseError, match=r"pip install 'cubesat-payload\[sign\]'"):
            call()


def test_a_folder_of_keys_without_the_library_stops_the_node(monkeypatch, tmp_path):
    test_keys = tmp_path / "keys"
    trust_key(generate(tmp_path / "ops").path, test_keys)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MisuseError, match="pip install"):
        load_trust(test_keys)
    assert load_trust(tmp_path / "none") is None


# -- the ledger


def test_nothing_older_is_allowed_and_the_newest_once_more():
    ledger = Ledger(RamArea("ledger", LEDGER_BYTES))
    assert ledger.allows("a", 5, b"x")
    assert not ledger.allows("a", 0, b"x")
    ledger.record("a", 5, b"x")
    assert ledger.allows("a", 5, b"x")
    assert not ledger.allows("a", 5, b"y")
    assert not ledger.allows("a", 4, b"x")
    assert ledger.allows("a", 6, b"y")
    assert ledger.allows("b", 1, b"x")
    ledger.record("a", 3, b"z")
    assert not ledger.allows("a", 4, b"x")


def test_a_ledger_survives_restart_and_a_damaged_copy(tmp_path):
    path = tmp_path / "ledger"
    for counter in (7, 8, 9):
        Ledger(FileArea("ledger", path, LEDGER_BYTES)).record("a", counter, b"x")
    assert not Ledger(FileArea("ledger", path, LEDGER_BYTES)).allows("a", 8, b"x")
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    # The copy before: one step back, never to zero.
    again = Ledger(FileArea("ledger", path, LEDGER_BYTES))
    assert again.allows("a", 9, b"y")
    assert not again.allows("a", 7, b"x")


def test_a_full_ledger_refuses_new_subjects_and_keeps_the_old():
    ledger = Ledger(RamArea("ledger", LEDGER_BYTES))
    for number in range(MAX_ROWS):
        ledger.record(str(number), 1, b"")
    with pytest.raises(MisuseError, match="full"):
        ledger.record("more", 1, b"")
    ledger.record("0", 2, b"")
    assert not ledger.allows("0", 1, b"")


# -- keys in files


def test_keys_are_made_private_and_never_overwritten(tmp_path):
    key = generate(tmp_path / "ops")
    assert (tmp_path / "ops").stat().st_mode & 0o777 == 0o600
    assert OperatorKey(tmp_path / "ops").signer.public_key == key.raw
    assert key.fingerprint == fingerprint(key.raw)
    with pytest.raises(MisuseError, match="never overwritten"):
        generate(tmp_path / "ops")


def test_rotation_and_revocation(tmp_path):
    folder = tmp_path / "state" / "keys"
    assert load_trust(folder) is None
    old, new = generate(tmp_path / "old"), generate(tmp_path / "new")
    trust_key(old.path, folder)
    trust_key(new.path, folder)
    assert [key.raw for key in trusted_keys(folder)] == [new.raw, old.raw]
    with pytest.raises(MisuseError, match="revoke it first"):
        trust_key(old.path, folder)
    assert revoke_key(old.fingerprint, folder).raw == old.raw
    assert len(load_trust(folder)) == 1
    revoke_key("new.pub", folder)
    # No key left is not the same as no signing.
    assert len(load_trust(folder)) == 0
    with pytest.raises(MisuseError, match="no key"):
        revoke_key("new.pub", folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_bad_key_file_is_an_error_and_not_one_key_less(tmp_path, content):
    folder = tmp_path / "keys"
    trust_key(generate(tmp_path / "good").path, folder)
    (folder / "bad.pub").write_bytes(content)
    with pytest.raises(MisuseError, match=r"bad\.pub"):
        load_trust(folder)


def test_a_key_of_another_kind_is_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    data = X25519PrivateKey.generate().public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    (tmp_path / "x.pub").write_bytes(data)
    with pytest.raises(MisuseError, match="not an Ed25519 key"):
        read_public(tmp_path / "x.pub")


def test_files_that_others_can_touch_are_refused(tmp_path):
    key = generate(tmp_path / "ops")
    (tmp_path / "ops").chmod(0o640)
    with pytest.raises(MisuseError, match="open to others"):
        OperatorKey(tmp_path / "ops")
    folder = tmp_path / "keys"
    trust_key(key.path, folder)
    (folder / "ops.pub").chmod(0o666)
    with pytest.raises(MisuseError, match="written by others"):
        load_trust(folder)
    (folder / "ops.pub").chmod(0o644)
    folder.chmod(0o770)
    with pytest.raises(MisuseError, match="written by others"):
        load_trust(folder)


def test_an_operator_never_uses_a_counter_twice(tmp_path, monkeypatch):
    generate(tmp_path / "ops")
    monkeypatch.setattr("csp.keyfiles.time.time", lambda: 1000.0)
    counters = [OperatorKey(tmp_path / "ops").next_counter() for _ in range(3)]
    assert counters == [1000, 1001, 1002]
    monkeypatch.setattr("csp.keyfiles.time.time", lambda: 5.0)
    assert OperatorKey(tmp_path / "ops").next_counter() == 1003
    (tmp_path / "ops.counter").write_text("x")
    with pytest.raises(MisuseError, match="damaged"):
        OperatorKey(tmp_path / "ops").next_counter()


def test_the_key_of_a_session_comes_from_the_option_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PAYLOAD_KEY", raising=False)
    assert operator_key(None) is None
    one, two = generate(tmp_path / "one"), generate(tmp_path / "two")
    monkeypatch.setenv("PAYLOAD_KEY", str(tmp_path / "one"))
    assert operator_key(None).signer.public_key == one.raw
    assert operator_key(str(tmp_path / "two")).signer.public_key == two.raw


def test_the_command_makes_trusts_shows_and_revokes(tmp_path, capsys):
    state = tmp_path / "state"
    state.mkdir()
    assert cli.main(["keys", "show", str(state)]) == 0
    assert "nothing has to be signed" in capsys.readouterr().out
    assert cli.main(["keys", "generate", str(tmp_path / "ops")]) == 0
    assert cli.main(["keys", "trust", str(tmp_path / "ops.pub"), str(state)]) == 0
    capsys.readouterr()
    assert cli.main(["keys", "show", "--json", str(state)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["required"]
    assert [key["fingerprint"] for key in shown["keys"]]
    assert cli.main(["keys", "revoke", "ops.pub", str(state)]) == 0
    assert cli.main(["keys", "show", str(state)]) == 0
    assert "nothing that must be signed is accepted" in capsys.readouterr().out
    assert cli.main(["keys", "revoke", "ops.pub", str(state)]) == 1
    assert cli.main(["keys", "trust", str(tmp_path / "none.pub"), str(state)]) == 1
    with pytest.raises(SystemExit) as caught:
        cli.main(["keys"])
    assert caught.value.code == 2


def test_a_seal_made_offline_is_that_of_the_file(tmp_path):
    generate(tmp_path / "ops")
    (tmp_path / "cloud.py").write_bytes(b"x")
    assert cli.main(["keys", "sign", "-k", f"{tmp_path}/ops", f"{tmp_path}/cloud.py"]) == 0
    seal = decode_seal(bytes.fromhex((tmp_path / "cloud.py.sig").read_text()))
    key = OperatorKey(tmp_path / "ops")
    assert seal == key.signer.seal_file("cloud.py", b"x", seal.counter)
    bad = ["keys", "sign", "-N", "../x", "-k", f"{tmp_path}/ops", f"{tmp_path}/cloud.py"]
    assert cli.main(bad) == 1


def test_counters_fit_their_field():
    for counter in (0, -1, COUNTER_MAX + 1):
        with pytest.raises(MisuseError):
            ALICE.seal_file("a", b"", counter)
    assert Seal(counter=COUNTER_MAX, signature=bytes(64)).encode()[:4] == b"\xff" * 4
