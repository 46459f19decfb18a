"""Power-aware admission in virtual time: what a plan takes, what is left, who may start."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from csp.param.table import ParamTable
from dish.asm import assemble_one
from dish.effects import Settings
from dish.errors import DishError, MisuseError, Ret
from dish.heap import Heap
from dish.link import link
from dish.outcome import Outcome
from dish.params import NO_SLOT, SPECS
from dish.power.admission import Admission
from dish.power.figures import Action, BatteryModel, Load, Place, PowerFigures, Rule, Sky
from dish.power.forecast import Event, LoadProfile, Situation, predict, step_of
from dish.power.plugin import load_model, options_of
from dish.power.walk import MAX_STEPS, World, takes_power, walk
from dish.profile import PROFILES
from dish.records import RunCounters
from dish.service import ProcedureService
from dish.status import Verb, decode_status
from dish.store import Store
from sim.power import Battery, BatteryFigures

DISH, EPS, GNSS, A53, DIPP, CAMERA = 4, 8, 9, 161, 162, 163
DAWN = 1_744_416_000.0  # a multiple of the orbit, which begins with the day
ORBIT_S, DAY_S = 6000.0, 3600.0
START = DAWN + DAY_S  # the Sun sets
WATTS = {"bus": 2.0, "a53": 3.0}


class Spacecraft:
    """An orbit of 100 minutes with 40 in the shadow, flying north at one degree per minute."""

    def __init__(self, capacity_wh=10.0, rate=1.0, joules=36.0):
        run, image = Place(DIPP, "pipeline_run"), Place(CAMERA, "capture_image")
        status = (Place(DISH, "a53_status"), Place(A53, "a53_status"))
        a53 = Load(name="a53", on_w=3.0, off_w=0.1, delay_s=5.0, status=status, is_on=False)
        self.figures = PowerFigures(
            own=DISH,
            battery=BatteryModel(capacity_wh=capacity_wh, charge_efficiency=0.9),
            loads=(Load(name="bus", on_w=2.0), a53),
            rules=(
                Rule(place=Place(DISH, "wake_a53"), action=Action.ON, load="a53"),
                Rule(place=Place(A53, "suspend_a53"), action=Action.OFF, load="a53"),
                Rule(place=Place(EPS, "switch_bus"), action=Action.SWITCH, load="bus"),
                Rule(place=image, action=Action.PULSE, joules=joules,
                     count_of=Place(CAMERA, "num_images")),
                Rule(place=Place(CAMERA, "capture_param"), action=Action.PULSE, joules=joules,
                     count_key="NUM_IMAGES"),
                Rule(place=run, action=Action.PULSE, joules=joules, busy_s=30.0),
            ),
            clock=frozenset({Place(DISH, "gnss_unix"), Place(GNSS, "gnss_unix")}),
            position={Place(DISH, "gnss_lat"): "lat_deg"},
            rate=rate,
        )  # fmt: skip

    def sky(self, unix):
        phase = (unix - DAWN) % ORBIT_S
        return Sky(6.0 if phase < DAY_S else 0.0, lat_deg=-50.0 + phase / 60.0)


def table_with(**values):
    table = ParamTable(SPECS)
    table["gnss_unix"].set(int(START))
    table["battery_percent"].set(80.0)
    for name, value in values.items():
        table[name].set(value)
    return table


def world_of(table, craft=None, horizon_s=6000, wait_s=600, on=()):
    craft = craft or Spacecraft()
    reader = Admission(table, craft, PROFILES["m7"], own_nodes=lambda: frozenset({DISH}))
    return World(
        model=craft, now=Situation(unix=START, charge=0.8, on=frozenset({"bus", *on})), own=DISH,
        own_nodes=frozenset({DISH}), spec=lambda name: table[name].spec if name in table else None,
        read=reader._read, horizon_s=horizon_s, wait_s=wait_s, block_timeout_s=5000.0,
    )  # fmt: skip


def graph_of(texts):
    texts = {30: texts} if isinstance(texts, str) else texts
    return link(30, {slot: assemble_one(text) for slot, text in texts.items()}.get)


def ways(texts, table=None, **options):
    """Return each way's events as (seconds from the start, what)."""
    profiles = walk(graph_of(texts), world_of(table or table_with(), **options))
    return [[(event.at_unix - START, what(event)) for event in each.events] for each in profiles]


