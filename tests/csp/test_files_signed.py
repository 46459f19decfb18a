"""Uploads to a node that trusts keys: nothing unsigned, altered, renamed or old becomes active."""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest

from csp.crc import crc32c
from csp.errors import MisuseError
from csp.files.client import FilesClient
from csp.files.disk import SystemStoreOps
from csp.files.forms import Form
from csp.files.server import FilesServer
from csp.files.status import FilesError, Status
from csp.files.store import FileStore
from csp.files.testing import FailingStoreOps
from csp.files.transfer import make_plan
from csp.files.wire import DIGEST_BYTES, Offer, Part
from csp.keyfiles import generate
from csp.ledger import LEDGER_BYTES, Ledger
from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.shell.main import open_session
from csp.signing import Signer, Trust
from csp.stack import Stack
from csp.testing import Faults, Network
from csp.vmem.area import RamArea

NAME = "cloud.py"
ONE = random.Random(1).randbytes(500)
TWO = random.Random(2).randbytes(600)
THREE = random.Random(3).randbytes(700)
ALICE, BOB, EVE = (Signer(bytes([n]) * 32) for n in (1, 2, 3))


def sha(content):
    return hashlib.sha256(content).digest()


def offer_of(content, name=NAME):
    return Offer(
        name=name, form=Form.PLAIN, content_size=len(content), content_crc=crc32c(content),
        content_sha256=sha(content), wire_size=len(content),
        wire_digest=sha(content)[:DIGEST_BYTES],
    )  # fmt: skip


class Rig:
    """A store that trusts Alice and Bob."""

    def __init__(self, folder):
        self.folder = folder
        self.area = RamArea("ledger", LEDGER_BYTES)
        self.store = self.open()

    def open(self, signers=(ALICE, BOB), ops=None):
        trust = Trust([each.public_key for each in signers])
        return FileStore(self.folder, ops=ops, trust=trust, ledger=Ledger(self.area))

    def sign(self, content, counter, signer=ALICE, name=NAME, store=None):
        seal = signer.seal_file(name, content, counter).encode()
        return (store or self.store).sign(name, sha(content), seal)

    def send(self, content, name=NAME, store=None):
        stage = (store or self.store).begin(offer_of(content, name))
        if stage is not None:
            while not stage.complete:
                stage.append(content[stage.received : stage.received + 246])
            list(stage.finish())

    def upload(self, content, counter, signer=ALICE):
        self.sign(content, counter, signer)
        self.send(content)

    def active(self):
        path = self.folder / "active" / NAME
        return path.read_bytes() if path.exists() else None


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "modules")


def status_of(call, *arguments, **options):
    with pytest.raises(FilesError) as caught:
        call(*arguments, **options)
    return caught.value.status


def test_what_a_trusted_key_signed_becomes_active(rig):
    rig.upload(ONE, 1)
    rig.upload(TWO, 2, BOB)
    assert rig.active() == TWO
    rig.store.signatures.check(NAME, sha(ONE))
    rig.store.signatures.check(NAME, sha(TWO))


def test_nothing_else_does(rig):
    assert status_of(rig.send, ONE) is Status.UNSIGNED
    assert status_of(rig.sign, ONE, 1, EVE) is Status.BAD_SIGNATURE
    other_name = ALICE.seal_file("other.py", ONE, 1).encode()
    assert status_of(rig.store.sign, NAME, sha(ONE), other_name) is Status.BAD_SIGNATURE
    rig.sign(TWO, 1)
    assert status_of(rig.send, ONE) is Status.UNSIGNED
    assert status_of(rig.store.sign, NAME, sha(ONE), b"short") is Status.BAD_SIGNATURE
    assert rig.active() is None


def test_a_signature_taken_away_while_the_content_came_stops_it(rig):
    rig.sign(ONE, 1)
    stage = rig.store.begin(offer_of(ONE))
    while not stage.complete:
        stage.append(ONE[stage.received : stage.received + 246])
    for path in (rig.folder / "signed").iterdir():
        path.unlink()
    assert status_of(lambda: list(stage.finish())) is Status.UNSIGNED
    assert rig.active() is None


