"""The queue end: kills, foreign messages, unlinked and misfit queues."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from dipp.errors import MisuseError
from dipp.intake import Empty, Intake, Taken
from dipp.message import BatchMessage, encode_legacy, encode_message

MESSAGE = BatchMessage(num_images=1, batch_size=10, pipeline_id=2, shmid=5, segment="/seg")
BODY = encode_message(MESSAGE)


@pytest.fixture
def name() -> Iterator[str]:
    name = f"/dipp_test_{uuid.uuid4().hex[:12]}"
    yield name
    try:
        posix_ipc.unlink_message_queue(name)
    except posix_ipc.ExistentialError:
        return


@pytest.fixture
def intake(name: str, tmp_path: Path) -> Iterator[Intake]:
    intake = Intake(name, tmp_path / "intake")
    assert intake.ensure()
    yield intake
    intake.close()


def send(name: str, body: bytes, priority: int = 0) -> None:
    queue = posix_ipc.MessageQueue(name)
    queue.send(body, timeout=0, priority=priority)
    queue.close()


def test_messages_come_in_order_of_priority_with_their_numbers(intake: Intake) -> None:
    send(intake.name, BODY)
    send(intake.name, encode_legacy(MESSAGE), priority=9)
    first = intake.take(7)
    assert isinstance(first, Taken)
    assert (first.batch, first.priority, first.body) == (7, 9, BODY[:24])
    assert first.message is not None
    assert first.message.segment == "/dipp_5"
    intake.release()
    second = intake.take(8)
    assert isinstance(second, Taken)
    assert second.message == MESSAGE
    intake.release()
    assert intake.take(9) is Empty.NO_MESSAGE


def test_what_is_not_released_is_returned_again(intake: Intake) -> None:
    send(intake.name, BODY)
    send(intake.name, encode_legacy(MESSAGE))
    taken = intake.take(1)
    assert intake.take(1) == taken
    assert intake.depth == 1


@pytest.mark.parametrize("body", [b"", b"x", b"abcd", b"y" * 40, BODY[:-1], b"z" * 128])
def test_a_bad_message_is_reported_and_the_next_one_passes(intake: Intake, body: bytes) -> None:
    send(intake.name, body)
    send(intake.name, BODY)
    bad = intake.take(1)
    assert isinstance(bad, Taken)
    assert bad.message is None
    assert bad.reason
    intake.release()
    good = intake.take(1)
    assert isinstance(good, Taken)
    assert good.message == MESSAGE


def test_the_queue_is_private_and_small(intake: Intake) -> None:
    queue = posix_ipc.MessageQueue(intake.name)
    assert (queue.max_messages, queue.max_message_size) == (10, 128)
    assert os.fstat(queue.mqd).st_mode & 0o777 == 0o600
    queue.close()


def test_an_unlinked_queue_is_read_empty_and_made_anew(intake: Intake) -> None:
    send(intake.name, BODY)
    posix_ipc.unlink_message_queue(intake.name)
    assert isinstance(intake.take(1), Taken)
    intake.release()
    assert intake.take(2) is Empty.NO_MESSAGE
    assert intake.recreated == 1
    send(intake.name, BODY)
    assert isinstance(intake.take(2), Taken)


def test_a_queue_with_small_messages_is_read_empty_and_made_anew(name: str, tmp_path: Path) -> None:
    foreign = posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_message_size=32)
    foreign.send(encode_legacy(MESSAGE))
    intake = Intake(name, tmp_path / "intake")
    assert isinstance(intake.take(1), Taken)
    intake.release()
    assert intake.take(2) is Empty.NO_MESSAGE
    assert intake.recreated >= 1
    send(name, BODY)
    assert isinstance(intake.take(2), Taken)
    foreign.close()
    intake.close()


def test_a_queue_with_larger_messages_is_used_as_it_is(name: str, tmp_path: Path) -> None:
    foreign = posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_message_size=8192)
    foreign.send(b"x" * 8192)
    foreign.send(BODY)
    foreign.close()
    intake = Intake(name, tmp_path / "intake")
    bad = intake.take(1)
    assert isinstance(bad, Taken)
    assert bad.message is None
    intake.release()
    assert isinstance(intake.take(1), Taken)
    assert intake.recreated == 0
    intake.close()


def test_a_name_that_cannot_be_a_queue_is_no_queue(tmp_path: Path) -> None:
    intake = Intake("/no/such/queue", tmp_path / "intake")
    assert intake.take(1) is Empty.NO_QUEUE
    intake.close()


def test_an_empty_queue_goes_with_the_node_a_filled_one_stays(name: str, tmp_path: Path) -> None:
    first = Intake(name, tmp_path / "intake")
    first.ensure()
    send(name, BODY)
    first.close()
    second = Intake(name, tmp_path / "intake")
    assert isinstance(second.take(1), Taken)
    second.release()
    second.close()
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(name)


def _then_die(receive: Any) -> Any:
    """Wrap the receive call so that the process dies before it returns to its caller."""

    def call(*args: object) -> None:
        receive(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    return call


BODIES = {
    "full": BODY,
    "legacy": encode_legacy(MESSAGE),
    "with junk": encode_legacy(MESSAGE) + b"\xaa" * 8,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_message_received_just_before_a_kill_is_found_again(
    name: str, tmp_path: Path, body: bytes
) -> None:
    """The child dies right after the receive call, before Python sees its result."""
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            intake = Intake(name, tmp_path / "intake")
            intake.ensure()
            send(name, body)
            intake._receive = _then_die(intake._receive)
            intake.take(41)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        intake = Intake(name, tmp_path / "intake")
        found = intake.recover()
        assert found is not None
        assert found.batch == 41
        assert found.message is not None
        assert found.message.pipeline_id == 2
        assert found.message.segment == ("/seg" if body is BODY else "/dipp_5")
        intake.release()
        assert intake.recover() is None
        intake.close()


def test_nothing_landed_is_nothing_found(name: str, tmp_path: Path) -> None:
    intake = Intake(name, tmp_path / "intake")
    assert intake.recover() is None
    assert intake.take(1) is Empty.NO_MESSAGE
    intake.close()
    again = Intake(name, tmp_path / "intake")
    assert again.recover() is None
    again.close()


def test_two_exclusive_readers_the_second_refuses_and_says_who(name: str, tmp_path: Path) -> None:
    first = Intake(name, tmp_path / "first", exclusive=True)
    first.claim()
    second = Intake(name, tmp_path / "second", exclusive=True)
    with pytest.raises(MisuseError, match=rf"read by another node \(process {os.getpid()}\)"):
        second.claim()
    send(name, BODY)
    assert second.take(1) is Empty.NO_QUEUE
    assert isinstance(first.take(1), Taken)
    first.release()
    first.close()
    second.claim()
    second.close()


def test_an_exclusive_reader_keeps_the_queue_that_is_made_anew(name: str, tmp_path: Path) -> None:
    first = Intake(name, tmp_path / "first", exclusive=True)
    first.claim()
    posix_ipc.unlink_message_queue(name)
    assert first.ensure()
    second = Intake(name, tmp_path / "second", exclusive=True)
    with pytest.raises(MisuseError):
        second.claim()
    second.close()
    first.close()


def test_without_a_queue_there_is_nothing_to_claim(tmp_path: Path) -> None:
    intake = Intake("/no/such/queue", tmp_path / "intake", exclusive=True)
    intake.claim()
    assert intake.take(1) is Empty.NO_QUEUE
    intake.close()
