"""The radio node in virtual time, against the real ring code of DIPP on the other side."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from csp.node import CspNode
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.table import ParamTable
from csp.services import Identity
from csp.stack import Stack
from csp.testing import Network
from csp.vmem.client import Incomplete, VmemClient
from dipp.batch import encode_batch
from dipp.index import fetch_count, fetch_entry
from dipp.metadata import Metadata
from dipp.ring import Ring, open_ring
from dipp.ringarea import RingArea, RingService
from dipp.ringindex import FLOWN_ENTRIES, RingGeometry
from sim import config
from sim.clock import MissionClock
from sim.figures import PayloadConfig
from sim.mirror import MirrorState
from sim.radio import RadioNode

_CONFIG = dataclasses.replace(
    config.load(),
    radio=dataclasses.replace(config.load().radio, capacity_bytes=60_000, poll_s=0.5),
)
_CLOCK = MissionClock(epoch_unix=_CONFIG.mission.epoch_unix)
_DIPP, _RADIO, _GROUND = 162, 10, 20


def _image(obid: int, size: int = 5000) -> bytes:
    pixels = random.Random(obid).randbytes(size)
    metadata = Metadata(
        size=size, height=1, width=size, channels=1, timestamp=1000 + obid, bits_pixel=8,
        obid=obid, camera="rgb", items=(),
    )  # fmt: skip
    return bytes(encode_batch([(metadata, pixels)], align=1))


class _Dipp:
    """The part of the DIPP node that the radio talks to."""

    def __init__(self, network: Network, directory: Path, entries: int = FLOWN_ENTRIES) -> None:
        self._network = network
        directory.mkdir(exist_ok=True)
        self.ring: Ring
        self.ring, _ = open_ring(
            directory / "images.vmem",
            RingGeometry(data_bytes=100_000, entries=entries),
            durable=False,
        )
        area = RingArea(self.ring)
        identity = Identity(hostname="DIPP", model="", revision="", date="", time="")
        self.node = CspNode(
            network.scheduler,
            address=_DIPP,
            identity=identity,
            table=ParamTable([]),
            areas=[area],
            seed=7,
        )
        service = RingService(self.ring, network.scheduler, lambda error: None)
        service.register(self.node.vmem)
        self.node.attach(network.link(_DIPP))

    def stop(self) -> None:
        self._network.remove(_DIPP)
        self.node.close()
        self.ring.close()


@dataclasses.dataclass
class _Rig:
    network: Network
    path: Path
    ground: Stack
    dipp: _Dipp
    radio: RadioNode

    def start_radio(self, cfg: PayloadConfig = _CONFIG) -> None:
        self.radio = RadioNode(
            self.network.scheduler, cfg, _CLOCK, directory=self.path / "radio", seed=3,
            durable=False,
        )  # fmt: skip
        self.radio.attach(self.network.link(_RADIO))

    def stop_radio(self) -> None:
        self.network.remove(_RADIO)
        self.radio.close()

    def get(self, name: str) -> object:
        remote = RemoteTable(ParamClient(self.ground))
        return self.network.run(remote.get(_RADIO, name))

    def obids(self) -> list[int]:
        async def ask() -> list[int]:
            entries = [
                await fetch_entry(self.ground, _RADIO, position)
                for position in range(await fetch_count(self.ground, _RADIO))
            ]
            return [entry.obid for entry in entries if entry is not None]

        return self.network.run(ask())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[_Rig]:
    network = Network()
    made = _Rig(network, tmp_path, network.add(_GROUND), _Dipp(network, tmp_path / "dipp"), None)  # type: ignore[arg-type]
    made.start_radio()
    yield made
    made.stop_radio()
    made.dipp.ring.close()


def test_observations_arrive_and_are_served_byte_for_byte(rig: _Rig) -> None:
    for obid in (1, 2, 3):
        rig.dipp.ring.append([_image(obid)])
    rig.network.wait(10.0)
    assert rig.obids() == [1, 2, 3]
    client = VmemClient(rig.ground)
    for position, obid in ((0, 1), (2, 3), (-1, 3)):
        element = rig.network.run(client.ring_download(_RADIO, "images", position))
        assert element == _image(obid)
    assert rig.get("obs_count") == 3
    assert rig.get("obs_newest") == 3
    assert rig.get("obs_newest_time") == 1003
    assert rig.get("mirror_state") == MirrorState.IDLE
    assert rig.get("mirror_copied") == 3


def test_the_ground_is_served_while_dipp_sleeps(rig: _Rig) -> None:
    rig.dipp.ring.append([_image(1)])
    rig.network.wait(5.0)
    rig.network.remove(_DIPP)
    rig.network.wait(30.0)
    assert rig.obids() == [1]
    assert rig.get("mirror_state") == MirrorState.AWAY
    assert rig.get("mirror_faults") > 0


def test_restarts_of_both_neither_lose_nor_double(rig: _Rig) -> None:
    rig.dipp.ring.append([_image(1), _image(2)])
    rig.network.wait(5.0)
    rig.stop_radio()
    rig.dipp.ring.append([_image(3)])
    rig.start_radio()
    rig.network.wait(5.0)
    rig.dipp.stop()
    rig.network.wait(10.0)
    rig.dipp = _Dipp(rig.network, rig.path / "dipp")
    rig.dipp.ring.append([_image(4)])
    rig.network.wait(20.0)
    assert rig.obids() == [1, 2, 3, 4]
    assert rig.get("mirror_resyncs") == 0


def test_a_new_ring_on_the_other_side_is_taken_over(rig: _Rig) -> None:
    rig.dipp.ring.append([_image(1), _image(2)])
    rig.network.wait(5.0)
    rig.dipp.stop()
    rig.network.wait(10.0)
    rig.dipp = _Dipp(rig.network, rig.path / "another")
    rig.dipp.ring.append([_image(2), _image(9), _image(10)])
    rig.network.wait(20.0)
    assert rig.obids() == [1, 2, 9, 10]
    assert (rig.get("mirror_resyncs"), rig.get("mirror_duplicates")) == (1, 1)


def test_oldest_go_when_full_unless_told_otherwise(rig: _Rig) -> None:
    for obid in range(1, 16):
        rig.dipp.ring.append([_image(obid)])
    rig.network.wait(20.0)
    assert rig.obids() == list(range(5, 16))
    assert rig.get("obs_evicted") == 4
    assert rig.get("obs_stored_bytes") + rig.get("obs_free_bytes") == 60_000  # type: ignore[operator]
    remote = RemoteTable(ParamClient(rig.ground))
    rig.network.run(remote.set(_RADIO, "drop_policy", 1))
    rig.dipp.ring.append([_image(16)])
    rig.network.wait(5.0)
    assert rig.get("mirror_state") == MirrorState.FULL
    assert rig.obids() == list(range(5, 16))
    rig.network.run(remote.set(_RADIO, "drop_policy", 0))
    rig.network.wait(5.0)
    assert rig.obids() == list(range(6, 17))


def test_a_small_table_goes_round_many_times(rig: _Rig) -> None:
    rig.stop_radio()
    rig.dipp.stop()
    rig.dipp = _Dipp(rig.network, rig.path / "small", entries=5)
    small = dataclasses.replace(_CONFIG.radio, dipp_ring_entries=5)
    rig.start_radio(dataclasses.replace(_CONFIG, radio=small))
    for obid in range(1, 12):
        rig.dipp.ring.append([_image(obid)])
        rig.network.wait(3.0)
    assert rig.obids() == list(range(1, 12))
    rig.network.wait(1.0)
    assert rig.get("mirror_missed") == 0


def test_what_is_no_image_is_left_out(rig: _Rig) -> None:
    rig.dipp.ring.append([b"\xff" * 3000, _image(2)])
    rig.network.wait(10.0)
    assert rig.obids() == [2]
    assert rig.get("mirror_broken") == 1


def test_an_image_bigger_than_the_store_does_not_block(rig: _Rig) -> None:
    rig.dipp.ring.append([_image(1, 70_000)])
    rig.dipp.ring.append([_image(2)])
    rig.network.wait(60.0)
    assert rig.obids() == [2]


def test_switching_the_mirror_off_and_on(rig: _Rig) -> None:
    remote = RemoteTable(ParamClient(rig.ground))
    rig.network.run(remote.set(_RADIO, "mirror_enabled", 0))
    rig.network.wait(2.0)
    rig.dipp.ring.append([_image(1)])
    rig.network.wait(5.0)
    assert rig.obids() == []
    assert rig.get("mirror_state") == MirrorState.OFF
    rig.network.run(remote.set(_RADIO, "mirror_enabled", 1))
    rig.network.wait(5.0)
    assert rig.obids() == [1]


def test_uploads_to_the_store_are_not_served(rig: _Rig) -> None:
    client = VmemClient(rig.ground)
    with pytest.raises(Incomplete, match="closed by the peer"):
        rig.network.run(client.ring_upload(_RADIO, "images", _image(5)))
    rig.network.wait(2.0)
    assert rig.obids() == []


def test_an_empty_store_says_so(rig: _Rig) -> None:
    rig.network.wait(2.0)
    assert rig.get("obs_newest") == -1
    assert rig.get("obs_count") == 0
