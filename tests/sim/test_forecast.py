"""The power model of the emulated spacecraft, and admission by it over the real nodes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from csp.errors import Refused
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.testing import Network
from dish.asm import assemble_one
from dish.client import ProcClient
from dish.errors import MisuseError
from dish.node import DishConfig, DishNode, prepare
from dish.power.figures import Action, Place, PowerModel
from dish.power.forecast import Situation, predict, step_of
from sim import config, forecast
from sim.a53 import A53Node
from sim.eps import Eps, EpsNode
from sim.gnss import GnssNode

DISH, GROUND = 4, 20


def test_the_shipped_payload_as_a_model() -> None:
    model: PowerModel = forecast.model({"rate": "60"})
    figures = model.figures
    assert (figures.own, figures.rate, figures.battery.capacity_wh) == (4, 60.0, 42.0)
    a53 = next(load for load in figures.loads if load.name == "a53")
    assert (a53.on_w, a53.off_w, a53.delay_s) == (3.2, 0.12, 48.0)
    actions = {rule.place: rule.action for rule in figures.rules}
    assert actions[Place(4, "wake_a53")] is Action.ON
    assert actions[Place(161, "suspend_a53")] is Action.OFF
    assert actions[Place(163, "capture_image")] is Action.PULSE
    assert actions[Place(162, "pipeline_run")] is Action.PULSE
    assert actions[Place(8, "switch_gnss")] is Action.SWITCH
    assert Place(8, "switch_bus") not in actions


def test_options_that_are_wrong_have_a_reason(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("mission: {rat: 1}")
    for options, part in (
        ({"speed": "1"}, "config and rate"),
        ({"rate": "fast"}, "power model"),
        ({"rate": "-1"}, "above 0"),
        ({"config": str(bad)}, "mission.rat"),
        ({"config": str(tmp_path / "absent")}, "cannot read"),
    ):
        with pytest.raises(MisuseError, match=part):
            forecast.model(options)
    with pytest.raises(MisuseError, match="ten years"):
        forecast.model({}).sky(9e9)


def test_the_forecast_is_what_the_eps_then_measures() -> None:
    settings = config.load()
    model = forecast.OrbitPower(settings)
    clock = settings.clock(0.0)
    eps = Eps(settings, clock, 0.0)
    start, horizon = settings.mission.epoch_unix, 4 * 3600.0
    names = frozenset(load.name for load in model.figures.loads)
    now = Situation(unix=start, charge=settings.eps.initial_charge, on=names)
    lowest = predict(model, now, [], horizon)
    seen = []
    for number in range(1, int(horizon / step_of(horizon)) + 1):
        eps.update(number * step_of(horizon))
        seen.append(100 * eps.battery.charge)
    assert lowest.min_percent == pytest.approx(min([80.0, *seen]), abs=0.2)
    assert lowest.end_percent == pytest.approx(seen[-1], abs=0.2)


class Mission:
    """DISH, EPS, GNSS and A53 nodes of one payload on one medium, in fast real time."""

    def __init__(self, epoch: float, rate: float) -> None:
        settings = config.load().with_mission(rate=rate, epoch_unix=epoch)
        dish = DishConfig(
            seed=1, gnss=settings.nodes.gnss, a53=settings.nodes.a53, eps=settings.nodes.eps,
            power=forecast.OrbitPower(settings),
        )  # fmt: skip
        prepared = prepare(dish)
        self.loop = Loop()
        network = Network(self.loop.scheduler)
        clock = settings.clock(self.loop.scheduler.now)
        scheduler = self.loop.scheduler
        self.others = [
            EpsNode(scheduler, settings, clock, seed=2),
            GnssNode(scheduler, settings, clock, seed=3),
            A53Node(scheduler, settings, clock, seed=4),
        ]
        for node in self.others:
            node.attach(network.link(node.node.stack.address))
        self.dish = DishNode(self.loop, dish, prepared)
        self.dish.attach(network.link(DISH))
        ground = network.add(GROUND)
        self.proc = ProcClient(ground)
        self.params = RemoteTable(ParamClient(ground))

    def do(self, coro):
        return self.loop.run_until(self.loop.scheduler.spawn(coro), 10.0)

    def get(self, name):
        return self.do(self.params.get(DISH, name))

    def set(self, name, value):
        self.do(self.params.set(DISH, name, value))

    def until(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "not in time"
            self.loop.tick(0.05)

    def close(self):
        self.dish.close()
        for node in self.others:
            node.close()
        self.loop.close()


def _sunset(model: PowerModel, start: float) -> float:
    """Return the next moment at which the light goes."""
    at = start
    while not (model.sky(at).solar_w > 0 and model.sky(at + 10).solar_w == 0):
        at += 10
    return at


@pytest.fixture
def mission():
    shipped = config.load()
    sunset = _sunset(forecast.OrbitPower(shipped), shipped.mission.epoch_unix)
    made = Mission(sunset, rate=500.0)
    yield made
    made.close()


def test_plans_are_refused_and_deferred_by_night_and_start_by_day(mission) -> None:
    here = mission
    here.do(here.proc.push(DISH, 30, assemble_one("set wake_a53 1")))
    here.until(lambda: here.dish.table["battery_percent"].get() > 0)
    here.until(lambda: here.dish.table["gnss_unix"].get() > 0)
    # The A53 sleeps, as before a campaign.
    here.do(here.params.set(161, "suspend_a53", 1))
    here.until(lambda: here.dish.table["a53_status"].get() == 0 and len(here.dish.runs) == 0)
    here.set("power_horizon_s", 1500)
    # Without the plan the rest of the night takes 3 %, with it 5 % more.
    here.set("power_reserve", 76)
    with pytest.raises(Refused):
        here.do(here.proc.run(DISH, 30))
    assert "reserve 76 %" in here.get("proc_refusal")
    assert here.get("power_reason") == here.get("proc_refusal")
    assert here.get("power_forecast_min") < 76
    here.set("power_policy", 1)
    here.do(here.proc.run(DISH, 30))
    status = here.do(here.proc.status(DISH))
    assert [(run.root, run.state) for run in status.runs] == [(30, 6)]
    assert here.get("power_deferred") == 1
    # Half an hour of night is four seconds here.
    here.until(lambda: here.dish.table["proc_completed"].get() == 1)
    assert here.get("power_deferred") == 0
    assert here.get("power_reason").startswith("admitted")
    here.until(lambda: here.dish.table["a53_status"].get() == 1)
