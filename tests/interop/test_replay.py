"""Our nodes answer the recorded requests of real shells as they, or the C programs, did."""

from __future__ import annotations

from dataclasses import replace

import pytest
from players import PLAYERS
from replaying import (
    RECORDINGS,
    Frame,
    RecordedChance,
    Recording,
    VirtualPlayer,
    connections,
    initial_numbers,
    plain,
    replay,
)
from twin import twin

from csp.cmp import Code
from csp.param.codec import PARAM_PORT, PacketType
from csp.sched import Scheduler
from csp.services import PORT_BUFFERS, PORT_CMP, PORT_UPTIME

# In version 1 the reference node cuts identifiers above 511 to nine bits, so that 1023, 1024 and
# 1100 arrive as 511, 0 and 76. We leave those parameters out of what version 1 cannot express.
_CUT_IDENTIFIERS = bytes.fromhex("cd01ff cd03ff  00 cd0400  4c 05")

NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))
REFERENCE = [name for name in NAMES if name.startswith("reference_")]
PROCEDURES = "procedures_ds_v2"
OURS = [name for name in NAMES if name not in (*REFERENCE, PROCEDURES)]


def unmeasured(frame: Frame, version: int) -> bytes:
    """A frame without what is measured at the moment: clock, uptime, free buffers, build date."""
    packet = frame.packet
    header = frame.raw[: -4 - len(packet.data)]
    if packet.sport in (PORT_BUFFERS, PORT_UPTIME):
        return header + b"?" * len(packet.data)
    if packet.sport == PORT_CMP:
        code, data = packet.data[1], bytearray(packet.data)
        if code == Code.CLOCK:
            data[2:] = b"?" * 8
        elif code == Code.IDENT:
            del data[-21:]
        elif code == Code.IF_STATS and version == 1:
            # On a version 1 network a node hears everything, and the reference counts its echoes.
            data[17:21] = data[45:49] = b"????"
        return header + bytes(data)
    if packet.sport == PARAM_PORT and packet.data[0] == PacketType.RESPONSE_V1:
        return header + packet.data.removesuffix(_CUT_IDENTIFIERS)
    return frame.comparable(version)


def untallied(frame: Frame, version: int) -> bytes:
    """The same without what an interface has counted: the node had been pinged before."""
    packet = frame.packet
    if packet.sport == PORT_CMP and packet.data[1] == Code.IF_STATS:
        return packet.data[:13]
    return unmeasured(frame, version)


def unacknowledging(frame: Frame) -> bytes:
    """A data frame without its acknowledgement number.

    The reference sometimes answers a request before it counts it as received: its threads race.
    """
    return frame.raw[: -4 - len(frame.packet.data)] + frame.packet.data[:-2]


def assert_same(
    recording: Recording, ours: list[bytes], theirs: list[Frame], expected: list[bytes]
):
    for mine, their, frame in zip(ours, expected, theirs, strict=False):
        assert mine.hex() == their.hex(), recording.command_of(frame)
    assert len(ours) == len(expected)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_same_bytes_as_the_reference_node(name):
    """List entries, queues, memory lists and contents, CMP: every byte as the C program's."""
    recording = Recording.load(RECORDINGS / f"{name}.json")
    version = recording.version
    scheduler = Scheduler()
    answers = replay(
        recording, VirtualPlayer(scheduler, twin(scheduler, recording.node, version).stack)
    )
    theirs, ours = plain(recording.answers), plain(answers)
    assert_same(
        recording,
        [unmeasured(frame, version) for frame in ours],
        theirs,
        [unmeasured(frame, version) for frame in theirs],
    )
    for their_side, our_side in zip(
        connections(recording.answers), connections(answers), strict=True
    ):
        theirs = [frame for frame in their_side if frame.is_rdp_data]
        assert_same(
            recording,
            [unacknowledging(frame) for frame in our_side if frame.is_rdp_data],
            theirs,
            [unacknowledging(frame) for frame in theirs],
        )


# These go through the whole table, which grows with the product; their bytes are held to those of
# the C program by the reference sessions.
WHOLE_TABLE = ("pull", "list download")


def of_single_things(recording: Recording, frames: list[Frame]) -> list[Frame]:
    """The frames that answer commands which do not enumerate the table."""

    def command(answer: Frame) -> str:
        # By the request from the same client port: answers may come late, in the next command.
        asked = [
            each
            for each in recording.requests
            if each.packet.sport == answer.packet.dport and each.index <= answer.index
        ]
        return recording.command_of(asked[-1])

    return [frame for frame in frames if not command(frame).startswith(WHOLE_TABLE)]


@pytest.mark.parametrize("name", OURS)
def test_the_same_bytes_as_to_the_real_shell(name, tmp_path):
    """What our nodes answered when a real shell operated them, they answer still."""
    recording = Recording.load(RECORDINGS / f"{name}.json")
    version = recording.version
    answers = replay(recording, PLAYERS[name.split("_")[0]](recording, tmp_path))
    then = of_single_things(recording, plain(recording.answers))
    now = of_single_things(recording, plain(answers))
    assert then
    assert_same(
        recording,
        [untallied(frame, version) for frame in now],
        then,
        [untallied(frame, version) for frame in then],
    )
    for then, now in zip(connections(recording.answers), connections(answers), strict=True):
        then = of_single_things(recording, [frame for frame in then if frame.is_rdp_data])
        now = of_single_things(recording, [frame for frame in now if frame.is_rdp_data])
        assert_same(recording, [frame.raw for frame in now], then, [frame.raw for frame in then])


def test_the_same_bytes_as_the_reference_procedure_server(tmp_path):
    """Push, pull, slots, run, del and their refusals, as csp_proc with the limits of the M7."""
    recording = Recording.load(RECORDINGS / f"{PROCEDURES}.json")
    answers = replay(recording, PLAYERS["dish"](recording, tmp_path))
    theirs = recording.answers
    assert_same(
        recording, [frame.raw for frame in answers], theirs, [frame.raw for frame in theirs]
    )
    assert len(theirs) > 15


class Burst:
    """A link that hands over frames without letting time pass."""

    name = "BURST"
    guard = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def open(self, loop, on_frame) -> None:
        self.deliver = on_frame

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", REFERENCE)
def test_a_checksum_right_behind_an_upload_is_of_what_was_uploaded(name):
    """Seen live: csh asks so soon that a link hands over both at once."""
    recording = Recording.load(RECORDINGS / f"{name}.json")
    # The first connection to the memory server is that of the upload.
    first = next(
        frame.index for frame in recording.requests if frame.is_rdp and frame.packet.dport == 14
    )
    [after] = [i for i, text in recording.commands.items() if text.startswith("download 0x438")]
    part = replace(recording, frames=recording.frames[first:after])
    link, node = Burst(), twin(Scheduler(), recording.node, recording.version)
    node.attach(link)
    node.stack.rng = RecordedChance(initial_numbers(part))
    for frame in part.requests:
        link.deliver(frame.raw)
    assert plain(part.answers)[-1].raw in link.sent