def what(event):
    if event.load:
        return f"{event.load} {'on' if event.is_on else 'off'}"
    return event.joules or f"{event.drain_w:.3f} W"


# -- the battery


@pytest.mark.parametrize("seed", range(20))
def test_the_balance_is_that_of_the_eps(seed):
    dice = random.Random(seed)
    craft = Spacecraft(capacity_wh=dice.uniform(2, 20))
    figures = BatteryFigures(
        capacity_wh=craft.figures.battery.capacity_wh, charge_efficiency=0.9,
        discharge_efficiency=1.0,
    )  # fmt: skip
    charge = dice.random()
    battery = Battery(figures, charge * figures.capacity_wh)
    lowest = battery.charge
    step, watts = step_of(ORBIT_S * 2), dice.uniform(0, 8)
    for number in range(int(ORBIT_S * 2 / step)):
        at = START + (number + 0.5) * step
        battery.step(step, craft.sky(at).solar_w, 2.1 + watts)
        lowest = min(lowest, battery.charge)
    now = Situation(unix=START, charge=charge, on=frozenset({"bus"}))
    drain = LoadProfile(events=(Event(at_unix=START, drain_w=watts),))
    forecast = predict(craft, now, [drain], ORBIT_S * 2)
    assert forecast.min_percent == pytest.approx(100 * lowest)
    assert forecast.end_percent == pytest.approx(100 * battery.charge)


def test_energies_worked_out_by_hand():
    craft = Spacecraft(capacity_wh=10.0)
    now = Situation(unix=START, charge=0.8, on=frozenset({"bus"}))
    # 40 minutes of night at 2.1 W take 1.4 Wh of 10.
    assert predict(craft, now, [], 2400).min_percent == pytest.approx(80 - 14)
    # The A53 for a quarter of an hour in between, not aligned to any step, and one picture.
    events = (
        Event(at_unix=START + 333.3, load="a53", is_on=True),
        Event(at_unix=START + 500.0, joules=36.0),
        Event(at_unix=START + 1233.3, load="a53"),
    )
    forecast = predict(craft, now, [LoadProfile(events=events)], 2400)
    assert forecast.min_percent == pytest.approx(80 - 14 - 2.9 * 0.25 * 10 - 0.1)
    assert forecast.at_unix == START + 2400
    # The night is the lowest point even if the day follows.
    whole = predict(craft, now, [], 4200)
    assert whole.at_unix == START + 2400
    assert whole.end_percent == pytest.approx(66 + 0.9 * 3.9 * 0.5 * 10)
    # Neither below empty nor above full.
    assert predict(craft, now, [LoadProfile(events=(Event(at_unix=START, drain_w=99.0),))],
                   ORBIT_S).min_percent == 0.0  # fmt: skip
    full = Situation(unix=START - DAY_S, charge=1.0, on=frozenset({"bus"}))
    assert predict(craft, full, [], DAY_S).end_percent == 100.0


# -- what a plan does


def test_times_come_from_waits_for_the_clock():
    text = f"""set p_uint32[0] {int(START) + 1000}
        set p_uint32[3] 250
        set p_uint8[1] 1
        block gnss_unix >= p_uint32[0]
        set wake_a53 1
        block a53_status == p_uint8[1]
        set capture_image 1 163
        binop gnss_unix + p_uint32[3] p_uint32[2]
        block gnss_unix >= p_uint32[2]
        set suspend_a53 1 161"""
    (way,) = ways(text)
    assert [event for _, event in way] == ["a53 on", 36.0, "a53 off"]
    assert [round(at) for at, _ in way] == [1000, 1005, 1255]


def test_registers_of_the_node_count_as_they_are_now():
    table = table_with()
    table["p_uint32"].set(int(START) + 77, 5)
    assert ways("block gnss_unix > p_uint32[5]\nset wake_a53 1", table) == [[(78.0, "a53 on")]]


