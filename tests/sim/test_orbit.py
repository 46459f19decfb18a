"""Orbits: SGP4 against its published vector, and the shipped orbits against what they claim."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim import sun, tle
from sim.errors import ContentError
from sim.orbit import Orbit
from sim.tle import ElementSet

_SETS = tle.parse((Path(__file__).parents[2] / "configs" / "orbits.tle").read_text("ascii"))
_LISTING_1_UNIX = 1_744_407_764.0


@pytest.fixture(scope="module")
def disco() -> Orbit:
    return Orbit(tle.select(_SETS, "DISCO-2-LIKE"))


@pytest.fixture(scope="module")
def station_orbit() -> Orbit:
    return Orbit(tle.select(_SETS, "ISS-LIKE"))


def test_vanguard_matches_the_verification_vector() -> None:
    # tcppver.out of the AIAA 2006-6753 test set, satellite 00005 at 0 and 360 minutes.
    orbit = Orbit(
        ElementSet(
            name="00005",
            line1="1 00005U 58002B   00179.78495062  .00000023  00000-0  28098-4 0  4753",
            line2="2 00005  34.2682 348.7242 1859667 331.7664  19.3264 10.82419157413667",
        )
    )
    position, velocity = orbit.teme(orbit.epoch_unix)
    assert position == pytest.approx((7022.46529266, -1400.08296755, 0.03995155), abs=2e-3)
    assert velocity == pytest.approx((1.893841015, 6.405893759, 4.534807250), abs=2e-6)
    later, _ = orbit.teme(orbit.epoch_unix + 360 * 60)
    assert later == pytest.approx((-7154.03120202, -3783.17682504, -3536.19412294), abs=2e-3)


def test_epoch_is_the_one_in_the_elements(disco: Orbit) -> None:
    assert disco.epoch_unix == pytest.approx(1_744_372_800.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "period_min", "low_km", "high_km", "max_lat"),
    [("DISCO-2-LIKE", 94.87, 500.0, 550.0, 82.6), ("ISS-LIKE", 92.91, 400.0, 440.0, 51.8)],
)
def test_shipped_orbits_are_what_their_file_says(
    name: str, period_min: float, low_km: float, high_km: float, max_lat: float
) -> None:
    orbit = Orbit(tle.select(_SETS, name))
    track = orbit.ground_track(orbit.epoch_unix, orbit.epoch_unix + 3 * orbit.period_s, 30.0)
    assert orbit.period_s / 60 == pytest.approx(period_min, abs=0.02)
    assert low_km < min(p.alt_km for p in track)
    assert max(p.alt_km for p in track) < high_km
    assert max(p.lat_deg for p in track) == pytest.approx(max_lat, abs=0.3)
    assert min(p.lat_deg for p in track) == pytest.approx(-max_lat, abs=0.3)


def test_period_is_the_time_between_two_ascending_nodes(disco: Orbit) -> None:
    times = [disco.epoch_unix + 5.0 * i for i in range(3 * 1200)]
    heights = [disco.teme(t)[0].z for t in times]
    nodes = [
        times[i] - 5.0 * heights[i] / (heights[i + 1] - heights[i])
        for i in range(len(times) - 1)
        if heights[i] < 0 <= heights[i + 1]
    ]
    # The nodal period differs from the mean-motion period by the drift of the perigee.
    assert nodes[1] - nodes[0] == pytest.approx(disco.period_s, abs=8.0)


def test_sun_synchronous_orbit_keeps_its_local_time_over_a_year(disco: Orbit) -> None:
    def node_minus_sun(unix: float) -> float:
        position, velocity = disco.teme(unix)
        normal = position.cross(velocity)
        node = math.degrees(math.atan2(normal.x, -normal.y))
        mean_sun = 280.460 + 0.9856474 * (unix - 946_728_000.0) / 86400.0
        return (node - mean_sun) % 360.0

    start = node_minus_sun(disco.epoch_unix)
    later = node_minus_sun(disco.epoch_unix + 30 * 86400.0)
    assert 12 + start / 15 == pytest.approx(24 + 10 + 21 / 60, abs=0.1)
    # Inertial nodes would drift by 29.6 degrees in these thirty days.
    assert later == pytest.approx(start, abs=1.0)


def test_eclipse_share_matches_the_closed_formula(disco: Orbit, station_orbit: Orbit) -> None:
    for orbit in (disco, station_orbit):
        states = [orbit.state(orbit.epoch_unix + orbit.period_s * i / 1000) for i in range(1000)]
        dark = sum(1 - s.sunlight for s in states) / len(states)
        altitude = sum(s.position_km.norm() for s in states) / len(states) - 6378.137
        assert dark == pytest.approx(sun.eclipse_share(altitude, states[0].beta_deg), abs=0.005)


def test_speed_and_course_are_those_of_the_track(disco: Orbit) -> None:
    state = disco.state(_LISTING_1_UNIX)
    before, after = disco.ecef_km(_LISTING_1_UNIX - 0.5), disco.ecef_km(_LISTING_1_UNIX + 0.5)
    moved_m_s = after.minus(before).norm() * 1000
    assert math.hypot(state.speed_m_s, state.climb_m_s) == pytest.approx(moved_m_s, rel=1e-5)
    a, b = disco.ground_track(_LISTING_1_UNIX - 1.0, _LISTING_1_UNIX + 1.0, 2.0)
    north = b.lat_deg - a.lat_deg
    east = (b.lon_deg - a.lon_deg) * math.cos(math.radians(state.place.lat_deg))
    assert state.course_deg == pytest.approx(math.degrees(math.atan2(east, north)) % 360, abs=0.2)
    assert 6900 < state.ground_speed_m_s < 7200 < state.speed_m_s < 7700


def test_listing_1_finds_the_satellite_in_sunlight_over_the_bering_sea(disco: Orbit) -> None:
    state = disco.state(_LISTING_1_UNIX)
    assert state.sunlight == 1.0
    assert state.sun_elevation_deg == pytest.approx(30.0, abs=2.0)
    assert (state.place.lat_deg, state.place.lon_deg) == pytest.approx((61.2, 175.9), abs=0.3)


def test_decayed_elements_are_an_error_not_a_position() -> None:
    # Same orbit with a hundred times the drag term: gone within the ten years allowed.
    line1 = "1 99901U 25999A   25101.50000000  .00003000  00000-0  21000-1 0    1"
    elements = _SETS[0]
    heavy = Orbit(
        ElementSet(name="HEAVY", line1=line1 + str(tle.checksum(line1)), line2=elements.line2)
    )
    with pytest.raises(ContentError, match=r"HEAVY at \d+: .*decayed"):
        heavy.state(heavy.epoch_unix + 120 * 86400.0)


@pytest.mark.parametrize("years", [-11, 11, 1000])
def test_a_time_far_from_the_elements_is_refused(disco: Orbit, years: int) -> None:
    with pytest.raises(ContentError, match="more than ten years"):
        disco.state(disco.epoch_unix + years * 365.25 * 86400.0)


def test_ground_track_without_a_step_is_empty(disco: Orbit) -> None:
    assert disco.ground_track(0.0, 100.0, 0.0) == []
