"""Reference frames against published examples, and there and back again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import frames
from sim.frames import Geodetic, Vector

# Vallado et al., "Revisiting Spacetrack Report #3": 2004-04-06 07:51:28.386009 UTC, UT1 - UTC =
# -0.4399619 s. Our frames take UT1 as UTC, so the example is entered in UT1.
_VALLADO_UT1 = 1_081_237_888.386009 - 0.4399619


def test_sidereal_time_matches_meeus_example_12a() -> None:
    assert math.degrees(frames.gmst_rad(545_011_200.0)) == pytest.approx(197.693195, abs=1e-5)


def test_teme_to_earth_fixed_matches_vallado() -> None:
    teme = Vector(5094.18016210, 6127.64465950, 6380.34453270)
    fixed = frames.teme_to_ecef(teme, _VALLADO_UT1)
    assert fixed == pytest.approx((-1033.4750312, 7901.3055856, 6380.3445327), abs=1e-3)


def test_velocity_over_the_ground_matches_vallado() -> None:
    position = Vector(5094.18016210, 6127.64465950, 6380.34453270)
    velocity = Vector(-4.746131487, 0.785818041, 5.531931288)
    fixed = frames.teme_velocity_to_ecef(position, velocity, _VALLADO_UT1)
    assert fixed == pytest.approx((-3.225632747, -2.872442511, 5.531931288), abs=1e-6)


@pytest.mark.parametrize(
    ("place", "ecef"),
    [
        (Geodetic(lat_deg=0.0, lon_deg=0.0), (6378.137, 0.0, 0.0)),
        (Geodetic(lat_deg=0.0, lon_deg=90.0, alt_km=1.0), (0.0, 6379.137, 0.0)),
        (Geodetic(lat_deg=90.0, lon_deg=0.0), (0.0, 0.0, 6356.752314245)),
        (Geodetic(lat_deg=-90.0, lon_deg=0.0, alt_km=500.0), (0.0, 0.0, -6856.752314245)),
    ],
)
def test_landmarks_of_the_ellipsoid(place: Geodetic, ecef: tuple[float, float, float]) -> None:
    assert frames.geodetic_to_ecef(place) == pytest.approx(ecef, abs=1e-6)
    back = frames.ecef_to_geodetic(Vector(*ecef))
    assert back.lat_deg == pytest.approx(place.lat_deg, abs=1e-9)
    assert back.alt_km == pytest.approx(place.alt_km, abs=1e-6)


@given(st.floats(-90, 90), st.floats(-179.999, 179.999), st.floats(-5, 40_000, allow_nan=False))
def test_geodetic_there_and_back(lat: float, lon: float, alt: float) -> None:
    ecef = frames.geodetic_to_ecef(Geodetic(lat_deg=lat, lon_deg=lon, alt_km=alt))
    back = frames.ecef_to_geodetic(ecef)
    assert back.lat_deg == pytest.approx(lat, abs=1e-8)
    assert back.alt_km == pytest.approx(alt, abs=1e-6)
    again = frames.geodetic_to_ecef(back)
    assert again == pytest.approx(ecef, abs=1e-5)


def test_a_point_straight_up_is_at_the_zenith() -> None:
    station = Geodetic(lat_deg=56.17, lon_deg=10.19)
    above = frames.geodetic_to_ecef(Geodetic(lat_deg=56.17, lon_deg=10.19, alt_km=500.0))
    look = frames.look_angles(station, above)
    assert look.elevation_deg == pytest.approx(90.0, abs=1e-4)
    assert look.range_km == pytest.approx(500.0, abs=1e-6)


@pytest.mark.parametrize(
    ("lat", "lon", "azimuth"), [(1.0, 0.0, 0.0), (0.0, 1.0, 90.0), (-1.0, 0.0, 180.0)]
)
def test_azimuth_counts_from_north_over_east(lat: float, lon: float, azimuth: float) -> None:
    target = frames.geodetic_to_ecef(Geodetic(lat_deg=lat, lon_deg=lon, alt_km=500.0))
    look = frames.look_angles(Geodetic(lat_deg=0.0, lon_deg=0.0), target)
    assert look.azimuth_deg == pytest.approx(azimuth, abs=1e-6)
