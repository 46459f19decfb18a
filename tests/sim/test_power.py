"""The battery conserves energy, whatever happens; the panels see the Sun they should."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import power, tle
from sim.errors import ConfigError
from sim.frames import Vector
from sim.orbit import Orbit
from sim.power import Battery, BatteryFigures, Channel, Panel

_SETS = tle.parse((Path(__file__).parents[2] / "configs" / "orbits.tle").read_text("ascii"))
_ORBIT = Orbit(tle.select(_SETS, "DISCO-2-LIKE"))
_FIGURES = BatteryFigures(capacity_wh=40.0, charge_efficiency=0.9, discharge_efficiency=0.8)


def test_charging_loses_its_share() -> None:
    battery = Battery(_FIGURES, stored_wh=10.0)
    flow = battery.step(3600.0, solar_w=15.0, load_w=5.0)
    assert battery.stored_wh == pytest.approx(19.0)
    assert flow.battery_w == pytest.approx(9.0)
    assert battery.tally.lost_wh == pytest.approx(1.0)


def test_discharging_loses_its_share() -> None:
    battery = Battery(_FIGURES, stored_wh=30.0)
    battery.step(3600.0, solar_w=2.0, load_w=10.0)
    assert battery.stored_wh == pytest.approx(20.0)
    assert battery.tally.served_wh == pytest.approx(10.0)
    assert battery.tally.lost_wh == pytest.approx(2.0)


def test_a_full_battery_shunts_and_an_empty_one_starves_the_loads() -> None:
    full = Battery(_FIGURES, stored_wh=40.0)
    flow = full.step(3600.0, solar_w=20.0, load_w=5.0)
    assert (full.stored_wh, flow.shunted_w) == (40.0, pytest.approx(15.0))
    empty = Battery(_FIGURES, stored_wh=0.0)
    flow = empty.step(3600.0, solar_w=1.0, load_w=5.0)
    assert (empty.stored_wh, flow.unserved_w) == (0.0, pytest.approx(4.0))
    assert empty.tally.served_wh == pytest.approx(1.0)


@given(
    st.floats(0, 40),
    st.lists(st.tuples(st.floats(0, 7200), st.floats(0, 60), st.floats(0, 60)), max_size=60),
)
def test_energy_is_conserved_in_every_history(
    start: float, history: list[tuple[float, float, float]]
) -> None:
    battery = Battery(_FIGURES, stored_wh=start)
    for duration, solar, load in history:
        flow = battery.step(duration, solar, load)
        assert 0.0 <= battery.stored_wh <= 40.0 + 1e-9
        assert min(flow.shunted_w, flow.unserved_w) >= -1e-9
    tally = battery.tally
    assert tally.imbalance_wh == pytest.approx(0.0, abs=1e-6)
    assert battery.stored_wh - start == pytest.approx(tally.stored_gain_wh, abs=1e-6)
    assert tally.lost_wh >= -1e-9


def test_one_long_step_is_many_short_ones() -> None:
    one, many = Battery(_FIGURES, stored_wh=20.0), Battery(_FIGURES, stored_wh=20.0)
    one.step(1000.0, 8.0, 3.0)
    for _ in range(1000):
        many.step(1.0, 8.0, 3.0)
    assert many.stored_wh == pytest.approx(one.stored_wh)


def test_voltage_rises_with_charge_and_sags_under_load() -> None:
    volts = [Battery(_FIGURES, stored_wh=w).volts for w in range(0, 41, 5)]
    assert volts == sorted(volts)
    assert (volts[0], volts[-1]) == (6.0, pytest.approx(8.4))
    battery = Battery(_FIGURES, stored_wh=20.0)
    idle = battery.volts
    battery.step(1.0, 0.0, 10.0)
    assert idle - 0.15 < battery.volts < idle - 0.05
    assert battery.bus_amps == pytest.approx(10.0 / battery.volts)


@pytest.mark.parametrize(
    ("duration", "solar", "load"),
    [(-1.0, 0.0, 0.0), (1.0, -1.0, 0.0), (1.0, 0.0, math.nan), (math.inf, 0.0, 0.0)],
)
def test_impossible_steps_are_refused(duration: float, solar: float, load: float) -> None:
    with pytest.raises(ConfigError):
        Battery(_FIGURES, stored_wh=1.0).step(duration, solar, load)


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(ConfigError, match="capacity"):
        BatteryFigures(capacity_wh=0.0)
    with pytest.raises(ConfigError, match="charge_efficiency"):
        BatteryFigures(capacity_wh=1.0, charge_efficiency=1.1)
    with pytest.raises(ConfigError, match="resistance"):
        BatteryFigures(capacity_wh=1.0, resistance_ohm=-1.0)
    with pytest.raises(ConfigError, match="volts"):
        BatteryFigures(capacity_wh=1.0, volts=(8.0, 7.0))


def test_orbit_frame_points_ahead_and_down() -> None:
    state = _ORBIT.state(_ORBIT.epoch_unix)
    ahead = power.to_orbit_frame(state.velocity_km_s.unit(), state)
    down = power.to_orbit_frame(state.position_km.unit().scaled(-1), state)
    normal = power.to_orbit_frame(state.position_km.cross(state.velocity_km_s).unit(), state)
    assert ahead == pytest.approx((1.0, 0.0, 0.0), abs=0.01)
    assert down == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)
    assert normal == pytest.approx((0.0, -1.0, 0.0), abs=1e-12)


def test_panels_are_dark_in_eclipse_and_never_give_more_than_they_can() -> None:
    zenith = Panel(name="zenith", watts=10.0, normal=Vector(0.0, 0.0, -1.0))
    nadir = Panel(name="nadir", watts=10.0, normal=Vector(0.0, 0.0, 2.0))
    states = [_ORBIT.state(_ORBIT.epoch_unix + 10.0 * i) for i in range(570)]
    for state in states:
        both = power.panel_watts((zenith, nadir), state)
        assert both == pytest.approx(
            power.panel_watts((zenith,), state) + power.panel_watts((nadir,), state)
        )
        assert 0.0 <= both <= 10.4
        if state.sunlight == 0.0:
            assert both == 0.0
    assert max(power.panel_watts((zenith,), s) for s in states) > 8.0


def test_channel_states_and_what_is_wrong_with_them() -> None:
    channel = Channel(
        name="a53",
        watts={"running": 3.0, "suspended": 0.1},
        state="running",
        states=("suspended", "running"),
    )
    assert [channel.state_name(v) for v in (0, 1, 2, -1)] == [
        "suspended",
        "running",
        "running",
        "running",
    ]
    with pytest.raises(ConfigError, match="no power is given for state 'off'"):
        Channel(name="a53", watts={"on": 1.0}, state="off")
    with pytest.raises(ConfigError, match="negative"):
        Channel(name="a53", watts={"on": -1.0}, state="on")