def test_an_old_signed_version_cannot_be_sent_again(rig):
    rig.upload(ONE, 1)
    rig.upload(TWO, 2)
    rig.upload(THREE, 3)
    assert status_of(rig.sign, ONE, 1) is Status.OLD_SIGNATURE
    # Its seal may still be on board.
    assert status_of(rig.send, ONE) in (Status.OLD_SIGNATURE, Status.UNSIGNED)
    assert status_of(rig.send, TWO) is Status.OLD_SIGNATURE
    assert status_of(rig.sign, ONE, 3) is Status.OLD_SIGNATURE
    rig.sign(THREE, 3)
    rig.upload(ONE, 4)
    assert rig.active() == ONE


def test_nor_after_a_delete_or_a_restart(rig):
    rig.upload(ONE, 1)
    rig.upload(TWO, 2)
    rig.store.delete(NAME, Part.ALL)
    rig.store = rig.open()
    assert status_of(rig.sign, ONE, 1) is Status.OLD_SIGNATURE
    rig.upload(TWO, 2)
    assert rig.active() == TWO


def test_rollback_works_both_ways_without_a_new_signature(rig):
    rig.upload(ONE, 1)
    rig.upload(TWO, 2)
    assert rig.store.rollback(NAME, sha(ONE))
    assert rig.active() == ONE
    assert rig.store.rollback(NAME, sha(TWO))
    assert rig.active() == TWO


def test_a_rollback_to_a_version_of_a_revoked_key_is_refused(rig):
    rig.upload(ONE, 1, BOB)
    rig.upload(TWO, 2, ALICE)
    rig.store = rig.open((ALICE,))
    assert status_of(rig.store.rollback, NAME, sha(ONE)) is Status.BAD_SIGNATURE
    assert rig.active() == TWO


def test_rotation_signs_what_is_on_board_without_sending_it_again(rig):
    rig.upload(ONE, 1, BOB)
    rig.store = rig.open((ALICE,))
    assert status_of(rig.store.signatures.check, NAME, sha(ONE)) is Status.BAD_SIGNATURE
    rig.sign(ONE, 2, ALICE)
    rig.store.signatures.check(NAME, sha(ONE))


def test_no_key_at_all_accepts_nothing(rig):
    rig.store = rig.open(())
    assert status_of(rig.sign, ONE, 1) is Status.BAD_SIGNATURE
    assert status_of(rig.send, ONE) is Status.UNSIGNED


def test_any_flipped_bit_of_a_stored_seal_is_noticed(rig):
    rig.upload(ONE, 1)
    (path,) = (rig.folder / "signed").iterdir()
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 7):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        assert status_of(rig.store.signatures.check, NAME, sha(ONE)) is Status.BAD_SIGNATURE
    for size in range(len(good)):
        path.write_bytes(good[:size])
        assert status_of(rig.store.signatures.check, NAME, sha(ONE)) is Status.BAD_SIGNATURE
    path.write_bytes(good)
    rig.store.signatures.check(NAME, sha(ONE))


def test_seals_of_versions_that_are_gone_do_not_pile_up(rig):
    for counter in range(1, 30):
        rig.upload(bytes([counter]) * 40, counter)
    assert len(list((rig.folder / "signed").iterdir())) <= 3


def test_a_store_without_keys_asks_for_nothing(tmp_path):
    store = FileStore(tmp_path / "modules")
    assert not store.sign(NAME, sha(ONE), ALICE.seal_file(NAME, ONE, 1).encode())
    assert not (tmp_path / "modules" / "signed").exists()
    with pytest.raises(MisuseError, match="ledger"):
        FileStore(tmp_path / "modules", trust=Trust([]))


def test_a_failing_system_call_leaves_a_version_whose_seal_holds(tmp_path):
    fail_at, calls = 0, 0
    while calls >= fail_at:
        fail_at += 1
        rig = Rig(tmp_path / str(fail_at))
        rig.upload(ONE, 1)
        ops = FailingStoreOps(fail_at)
        with contextlib.suppress(OSError, FilesError):
            store = rig.open(ops=ops)
            rig.sign(TWO, 2, store=store)
            rig.send(TWO, store=store)
        calls = ops.calls
        again = rig.open()
        again.signatures.check(NAME, sha(rig.active()))
        # What failed can be done again, the old counter included.
        rig.sign(TWO, 2, store=again)
        rig.send(TWO, store=again)
        assert rig.active() == TWO
    assert calls > 40