def test_a_wait_for_the_place_ends_where_the_orbit_comes_by():
    text = "set p_float[0] 20\nblock gnss_lat >= p_float[0]\nset wake_a53 1"
    ((at, _),) = ways(text)[0]
    # From 10 degrees at one per minute, found to one step of the sky.
    assert 600 <= at <= 600 + step_of(6000)


def test_loops_run_until_the_horizon_and_pipelines_take_their_time():
    loop = {
        30: "set p_uint8[0] 0\nset wake_a53 1\ncall 31",
        31: "set pipeline_run 3 162\ncall 32",
        32: "unop pipeline_run idt p_uint8[2] 162\nifelse p_uint8[2] == p_uint8[0]\ncall 31\n"
        "call 33",
        33: "set p_uint32[3] 10\nbinop gnss_unix + p_uint32[3] p_uint32[2]\n"
        "block gnss_unix >= p_uint32[2]\ncall 32",
    }
    (way,) = ways(loop, horizon_s=600)
    pulses = [at for at, event in way if event == 36.0]
    gaps = [round(b - a) for a, b in pairwise(pulses)]
    assert gaps
    assert set(gaps) <= {30, 31, 40}


def test_conditions_nobody_knows_go_both_ways():
    text = "ifelse temperature > limit 77\nset wake_a53 1\nset capture_image 1 163"
    assert [[event for _, event in way] for way in ways(text)] == [["a53 on"], [36.0]]
    # Waits: no time while nothing is on, `power_wait_s` while something is.
    (way,) = ways("block temperature > limit 77\nset wake_a53 1\n"
                  "block temperature > limit 77\nset suspend_a53 1 161")  # fmt: skip
    assert [round(at) for at, _ in way] == [0, 600]
    # A loop that looks for something turns the other way after that time.
    polling = {
        30: "set wake_a53 1\ncall 31",
        31: "ifelse ring_count > limit 77\ncall 33\ncall 32",
        32: "set p_uint32[3] 10\nbinop gnss_unix + p_uint32[3] p_uint32[2]\n"
        "block gnss_unix >= p_uint32[2]\ncall 31",
        33: "set suspend_a53 1 161",
    }
    offs = [round(way[1][0]) for way in ways(polling)]
    assert min(offs) < 1
    assert 600 <= max(offs) <= 625


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("set num_images 5 163\nset capture_image 1 163", [180.0]),
        ("set capture_param CAMERA_TYPE=VMB;NUM_IMAGES=3 163", [108.0]),
        ("set capture_param NUM_IMAGES=lots 163", [36.0]),
        ("set capture_image 0 163", []),
        ("set suspend_a53 1 161", []),
        ("set wake_a53 1\nset wake_a53 1 4\nset wake_a53 1 0", ["a53 on"]),
        ("set switch_bus 0 8\nset switch_bus 1 8", ["bus off", "bus on"]),
        ("set p_uint32[0] x\nset wake_a53 1", []),
        ("set p_uint8[0] 0\nbinop p_uint8[1] / p_uint8[0] p_uint8[2]\nset wake_a53 1", []),
        ("set p_uint32[0] 4000000000\nblock gnss_unix > p_uint32[0]\nset wake_a53 1", []),
        ("set a[ 1\nset wake_a53 1", []),
        ("set p_uint8 1\nunop p_uint8[3] rmt switch_bus 8\nunop p_uint8 idt wake_a53", ["a53 on"]),
        ("unop unknown rmt switch_bus 8", []),
    ],
)
def test_what_writes_cause(text, events):
    assert [event for _, event in ways(text)[0]] == events


def test_a_plan_without_end_is_bounded_and_goes_on_as_before():
    import time

    texts = {30: "set capture_image 1 163\ncall 30"}
    began = time.process_time()
    (way,) = ways(texts, horizon_s=86_400)
    assert time.process_time() - began < 2.0
    assert len(way) <= MAX_STEPS
    assert way[-1][1].endswith(" W")
    # 36 J in every remote write of 20 ms.
    assert float(way[-1][1][:-2]) == pytest.approx(1800, rel=0.01)
    assert ways("unop p_uint32[0] ++ p_uint32[0]\ncall 30") == [[]]
    deep = {30: "call 31\nset wake_a53 1", 31: "call 30\nset capture_image 1 163"}
    assert ways(deep) == [[]]
    many = "\n".join(f"ifelse a{n} > b{n} 77\nset wake_a53 1" for n in range(12))
    assert len(ways(many)) == 16


