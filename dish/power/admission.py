"""Decide whether a plan may start: the battery must stay above the reserve. Pure.

Theory of operation: a plan that writes nothing that takes power always may. Otherwise every way it
may go is predicted together with the runs that go on already, and the worst one counts. It may
start if the battery stays above `power_reserve` percent, or does not get lower than without it:
a plan that saves power must not be locked out by an empty battery. What cannot be predicted is
refused with that reason. Everything is said in `power_reason`, `power_forecast_min` and
`power_forecast_at`. With `power_reserve` 0 nothing is predicted and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum

from csp.param.table import Parameter, ParamTable
from dish.errors import DishError
from dish.link import CallGraph
from dish.params import BATTERY_UNKNOWN, clip
from dish.power.figures import PowerFigures, PowerModel
from dish.power.forecast import Forecast, LoadProfile, Situation, predict
from dish.power.unknown import Known
from dish.power.walk import World, takes_power, walk
from dish.profile import Profile

_MIN_HORIZON_S, _MAX_HORIZON_S = 60, 3 * 86400
# Less than a rounding error of the model is no reason to refuse.
_NOTHING_PERCENT = 0.01


class Policy(IntEnum):
    """What happens to a plan that would take too much (`power_policy`)."""

    REFUSE = 0
    DEFER = 1


class PowerShort(DishError):
    """A plan that the battery has nothing left for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a plan may start. `reason` says why not; `profile` is what it will do if it may."""

    is_admitted: bool
    reason: str = ""
    profile: LoadProfile = field(default_factory=LoadProfile)


class Admission:
    """The power side of a node. `model` None: nothing can be predicted, and nothing is refused."""

    def __init__(
        self,
        table: ParamTable,
        model: PowerModel | None,
        profile: Profile,
        *,
        own_nodes: Callable[[], frozenset[int]],
    ) -> None:
        self._table = table
        self._model = model
        self._profile = profile
        self._own_nodes = own_nodes
        self._running: dict[int, LoadProfile] = {}
        table.on_write("power_reserve", self._on_reserve)

    @property
    def is_on(self) -> bool:
        """Whether plans are checked at all."""
        return self._model is not None and self._number("power_reserve") > 0

    @property
    def policy(self) -> Policy:
        """What to do with a plan that takes too much."""
        return Policy.DEFER if self._number("power_policy") == Policy.DEFER else Policy.REFUSE

    def begin(self, run_id: int, profile: LoadProfile) -> None:
        """Count a run from now on."""
        self._running[run_id] = profile

    def end(self, run_id: int) -> None:
        """Forget a run: what it left on is seen by itself. Harmless for an unknown one."""
        self._running.pop(run_id, None)

    def judge(self, graph: CallGraph) -> Verdict:
        """Say whether a plan may start now, and publish the forecast."""
        if self._model is None or not self.is_on or graph.root in graph.natives:
            return Verdict(is_admitted=True)
        try:
            return self._judge(graph, self._model)
        except DishError as error:
            return self._refuse(f"no forecast: {error}")

    def _judge(self, graph: CallGraph, model: PowerModel) -> Verdict:
        world = self._world(model)
        if not takes_power(graph, world):
            return Verdict(is_admitted=True)
        if world.now.unix == 0:
            return self._refuse("no forecast: gnss_unix is not known")
        if world.now.charge < 0:
            return self._refuse("no forecast: battery_percent is not known (see eps_node)")
        others, horizon_s = list(self._running.values()), world.horizon_s
        without = predict(model, world.now, others, horizon_s)
        forecasts = [
            (predict(model, world.now, [*others, profile], horizon_s), profile)
            for profile in walk(graph, world)
        ]
        worst, profile = min(forecasts, key=lambda each: each[0].min_percent)
        self._table["power_forecast_min"].set(worst.min_percent)
        self._table["power_forecast_at"].set(int(worst.at_unix) & 0xFFFF_FFFF)
        return self._verdict(worst, without, profile)

    def _verdict(self, worst: Forecast, without: Forecast, profile: LoadProfile) -> Verdict:
        reserve = self._number("power_reserve")
        is_enough = worst.min_percent >= reserve
        if is_enough or worst.min_percent >= without.min_percent - _NOTHING_PERCENT:
            text = f"admitted: at least {worst.min_percent:.1f} %"
            self._say(text if is_enough else f"{text}, no lower than without it")
            return Verdict(is_admitted=True, profile=profile)
        at = datetime.fromtimestamp(worst.at_unix, UTC).strftime("%m-%d %H:%M:%S")
        return self._refuse(
            f"battery {worst.min_percent:.1f} % at {at}, reserve {reserve:g} %"
            f" ({without.min_percent:.1f} % without)"
        )

    def _refuse(self, reason: str) -> Verdict:
        self._say(reason)
        return Verdict(is_admitted=False, reason=reason)

    def _world(self, model: PowerModel) -> World:
        charge = self._number("battery_percent")
        now = Situation(
            unix=self._number("gnss_unix"),
            charge=-1.0 if charge == BATTERY_UNKNOWN else charge / 100,
            on=self._on(model.figures),
        )
        return World(
            model=model,
            now=now,
            own=model.figures.own,
            own_nodes=self._own_nodes(),
            spec=lambda name: self._table[name].spec if name in self._table else None,
            read=self._read,
            horizon_s=min(max(self._number("power_horizon_s"), _MIN_HORIZON_S), _MAX_HORIZON_S),
            wait_s=self._number("power_wait_s"),
            block_timeout_s=self._profile.block_timeout_s,
            max_depth=self._profile.max_depth,
        )

    def _on(self, figures: PowerFigures) -> frozenset[str]:
        """Return the loads that are on, as far as the own table mirrors their states."""
        on: set[str] = set()
        for load in figures.loads:
            mirrored = [
                self._number(place.parameter)
                for place in load.status
                if place.node == figures.own and place.parameter in self._table
            ]
            if any(mirrored) if mirrored else load.is_on:
                on.add(load.name)
        return frozenset(on)

    def _read(self, name: str, index: int) -> Known:
        if name not in self._table:
            return None
        parameter = self._table[name]
        if parameter.is_readonly or index >= parameter.elements:
            # A measurement: it will be something else by the time the plan looks.
            return None
        value = parameter.get(index)
        return value if isinstance(value, (int, float)) else None

    def _number(self, name: str) -> float:
        value = self._table[name].get()
        return value if isinstance(value, (int, float)) else 0.0

    def _on_reserve(self, parameter: Parameter, _index: int) -> None:
        if self._model is None and parameter.get():
            parameter.set(0)
            self._say("this node has no power model: dish serve --power")
        elif not parameter.get():
            self._say("off")

    def _say(self, reason: str) -> None:
        self._table["power_reason"].set(clip(reason))