# -- over the network and as the operator types it


def test_a_refusal_comes_before_the_content_is_sent(tmp_path):
    network = Network(faults=Faults(delay_s=0.001), seed=1)
    rig = Rig(tmp_path / "modules")
    ground, node = network.add(20), network.add(162)
    server = FilesServer(node, rig.store)
    client = FilesClient(ground, 162)
    plan = make_plan(NAME, ONE, None, {}, client.budget)
    with pytest.raises(FilesError, match="--key"):
        network.run(client.upload(plan), 100)
    seal = EVE.seal_file(NAME, ONE, 1)
    with pytest.raises(FilesError, match="no key that the node trusts"):
        network.run(client.sign(NAME, sha(ONE), seal), 100)
    assert server.counters.received_bytes == 0
    assert server.counters.signatures_refused == 2
    assert network.run(client.sign(NAME, sha(ONE), ALICE.seal_file(NAME, ONE, 1)), 100)
    network.run(client.upload(plan), 100)
    assert rig.active() == ONE


def test_a_ledger_that_cannot_be_written_refuses(tmp_path):
    class Stuck(RamArea):
        def flush(self):
            raise MisuseError("full")

    rig = Rig(tmp_path / "modules")
    rig.area = Stuck("ledger", LEDGER_BYTES)
    rig.store = rig.open(ops=SystemStoreOps())
    network = Network(faults=Faults(delay_s=0.001), seed=1)
    ground, node = network.add(20), network.add(162)
    FilesServer(node, rig.store)
    with pytest.raises(FilesError, match="storage failed"):
        network.run(FilesClient(ground, 162).sign(NAME, sha(ONE), ALICE.seal_file(NAME, ONE, 1)))


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ground"))
    monkeypatch.delenv("PAYLOAD_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    loop = Loop()
    bus = MemoryBus(loop.scheduler)
    monkeypatch.setattr("csp.shell.main.Loop", lambda: loop)
    stack = Stack(loop.scheduler)
    link = bus.link("NODE")
    interface = stack.add_interface("NODE", 162, link.send)
    link.open(loop, lambda frame: stack.receive(interface, frame))
    key = generate(tmp_path / "ops")
    store = FileStore(
        tmp_path / "modules", trust=Trust([key.raw]), ledger=Ledger(RamArea("l", LEDGER_BYTES))
    )
    FilesServer(stack, store)
    (tmp_path / NAME).write_bytes(ONE)
    with open_session(bus.link("SHELL"), address=20, out=lines.append) as session:
        session.node = 162

        def run(line, ok=True):
            del lines[:]
            assert session.run_line(line, 20.0) is ok, "\n".join(lines)
            return "\n".join(lines)

        yield run


def test_the_shell_signs_with_a_key(shell, tmp_path, monkeypatch):
    assert "--key" in shell(f"upload {NAME}", ok=False)
    assert "accepted" in shell(f"upload -k ops {NAME}")
    assert (tmp_path / "modules" / "active" / NAME).read_bytes() == ONE
    # Signed again, as after a change of keys: only the signature is sent.
    again = shell(f"upload -k ops {NAME}")
    assert "nothing to send" in again
    assert "accepted" in again
    monkeypatch.setenv("PAYLOAD_KEY", "ops")
    (tmp_path / NAME).write_bytes(TWO)
    assert "active on node 162" in shell(f"upload {NAME}")
    shell(f"files rollback {NAME}")
    assert (tmp_path / "modules" / "active" / NAME).read_bytes() == ONE
    generate(tmp_path / "eve")
    assert "no key that the node trusts" in shell(f"upload -k eve {NAME}", ok=False)
    (tmp_path / "bad.sig").write_text("00")
    assert "csp keys sign" in shell(f"upload -S bad.sig {NAME}", ok=False)
