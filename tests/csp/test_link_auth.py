"""Key files, stamp files, and the options that name them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from csp.errors import DecodeError, MisuseError
from csp.guard import Guard
from csp.hmac import derive_key
from csp.links.auth import StampFile, load_key, open_guard
from csp.links.options import add_link_options, open_link
from csp.packet import Packet, encode_frame

PASSPHRASE = "correct horse battery staple"
PACKET = Packet(dst=9, src=20, dport=10, sport=30, data=b"command")
KEY = derive_key(PASSPHRASE)


def write_key(path: Path, content: bytes = PASSPHRASE.encode() + b"\n", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_file_is_a_passphrase_in_a_line(tmp_path):
    assert load_key(write_key(tmp_path / "key")) == KEY


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"short\n", 0o600, "at least 16"),
        (b"two lines of a text\nthat is no key\n", 0o600, "one line"),
        (b"\xff" * 20, 0o600, "UTF-8"),
        (PASSPHRASE.encode(), 0o640, "chmod 600"),
        (PASSPHRASE.encode(), 0o604, "chmod 600"),
    ],
)
def test_a_bad_key_file_is_refused_with_the_reason(tmp_path, content, mode, reason):
    with pytest.raises(MisuseError, match=reason):
        load_key(write_key(tmp_path / "key", content, mode))


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(MisuseError, match=r"nothing.*No such file"):
        load_key(tmp_path / "nothing")


def test_stamps_grow_across_restarts(tmp_path):
    last = 0
    for _ in range(3):
        stamps = StampFile(tmp_path / "state" / "stamps")
        for _ in range(100):
            stamp = stamps.take()
            assert stamp > last
            last = stamp
        stamps.close()


def test_stamps_grow_although_the_clock_went_back(tmp_path, monkeypatch):
    first = StampFile(tmp_path / "stamps")
    last = [first.take() for _ in range(10)][-1]
    first.close()
    monkeypatch.setattr("csp.links.auth.time.time_ns", lambda: 0)
    second = StampFile(tmp_path / "stamps")
    assert second.take() > last
    second.close()


def test_a_lost_stamp_file_does_not_lock_the_sender_out(tmp_path):
    receiver = Guard(KEY, stamps=StampFile(tmp_path / "receiver"))
    for _ in range(2):
        sender = Guard(KEY, stamps=StampFile(tmp_path / "sender"))
        receiver.open(sender.seal(PACKET))
        sender.close()
        (tmp_path / "sender").unlink()
    receiver.close()


def test_what_was_received_stays_known_across_restarts(tmp_path):
    sender = Guard(KEY, stamps=StampFile(tmp_path / "sender"))
    recorded = []
    for _ in range(3):
        receiver = Guard(KEY, stamps=StampFile(tmp_path / "receiver"))
        for packet in recorded:
            with pytest.raises(DecodeError, match="before"):
                receiver.open(packet)
        for source in (20, 21, 9000):
            recorded.append(sender.seal(PACKET._replace(src=source)))
            receiver.open(recorded[-1])
        receiver.close()
    sender.close()


_RECEIVER = """
import sys
from pathlib import Path
from csp.guard import Guard
from csp.links.auth import StampFile
from csp.packet import decode_frame
guard = Guard(bytes.fromhex(sys.argv[2]), stamps=StampFile(Path(sys.argv[1])))
for line in sys.stdin:
    guard.open(decode_frame(bytes.fromhex(line)))
    print("taken", flush=True)
"""


def test_a_killed_receiver_remembers_the_last_packet(tmp_path):
    sender = Guard(KEY, stamps=StampFile(tmp_path / "sender"))
    process = subprocess.Popen(
        [sys.executable, "-c", _RECEIVER, str(tmp_path / "receiver"), KEY.hex()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    packets = [sender.seal(PACKET) for _ in range(5)]
    for packet in packets:
        process.stdin.write(encode_frame(packet).hex() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "taken\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    receiver = Guard(KEY, stamps=StampFile(tmp_path / "receiver"))
    for packet in packets:
        with pytest.raises(DecodeError, match="before"):
            receiver.open(packet)
    receiver.open(sender.seal(PACKET))
    receiver.close()
    sender.close()


def test_a_stamp_file_has_one_user(tmp_path):
    first = StampFile(tmp_path / "stamps")
    with pytest.raises(MisuseError, match="in use"):
        StampFile(tmp_path / "stamps")
    first.close()
    StampFile(tmp_path / "stamps").close()


@pytest.mark.parametrize("content", [b"x", bytes(17), bytes(32)], ids=["one", "odd", "twice"])
def test_a_damaged_stamp_file_is_refused(tmp_path, content):
    (tmp_path / "stamps").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MisuseError, match="not a stamp file"):
        StampFile(tmp_path / "stamps")
    assert len(os.listdir("/proc/self/fd")) == before


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_link_options(parser, address=20)
    return parser.parse_args(["--udp", "127.0.0.1:4000:0", *words])


def test_options_give_the_link_a_guard(tmp_path):
    key = str(write_key(tmp_path / "key"))
    link = open_link(parse())
    assert link.guard is None
    link.close()
    for words, level in (((), 1), (("--replay-window", str(tmp_path / "stamps")), 2)):
        link = open_link(parse("--hmac-key", key, *words))
        assert link.guard is not None
        assert link.guard.level == level
        link.guard.close()
        link.close()


def test_a_window_without_a_key_is_refused(tmp_path):
    with pytest.raises(MisuseError, match="--hmac-key"):
        open_link(parse("--replay-window", str(tmp_path / "stamps")))


def test_both_ends_made_from_files_understand_each_other(tmp_path):
    key = write_key(tmp_path / "key")
    ends = [open_guard(key, tmp_path / name, 2) for name in ("one", "two")]
    assert ends[1].open(ends[0].seal(PACKET)) == PACKET
    for end in ends:
        end.close()
