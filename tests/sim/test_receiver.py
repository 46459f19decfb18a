"""The GNSS receiver: when it knows what."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import tle
from sim.errors import ConfigError
from sim.orbit import Orbit
from sim.receiver import Receiver, ReceiverFigures

_SETS = tle.parse((Path(__file__).parents[2] / "configs" / "orbits.tle").read_text("ascii"))
_ORBIT = Orbit(_SETS[0])
_T = _ORBIT.epoch_unix
_FIGURES = ReceiverFigures(cold_start_s=30.0, reacquire_s=3.0, satellites=8)


def test_cold_start_knows_nothing_then_everything() -> None:
    receiver = Receiver(_FIGURES, _T)
    assert receiver.update(_ORBIT.state(_T + 29.9)).place is None
    assert not receiver.knows_time
    assert receiver.age_s(_T + 29.9) is None
    state = _ORBIT.state(_T + 30.0)
    fix = receiver.update(state)
    assert (fix.place, fix.speed_m_s, fix.satellites) == (state.place, state.speed_m_s, 8)
    assert receiver.age_s(_T + 30.5) == pytest.approx(0.5)


def test_an_outage_keeps_the_last_place_and_its_age_and_ends_after_reacquisition() -> None:
    receiver = Receiver(_FIGURES, _T - 100.0)
    last = _ORBIT.state(_T)
    receiver.update(last)
    receiver.block(True, _T + 1.0)
    assert receiver.update(_ORBIT.state(_T + 10.0)).place is None
    assert receiver.last == last
    assert receiver.age_s(_T + 10.0) == pytest.approx(10.0)
    receiver.block(False, _T + 10.0)
    assert receiver.update(_ORBIT.state(_T + 12.9)).place is None
    assert receiver.update(_ORBIT.state(_T + 13.0)).place is not None


def test_an_outage_during_the_search_does_not_shorten_it() -> None:
    receiver = Receiver(_FIGURES, _T)
    receiver.block(True, _T + 1.0)
    receiver.block(False, _T + 2.0)
    assert receiver.update(_ORBIT.state(_T + 29.0)).place is None


def test_reset_forgets_time_and_place() -> None:
    receiver = Receiver(_FIGURES, _T - 100.0)
    receiver.update(_ORBIT.state(_T))
    receiver.reset(_T)
    assert not receiver.knows_time
    assert not receiver.has_fix
    assert receiver.update(_ORBIT.state(_T + 29.0)).place is None


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(ConfigError):
        ReceiverFigures(cold_start_s=-1.0)
    with pytest.raises(ConfigError):
        ReceiverFigures(satellites=3)
