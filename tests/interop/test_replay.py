"""Our nodes answer the recorded requests of real shells as they, or the C programs, did."""

from __future__ import annotations

import pytest
from replaying import RECORDINGS, Frame, Recording, connections, plain, replay
from twin import twin

from csp.cmp import Code
from csp.param.codec import PARAM_PORT, PacketType
from csp.services import PORT_BUFFERS, PORT_CMP, PORT_UPTIME

# In version 1 the reference node cuts identifiers above 511 to nine bits, so that 1023, 1024 and
# 1100 arrive as 511, 0 and 76. We leave those parameters out of what version 1 cannot express.
_CUT_IDENTIFIERS = bytes.fromhex("cd01ff cd03ff  00 cd0400  4c 05")

REFERENCE = sorted(path.stem for path in RECORDINGS.glob("reference_*.json"))


def unmeasured(frame: Frame, version: int) -> bytes:
    """A frame without what is measured at the moment: clock, uptime, free buffers."""
    packet = frame.packet
    is_clock = packet.sport == PORT_CMP and packet.data[1] == Code.CLOCK
    is_build = packet.sport == PORT_CMP and packet.data[1] == Code.IDENT
    header = frame.raw[: -4 - len(packet.data)]
    if is_clock or packet.sport in (PORT_BUFFERS, PORT_UPTIME):
        return header + packet.data[:2] + b"?" * (len(packet.data) - 2)
    if version == 1 and packet.sport == PORT_CMP and packet.data[1] == Code.IF_STATS:
        # On a version 1 network a node hears everything, and the reference also counts its echoes.
        data = bytearray(packet.data)
        data[17:21] = data[45:49] = b"????"
        return header + bytes(data)
    if is_build:
        # The last two texts are the date and time of compilation.
        return header + packet.data[:-21]
    if packet.sport == PARAM_PORT and packet.data[0] == PacketType.RESPONSE_V1:
        return header + packet.data.removesuffix(_CUT_IDENTIFIERS)
    return frame.comparable(version)


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
    answers = replay(recording, lambda scheduler: twin(scheduler, recording.node, version).stack)
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