def test_plans_without_power_are_told_at_a_glance():
    world = world_of(table_with())
    assert not takes_power(graph_of("set p_uint8[0] 1\nset wake_a53 1 77"), world)
    assert takes_power(graph_of({30: "call 31", 31: "set wake_a53 1"}), world)


# -- who may start


class Machine:
    """A supervisor that only remembers, and a mission clock that is moved by hand."""

    def __init__(self, craft=None, **values):
        self.counters, self.started, self.room = RunCounters(), [], 16
        self.now = 0.0
        self.table = table_with(power_reserve=50, power_horizon_s=6000, **values)
        profile = PROFILES["default"]
        power = Admission(
            self.table, craft, profile, own_nodes=lambda: frozenset({DISH})
        )  # fmt: skip
        self.service = ProcedureService(
            self.table, Store(profile), Heap(profile), own_nodes=lambda: frozenset({DISH}),
            power=power, clock=lambda: self.now,
        )  # fmt: skip
        self.service.runs = self

    def __len__(self):
        return len(self.started)

    def views(self):
        return []

    def start(self, request):
        if len(self.started) >= self.room:
            raise DishError("no room")
        assert isinstance(request.settings, Settings)
        self.started.append(request.graph.root)
        return len(self.started)

    def command(self, command, root=None):
        return 0

    def push(self, slot, text):
        self.service.store.push(slot, assemble_one(text))

    def run(self, slot):
        answer = self.service.answer(bytes((0x88, slot)), has_crc=True)
        return answer == [b"\x89"]

    def wait(self, seconds, percent):
        """Let time pass, with what the EPS says then."""
        self.now += seconds
        self.table["gnss_unix"].set(int(self.table["gnss_unix"].get() + seconds))
        self.table["battery_percent"].set(percent)
        self.service.retry_deferred()

    def get(self, name, index=0):
        return self.table[name].get(index)


LONG = "set wake_a53 1"  # and never suspends it
SHORT = f"""set wake_a53 1
set p_uint32[0] {int(START) + 120}
block gnss_unix >= p_uint32[0]
set suspend_a53 1 161"""


def test_off_nothing_is_looked_at():
    here = Machine(Spacecraft(), battery_percent=1.0)
    here.service.table["power_reserve"].set(0)
    here.push(30, LONG)
    assert here.run(30)
    assert (here.get("power_forecast_min"), here.get("power_reason")) == (0.0, "off")


def test_a_plan_that_would_go_below_the_reserve_is_refused_with_a_reason():
    here = Machine(Spacecraft())
    here.push(30, LONG)
    here.push(31, SHORT)
    # The night takes 14 %, the A53 for its 40 minutes 19.3 % more: 46.7 < 50.
    assert not here.run(30)
    assert here.get("power_forecast_min") == pytest.approx(46.67, abs=0.01)
    assert here.get("power_forecast_at") == START + 2400
    reason = "battery 46.7 % at 04-12 00:40:00, reserve 50 % (66.0 % without)"
    reason = reason.replace("04-12 00:40:00", here.get("power_reason")[18:32])
    assert here.get("power_reason") == here.get("proc_refusal") == reason
    assert (here.get("power_refused"), here.started) == (1, [])
    # Two minutes of it are 1 %.
    assert here.run(31)
    assert here.get("power_reason") == "admitted: at least 65.0 %"
    # By day the same long plan is no problem.
    here.table["gnss_unix"].set(int(DAWN))
    here.table["power_horizon_s"].set(3000)
    assert here.run(30)
    assert here.started == [31, 30]


def test_runs_that_go_on_already_count():
    here = Machine(Spacecraft())
    for slot in (30, 31):
        here.push(slot, "set p_uint8[0] 6\nset num_images 6 163\nset capture_image 1 163\n"
                  f"set p_uint32[{slot}] 9\nset num_images 250 163")  # fmt: skip
    here.table["battery_percent"].set(64.7)
    # 216 J are 0.6 %: once is fine above 50.7 - 0.6, twice is not.
    assert here.run(30)
    assert not here.run(31)
    here.service.ended(Outcome(run_id=1, root=30, ret=Ret.OK, slot=30, index=0, executed=1))
    assert here.run(31)


