"""The fuzz campaigns: short ones pass, and what they look for they find."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from csp.packet import Packet
from tools import fuzz_frames
from tools.fuzz_decoders import check
from tools.fuzz_frames import Broken, run_campaign
from tools.fuzz_nodes import MAKERS
from tools.fuzz_table import DECODERS


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", MAKERS)
def test_twenty_thousand_frames_leave_a_node_as_it_was(name):
    report = run_campaign(name, 20_000, seed=2)
    assert report.frames == 20_000
    # The frames reach what they are meant for: past the checksum, and into connections.
    assert report.accepted > 10_000
    assert report.opened > 50


@pytest.mark.parametrize("name", MAKERS)
def test_csp_version_1(name):
    report = run_campaign(name, 2_000, seed=3, version=1)
    assert report.frames == 2_000
    assert report.accepted > 1_000


def test_the_same_seed_gives_the_same_campaign():
    one, two = (replace(run_campaign("csp", 1_000, seed=5), duration_s=0.0) for _ in range(2))
    assert (one.accepted, one.opened, one.sent) == (two.accepted, two.opened, two.sent)


def sabotage(monkeypatch, change):
    """Let the campaign meet a node with a fault."""
    real = MAKERS["csp"]

    def make(*arguments):
        target = real(*arguments)
        change(target.node)
        return target

    monkeypatch.setitem(fuzz_frames.MAKERS, "csp", make)


def test_a_handler_that_raises_is_found(monkeypatch):
    def fail(packet: Packet) -> None:
        raise ZeroDivisionError

    sabotage(monkeypatch, lambda node: node.stack.bind(9, fail))
    with pytest.raises(Broken, match="ZeroDivisionError"):
        run_campaign("csp", 20_000)


def test_growth_is_found(monkeypatch):
    kept = []

    def leak(direction, packet, frame):
        kept.extend([direction] for _ in range(20))

    sabotage(monkeypatch, lambda node: node.stack.taps.append(leak))
    with pytest.raises(Broken, match="objects"):
        run_campaign("csp", 4_000)


def test_a_node_that_falls_silent_is_found(monkeypatch):
    def fall_silent(node):
        node.stack._bindings.pop(1)

    sabotage(monkeypatch, fall_silent)
    with pytest.raises(Broken, match="ping"):
        run_campaign("csp", 100)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_of_the_guided_campaign_survives_noise(name):
    rng = random.Random(name)
    for _ in range(200):
        check(name, rng.randbytes(rng.randrange(80)))
