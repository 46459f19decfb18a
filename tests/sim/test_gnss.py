"""The GNSS node in virtual time: what DISH and the ground can read from it."""

from __future__ import annotations

import pytest

from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.sched import Scheduler
from csp.testing import Network
from sim import config, nmea
from sim.clock import MissionClock
from sim.gnss import INVALID_AGE, SPECS, Gnss, GnssNode

_CONFIG = config.load()
_EPOCH = _CONFIG.mission.epoch_unix


def _gnss(rate: float = 1.0) -> Gnss:
    return Gnss(_CONFIG, MissionClock(epoch_unix=_EPOCH, rate=rate), 0.0)


def test_table_is_the_flown_one_plus_our_own() -> None:
    flown = [(s.id, s.name) for s in SPECS if s.id <= 31]
    assert flown == [
        (24, "gnss_lat"),
        (25, "gnss_lon"),
        (26, "gnss_age"),
        (27, "gnss_date"),
        (28, "gnss_time"),
        (29, "gnss_speed"),
        (30, "gnss_alt"),
        (31, "gnss_course"),
    ]


def test_before_the_first_fix_everything_says_invalid() -> None:
    table = _gnss().table
    values = {p.name: p.get() for p in table}
    assert (values["gnss_lat"], values["gnss_lon"], values["gnss_alt"]) == (1000.0, 1000.0, 1e6)
    assert (values["gnss_age"], values["gnss_speed"]) == (INVALID_AGE, -1.0)
    gnss = _gnss()
    gnss.update(4.9)
    assert gnss.table["gnss_fix"].get() == 0
    assert gnss.table["gnss_unix"].get() == 0
    assert gnss.table["gnss_time"].get() == 0
    assert gnss.table["gnss_rmc"].get() == ""


def test_with_a_fix_parameters_and_sentences_agree() -> None:
    gnss = _gnss()
    gnss.update(64.25)
    table = gnss.table
    truth = _CONFIG.orbit().state(_EPOCH + 64.25)
    assert table["gnss_unix"].get() == 1_744_407_764
    assert (table["gnss_date"].get(), table["gnss_time"].get()) == (110425, 21424425)
    assert table["gnss_lat"].get() == pytest.approx(truth.place.lat_deg, abs=1e-4)
    assert table["gnss_lon"].get() == pytest.approx(truth.place.lon_deg, abs=1e-4)
    assert 500_000 < table["gnss_alt"].get() < 560_000
    assert 26_500 < table["gnss_speed"].get() < 28_000
    assert table["gnss_age"].get() == 0
    fields = nmea.split(table["gnss_rmc"].get())
    assert (fields[0], fields[1], fields[2]) == ("GPRMC", "214244.25", "A")
    assert nmea.split(table["gnss_gga"].get())[7] == "09"


def test_blocked_antenna_keeps_place_and_time_and_ages() -> None:
    gnss = _gnss(rate=10.0)
    gnss.update(10.0)
    place = gnss.table["gnss_lat"].get()
    gnss.table["gnss_blocked"].write(1)
    gnss.update(12.0)
    assert gnss.table["gnss_fix"].get() == 0
    assert gnss.table["gnss_lat"].get() == place
    assert gnss.table["gnss_age"].get() == 20_000
    assert gnss.table["gnss_unix"].get() == int(_EPOCH) + 120
    assert nmea.split(gnss.table["gnss_rmc"].get())[2] == "V"
    gnss.table["gnss_blocked"].write(0)
    gnss.update(12.2)
    assert gnss.table["gnss_fix"].get() == 1


def test_reset_starts_cold_again() -> None:
    gnss = _gnss()
    gnss.update(100.0)
    gnss.table["gnss_reset"].write(1)
    assert gnss.table["gnss_lat"].get() == 1000.0
    assert gnss.table["gnss_unix"].get() == 0
    assert gnss.table["gnss_reset"].get() == 0
    gnss.update(104.0)
    assert gnss.table["gnss_fix"].get() == 0
    gnss.update(105.0)
    assert gnss.table["gnss_fix"].get() == 1


def test_age_never_reaches_the_mark_for_no_fix() -> None:
    gnss = Gnss(_CONFIG, MissionClock(epoch_unix=_EPOCH, rate=100_000.0), 0.0)
    gnss.update(1.0)
    gnss.table["gnss_blocked"].write(1)
    gnss.update(100.0)
    assert gnss.table["gnss_age"].get() == INVALID_AGE - 1


def test_node_answers_over_the_bus_at_mission_time() -> None:
    network = Network(Scheduler(1000.0))
    clock = MissionClock(epoch_unix=_EPOCH, rate=60.0, start_monotonic=1000.0)
    node = GnssNode(network.scheduler, _CONFIG, clock, seed=1)
    node.attach(network.link(_CONFIG.nodes.gnss))
    ground = RemoteTable(ParamClient(network.add(20)))
    network.wait(2.5)
    value = network.run(ground.get(_CONFIG.nodes.gnss, "gnss_unix"))
    assert value == int(_EPOCH) + 120
    node.close()
    before = node.table["gnss_unix"].get()
    network.wait(3.0)
    assert node.table["gnss_unix"].get() == before