def test_what_saves_power_may_always_start():
    here = Machine(Spacecraft(), battery_percent=20.0, a53_status=1)
    here.push(30, "set suspend_a53 1 161")
    here.push(31, "set p_uint8[0] 1")
    here.push(32, "set capture_image 1 163")
    assert here.run(30)
    assert "no lower than without" in here.get("power_reason")
    assert here.run(31)
    assert not here.run(32)


@pytest.mark.parametrize(
    ("values", "part"),
    [({"gnss_unix": 0}, "gnss_unix"), ({"battery_percent": -1.0}, "battery_percent")],
)
def test_what_cannot_be_predicted_is_refused(values, part):
    here = Machine(Spacecraft(), **values)
    here.push(30, LONG)
    here.push(31, "set p_uint8[0] 1")
    assert not here.run(30)
    assert part in here.get("proc_refusal")
    assert here.run(31)


def test_a_sky_that_fails_is_a_reason():
    craft = Spacecraft()

    def fail(unix):
        raise MisuseError("the satellite decayed")

    craft.sky = fail
    here = Machine(craft)
    here.push(30, LONG)
    assert not here.run(30)
    assert here.get("proc_refusal") == "no forecast: the satellite decayed"


def test_without_a_model_the_reserve_cannot_be_set():
    here = Machine(None)
    here.table["power_reserve"].write(40)
    assert here.get("power_reserve") == 0
    assert "--power" in here.get("power_reason")
    here.push(30, LONG)
    assert here.run(30)


def test_a_deferred_plan_starts_when_the_battery_can_carry_it():
    here = Machine(Spacecraft(), power_policy=1)
    here.push(30, LONG)
    assert here.run(30)
    assert here.started == []
    assert (here.get("power_deferred"), here.get("power_deferred_slot")) == (1, 30)
    here.wait(60, 79.6)
    status = decode_status(here.service.control(Verb.STATUS, None))
    assert [(run.root, run.state, run.age_s) for run in status.runs] == [(30, 6, 60)]
    # What is stored later does not matter to it.
    here.service.store.delete(30)
    here.wait(2340, 80.0)
    assert here.started == [30]
    assert (here.get("power_deferred"), here.get("power_deferred_slot")) == (0, NO_SLOT)
    assert here.get("power_reason").startswith("admitted")


@pytest.mark.parametrize("how", ["parameter", "request", "all"])
def test_a_deferred_plan_can_be_cancelled(how):
    here = Machine(Spacecraft(), power_policy=1)
    here.push(30, LONG)
    here.push(31, "set capture_image 1 163\nset wake_a53 1")
    assert here.run(30)
    assert here.run(31)
    if how == "parameter":
        here.table["proc_stop"].write(30)
    elif how == "request":
        assert here.service.control(Verb.PAUSE, 30) == b"\0"
        assert here.service.control(Verb.STOP, 30) == b"\1"
    else:
        assert here.service.control(Verb.STOP, None) == b"\2"
    assert here.get("power_deferred") == (0 if how == "all" else 1)
    assert here.get("proc_last_ret") == Ret.STOPPED
    assert "deferred" in here.get("proc_last_error")
    here.wait(2400, 80.0)
    assert here.started == ([] if how == "all" else [31])


def test_as_many_may_wait_as_may_run_and_the_oldest_comes_first():
    here = Machine(Spacecraft(), power_policy=1)
    for slot in range(17):
        here.push(slot, LONG)
    assert [here.run(slot) for slot in range(17)] == [True] * 16 + [False]
    assert "16 are running or deferred" in here.get("proc_refusal")
    here.room = 1
    here.wait(2400, 90.0)
    assert here.started == [0]
    assert here.get("power_deferred") == 15
    assert len(decode_status(here.service.control(Verb.STATUS, None)).runs) == 15


def test_finding_a_model_by_name():
    assert options_of(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for word in ("nowhere:model", "dish.power.plugin:absent", "dish.power.plugin", ":", ""):
        with pytest.raises(MisuseError):
            load_model(word, {})
    with pytest.raises(MisuseError):
        options_of(["novalue"])
