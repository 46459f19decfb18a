"""Rehearse a plan: compile it, make the spacecraft, fly. The front door of the package. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dish.plan.compile import Options, compile_plan
from sim.errors import ConfigError
from sim.figures import PayloadConfig
from sim.rehearsal.craft import Craft
from sim.rehearsal.faults import Fault, Faults
from sim.rehearsal.flight import Flight
from sim.rehearsal.record import Record
from sim.tle import ElementSet

# Beyond this the pass search refuses, and elements are too old to mean much.
MAX_HOURS = 24 * 60


def rehearse(
    text: str,
    config: PayloadConfig,
    *,
    name: str = "plan",
    start_unix: float | None = None,
    hours: float = 24.0,
    faults: Sequence[Fault] = (),
    seed: int = 1,
    elements: ElementSet | None = None,
) -> Record:
    """Fly a plan and return what happened. Raises PlanError, SimError.

    The same arguments give the same record.
    """
    if not 0 < hours <= MAX_HOURS:
        raise ConfigError(f"a rehearsal takes up to {MAX_HOURS} hours, not {hours:g}")
    mission = config.mission
    mission = replace(
        mission,
        epoch_unix=mission.epoch_unix if start_unix is None else start_unix,
        elements=mission.elements if elements is None else elements,
        rate=1.0,
    )
    config = replace(config, mission=mission)
    compiled = compile_plan(text, Options(own_node=config.nodes.dish))
    craft = Craft(config, faults=Faults(faults), hours=hours, seed=seed)
    record = Record(
        plan=name,
        satellite=mission.elements.name,
        start_unix=mission.epoch_unix,
        hours=hours,
        seed=seed,
        faults=tuple(f"{each.kind}@{each.start_h:g}..{each.stop_h:g}" for each in faults),
    )
    return Flight(compiled, craft, record, text).run()
