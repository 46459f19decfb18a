"""The radio killed at any system call of a transfer: no image is lost, none is there twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from csp.node import CspNode
from csp.param.table import ParamTable
from csp.services import Identity
from csp.testing import Network
from dipp.batch import encode_batch
from dipp.faults.sabotage import CHANGES, KILL, Strike, Switch, run_sabotaged
from dipp.metadata import Metadata
from dipp.ring import open_ring
from dipp.ringarea import RingArea, RingService
from dipp.ringindex import RingGeometry
from sim import config
from sim.clock import MissionClock
from sim.radio import RadioNode
from sim.store import ObservationStore

DIPP, RADIO = 162, 10
CONFIG = config.load()
CAPACITY = CONFIG.radio.capacity_bytes
IMAGES = [
    bytes(encode_batch([(Metadata(obid=obid, camera="rgb"), bytes([obid]) * 700)], align=1))
    for obid in range(1, 4)
]
PASS_S = 60.0
# Every third call; each with EVERY_CALL=1.
STRIDE = 1 if os.environ.get("EVERY_CALL") else 3


def fly(directory: Path, switch: Switch | None = None) -> None:
    """Mirror all images from a DIPP ring into the radio's store, in virtual time."""
    network = Network(seed=1)
    ring, _ = open_ring(directory / "dipp.vmem", RingGeometry(data_bytes=100_000), durable=False)
    identity = Identity(hostname="DIPP", model="", revision="", date="", time="")
    area = RingArea(ring)
    dipp = CspNode(
        network.scheduler, address=DIPP, identity=identity, table=ParamTable([]), areas=[area],
        seed=7,
    )  # fmt: skip
    RingService(ring, network.scheduler, lambda error: None).register(dipp.vmem)
    dipp.attach(network.link(DIPP))
    clock = MissionClock(epoch_unix=CONFIG.mission.epoch_unix)
    radio = RadioNode(
        network.scheduler, CONFIG, clock, directory=directory / "radio", seed=3, durable=True
    )
    radio.attach(network.link(RADIO))
    if switch is not None:
        switch.set(True)
    network.wait(PASS_S)
    if switch is not None:
        switch.set(False)
    radio.close()
    ring.close()


def make_dipp(directory: Path) -> None:
    directory.mkdir()
    ring, _ = open_ring(directory / "dipp.vmem", RingGeometry(data_bytes=100_000), durable=False)
    for image in IMAGES:
        ring.append([image])
    ring.close()


def stored(directory: Path) -> list[bytes]:
    store = ObservationStore(directory / "radio", CAPACITY, durable=False)
    elements = [store.ring.element(position) for position in range(store.ring.count)]
    found = [store.ring.read(each, 0, each.size) for each in elements if each is not None]
    store.close()
    return found


@pytest.mark.parametrize("decision", [KILL, errno.ENOSPC], ids=["killed", "disk full"])
def test_every_image_is_there_once_whatever_call_was_struck(decision: int, tmp_path: Path) -> None:
    switch, number = Switch(), 1 - STRIDE
    while True:
        number += STRIDE
        place = tmp_path / f"{number}"
        make_dipp(place)
        switch.set(False)
        rule = Strike(number, decision, when=switch)
        ending = run_sabotaged(lambda place=place: fly(place, switch), CHANGES, rule)
        assert ending.was_killed == (decision == KILL and ending.struck is not None), ending
        assert ending.status in (0, -9), ending
        half = stored(place)
        assert half == IMAGES[: len(half)], f"{ending.struck}: not a beginning of what was sent"
        fly(place)
        assert stored(place) == IMAGES, f"{ending.struck}"
        if ending.struck is None:
            break
    assert number > 15
