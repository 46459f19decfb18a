"""The Sun's place against the almanac, and the shadow of the Earth against geometry."""

from __future__ import annotations

import itertools
import math

import pytest

from sim import sun
from sim.frames import EARTH_RADIUS_KM, Vector

# Meeus, Astronomical Algorithms, example 25.a (1992-10-13 0h), and the instants of equinox and
# solstice as published by the US Naval Observatory.
_ALMANAC = [
    ("Meeus 25.a", 718_934_400.0, 198.38, -7.785),
    ("March equinox 2025-03-20 09:01", 1_742_461_260.0, 0.0, 0.0),
    ("June solstice 2025-06-21 02:42", 1_750_473_720.0, 90.0, 23.438),
    ("September equinox 2025-09-22 18:19", 1_758_565_140.0, 180.0, 0.0),
    ("December solstice 2025-12-21 15:03", 1_766_329_380.0, 270.0, -23.438),
]


@pytest.mark.parametrize(("name", "unix", "ascension", "declination"), _ALMANAC)
def test_the_sun_stands_where_the_almanac_says(
    name: str, unix: float, ascension: float, declination: float
) -> None:
    position = sun.sun_position_km(unix)
    difference = (sun.right_ascension_deg(position) - ascension + 180) % 360 - 180
    assert difference == pytest.approx(0.0, abs=0.02), name
    assert sun.declination_deg(position) == pytest.approx(declination, abs=0.02), name


@pytest.mark.parametrize(
    ("name", "unix", "distance_au"),
    [
        ("perihelion 2025-01-04", 1_735_997_280.0, 0.98333),
        ("aphelion 2025-07-03", 1_751_572_500.0, 1.01664),
        ("Meeus 25.a", 718_934_400.0, 0.99766),
    ],
)
def test_the_sun_is_as_far_as_the_almanac_says(name: str, unix: float, distance_au: float) -> None:
    assert sun.sun_position_km(unix).norm() / sun.AU_KM == pytest.approx(distance_au, abs=1e-4)


_SUN = Vector(sun.AU_KM, 0.0, 0.0)
_R = EARTH_RADIUS_KM + 525


def _light_at(angle_deg: float, radius: float = _R) -> float:
    """Sunlight at an angle from the point of midnight."""
    angle = math.radians(angle_deg)
    return sun.sunlight_fraction(
        Vector(-radius * math.cos(angle), radius * math.sin(angle), 0.0), _SUN
    )


def test_noon_is_bright_and_midnight_is_dark() -> None:
    assert _light_at(180.0) == 1.0
    assert _light_at(90.0) == 1.0
    assert _light_at(0.0) == 0.0


def test_penumbra_is_continuous_and_half_lit_at_the_edge_of_the_earth() -> None:
    edge = math.degrees(math.asin(EARTH_RADIUS_KM / _R))
    assert _light_at(edge) == pytest.approx(0.5, abs=0.02)
    steps = [_light_at(edge - 0.6 + 0.01 * i) for i in range(121)]
    assert steps[0] == 0.0
    assert steps[-1] == 1.0
    assert all(a <= b for a, b in itertools.pairwise(steps))
    assert max(b - a for a, b in itertools.pairwise(steps)) < 0.03


def test_penumbra_is_as_wide_as_the_sun() -> None:
    edge = math.degrees(math.asin(EARTH_RADIUS_KM / _R))
    partial = [i for i in range(-1000, 1000) if 0 < _light_at(edge + i * 0.001) < 1]
    width_deg = len(partial) * 0.001
    assert width_deg == pytest.approx(2 * math.degrees(sun.SUN_RADIUS_KM / sun.AU_KM), rel=0.01)


def test_far_behind_the_umbra_the_sun_is_a_ring() -> None:
    light = _light_at(0.0, radius=3.0e6)
    ratio = (EARTH_RADIUS_KM / 3.0e6) / (sun.SUN_RADIUS_KM / (sun.AU_KM + 3.0e6))
    assert light == pytest.approx(1 - ratio**2, rel=0.001)


def test_inside_the_earth_it_is_dark() -> None:
    assert sun.sunlight_fraction(Vector(100.0, 0.0, 0.0), _SUN) == 0.0


@pytest.mark.parametrize(
    ("altitude", "beta", "share"),
    [(500.0, 0.0, 0.3783), (500.0, 90.0, 0.0), (35_786.0, 0.0, 0.0483), (500.0, 70.0, 0.0)],
)
def test_closed_formula_of_the_eclipse(altitude: float, beta: float, share: float) -> None:
    assert sun.eclipse_share(altitude, beta) == pytest.approx(share, abs=5e-4)
