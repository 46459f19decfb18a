"""Passes over Aarhus: geometry, completeness, cut at the ends of the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import tle
from sim.errors import ConfigError
from sim.frames import Geodetic
from sim.orbit import Orbit
from sim.passes import Station, find_passes

_SETS = tle.parse((Path(__file__).parents[2] / "configs" / "orbits.tle").read_text("ascii"))
_ORBIT = Orbit(tle.select(_SETS, "DISCO-2-LIKE"))
_PLACE = Geodetic(lat_deg=56.17, lon_deg=10.19, alt_km=0.05)
_AARHUS = Station(name="Aarhus", place=_PLACE, mask_deg=5.0)
_START = 1_744_407_764.0


def _elevation(unix: float) -> float:
    return _ORBIT.look(_PLACE, unix).elevation_deg


def test_rise_and_set_are_on_the_mask_and_the_top_is_the_highest() -> None:
    passes = find_passes(_ORBIT, _AARHUS, _START, _START + 85000.0)
    assert 5 <= len(passes) <= 9
    for one in passes:
        assert _elevation(one.rise_unix) == pytest.approx(5.0, abs=0.01)
        assert _elevation(one.set_unix) == pytest.approx(5.0, abs=0.01)
        assert one.rise_unix < one.top_unix < one.set_unix
        assert one.top_elevation_deg == pytest.approx(_elevation(one.top_unix))
        assert one.top_elevation_deg > max(
            _elevation(one.top_unix - 3.0), _elevation(one.top_unix + 3.0)
        )
        assert one.duration_s < 620.0


def test_first_pass_after_listing_1_comes_in_twelve_minutes() -> None:
    first = find_passes(_ORBIT, _AARHUS, _START, _START + 7200.0)[0]
    assert first.rise_unix - _START == pytest.approx(704.0, abs=10.0)
    assert first.top_elevation_deg == pytest.approx(50.0, abs=1.0)


@pytest.mark.parametrize("mask_deg", [0.0, 5.0, 10.0, 30.0])
def test_nothing_is_missed_or_invented(mask_deg: float) -> None:
    station = Station(name="Aarhus", place=_PLACE, mask_deg=mask_deg)
    found = find_passes(_ORBIT, station, _START, _START + 43200.0)
    above = [t for t in (_START + 5.0 * i for i in range(8640)) if _elevation(t) > mask_deg]
    assert all(any(p.rise_unix <= t <= p.set_unix for p in found) for t in above)
    assert sum(p.duration_s for p in found) == pytest.approx(5.0 * len(above), abs=5.0 * len(found))


def test_a_pass_that_barely_clears_the_mask_is_found() -> None:
    top = find_passes(_ORBIT, _AARHUS, _START, _START + 7200.0)[0].top_elevation_deg
    grazing = Station(name="Aarhus", place=_PLACE, mask_deg=top - 0.001)
    (one,) = find_passes(_ORBIT, grazing, _START, _START + 3600.0)
    assert 0 < one.duration_s < 10.0


def test_search_inside_a_pass_is_cut_at_its_ends() -> None:
    whole = find_passes(_ORBIT, _AARHUS, _START, _START + 7200.0)[0]
    start, stop = whole.rise_unix + 60.0, whole.set_unix - 60.0
    (part,) = find_passes(_ORBIT, _AARHUS, start, stop)
    assert (part.rise_unix, part.set_unix) == (start, stop)


def test_a_station_the_orbit_never_sees_has_no_pass() -> None:
    iss = Orbit(tle.select(_SETS, "ISS-LIKE"))
    pole = Station(name="pole", place=Geodetic(lat_deg=90.0, lon_deg=0.0), mask_deg=5.0)
    assert find_passes(iss, pole, _START, _START + 86400.0) == ()


def test_an_endless_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="69 days"):
        find_passes(_ORBIT, _AARHUS, _START, _START + 100 * 86400.0)
