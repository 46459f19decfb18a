"""Copies of other nodes' parameters, in virtual time."""

from __future__ import annotations

import pytest

from csp.node import CspNode
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.services import Identity
from csp.testing import Network
from dish.mirror import PERIOD_S, STALE_S, Mirror

P = ParamType
NAMES = ("lat", "fix", "absent")


@pytest.fixture
def sky():
    network = Network()
    receiver = ParamTable(
        [ParamSpec(id=1, name="lat", type=P.FLOAT), ParamSpec(id=2, name="fix", type=P.U8)]
    )
    identity = Identity(hostname="n", model="m", revision="r")
    node = CspNode(network.scheduler, address=9, identity=identity, table=receiver, seed=1)
    node.attach(network.link(9))
    own = ParamTable(
        ParamSpec(id=index, name=name, type=type_)
        for index, (name, type_) in enumerate(zip(NAMES, (P.FLOAT, P.U8, P.U8), strict=True))
    )
    remote = RemoteTable(ParamClient(network.add(4)))
    number = [9]
    mirror = Mirror(
        network.scheduler, own, remote, node=lambda: number[0], names=NAMES,
        invalid={"lat": 1000.0, "fix": 0},
    )  # fmt: skip
    mirror.start()
    yield network, receiver, own, number, remote
    mirror.stop()


def test_values_follow_once_per_second_with_one_pull_each(sky):
    network, receiver, own, _, remote = sky
    receiver["lat"].set(12.5)
    receiver["fix"].set(1)
    network.wait(0.5)
    assert (own["lat"].get(), own["fix"].get()) == (12.5, 1)
    receiver["lat"].set(13.5)
    network.wait(10 * PERIOD_S)
    assert own["lat"].get() == 13.5
    assert (remote.list_downloads, remote.pulls) == (1, 11)


def test_a_silent_node_leaves_invalid_values_and_comes_back(sky):
    network, receiver, own, _, _ = sky
    receiver["lat"].set(12.5)
    network.wait(3)
    network.channels[9].loss = 1.0
    network.wait(STALE_S - 2)
    assert own["lat"].get() == 12.5
    network.wait(3)
    assert (own["lat"].get(), own["fix"].get()) == (1000.0, 0)
    network.channels[9].loss = 0.0
    network.wait(30)
    assert own["lat"].get() == 12.5


def test_node_number_0_asks_nobody(sky):
    network, _, own, number, remote = sky
    network.wait(1.5)
    number[0] = 0
    pulls = remote.pulls
    network.wait(20)
    assert remote.pulls == pulls
    assert own["lat"].get() == 1000.0
