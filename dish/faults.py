"""Rows of group J of the fault catalogue: flight plans that are damaged or hostile. Driver.

Both engines in virtual time for what an instruction does; a whole node with real processes for what
a run does to it. What is killed is in faultkills.py. `dipp faults` finds these rows through the
entry point group `dipp.faults`.
"""

from __future__ import annotations

import contextlib
import time

from csp.errors import CspError, NoResponse, Refused
from csp.faultrow import Case, FaultRow, fault_row, require
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from dish.asm import assemble_one
from dish.effects import Done, Failed, Settings
from dish.errors import DecodeError, DishError, Ret
from dish.faultkills import BUSY, GOES_ON, KILLS, WAITS
from dish.faultsite import DISH, PEER, Site
from dish.program import Procedure, decode, encode
from dish.status import Verb
from dish.testing import World, compiled, graph_of, interpreter
from dish.values import Mode

_ENGINES = {"interpreter": interpreter, "compiled": compiled}
_DAMAGED_RUNS = 300


def _table() -> ParamTable:
    rows = (("a", ParamType.U32, 9), ("b", ParamType.U32, 0), ("c", ParamType.U32, 0),
            ("i", ParamType.I32, -5), ("z", ParamType.I32, 0), ("one", ParamType.U32, 1),
            ("f", ParamType.DOUBLE, 0.0), ("n", ParamType.DOUBLE, float("nan")),
            ("m", ParamType.I64, -(1 << 63)), ("mone", ParamType.I64, -1),
            ("big", ParamType.U32, 64))  # fmt: skip
    table = ParamTable(
        ParamSpec(id=index, name=name, type=kind) for index, (name, kind, _) in enumerate(rows, 1)
    )
    for name, _, value in rows:
        table[name].set(value)
    return table


def _fly(engine: str, texts: dict[int, str], **settings: object) -> tuple[Done | Failed, World]:
    """Run procedures by slot from slot 0, in virtual time."""
    world = World(_table())
    made = _ENGINES[engine](graph_of(texts), world.local, Settings(**settings))  # type: ignore[arg-type]
    return world.fly(made), world


def _arithmetic(case: Case) -> str:
    failing = ("binop a / b c", "binop a % b c", "binop i / z z", "binop i % z z",
               "binop f / f f", "binop a << big c", "binop a >> big c",
               "binop i << mone z")  # fmt: skip
    for engine in _ENGINES:
        for text in failing:
            outcome, _ = _fly(engine, {0: "noop\n" + text})
            require(isinstance(outcome, Failed), f"{engine}: {text!r} did not fail")
            if isinstance(outcome, Failed):
                require((outcome.ret, outcome.index) == (Ret.ERROR, 1), f"{engine}: {outcome}")
        for text in ("binop m / mone m", "binop m % mone m", "ifelse n == n\nset a 1\nset b 1"):
            outcome, _ = _fly(engine, {0: text})
            require(isinstance(outcome, (Done, Failed)), f"{engine}: {text!r}: {outcome}")
        for mode in Mode:
            outcome, _ = _fly(engine, {0: "ifelse n != f\nset a 1"}, mode=mode)
            require(isinstance(outcome, (Done, Failed)), f"{engine}, {mode}: {outcome}")
    site = Site(case)
    ended = site.finish(30, "noop\nbinop p_uint32[0] / p_uint32[1] p_uint32[2]")
    require((ended.ret, ended.index) == (Ret.ERROR, 1), f"in a node: {ended}")
    site.still_works()
    return f"{len(failing)} operations fail at their instruction, in both engines and in a node"


def _damaged_procedures(case: Case) -> str:
    golden = encode(
        assemble_one("set a 5\nbinop a + one c\nifelse a == one\ncall 0\nnoop\nset b 1")
    )
    for size in range(len(golden)):
        with contextlib.suppress(DecodeError):
            decode(golden[:size])
            require(False, f"{size} of {len(golden)} bytes were taken as a procedure")
    flips = case.random.sample(range(8 * len(golden)), min(_DAMAGED_RUNS, 8 * len(golden)))
    ran = refused = 0
    for bit in flips:
        flipped = bytearray(golden)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            graph_text = decode(bytes(flipped))
            _run_damaged(graph_text)
        except (DishError, ValueError):
            refused += 1
        else:
            ran += 1
    site = Site(case)
    for body in (golden[:-1], b"\xff" + golden[1:], bytes([golden[0] + 1]) + golden[1:], b"",
                 b"\x01\x63", case.random.randbytes(60)):  # fmt: skip
        before = site.do(site.proc.slots(DISH))
        _push_raw(site, 30, body)
        require(site.do(site.proc.slots(DISH)) == before, f"{body.hex()} was stored")
    long = Procedure(instructions=assemble_one("noop").instructions * 255)
    with contextlib.suppress(CspError, DishError):
        site.do(site.proc.push(DISH, 31, long))
    site.still_works()
    return f"{len(golden)} truncations and {refused} bit flips refused, {ran} flips ran to an end"


def _run_damaged(procedure: Procedure) -> None:
    """Run what still decodes, in virtual time with a budget. Raises DishError if refused."""
    from dish.link import link

    world = World(_table())
    graph = link(0, {0: procedure}.get, frozenset())
    outcome = world.fly(interpreter(graph, world.local, Settings(budget=5000)))
    require(isinstance(outcome, (Done, Failed)), f"{outcome}")


def _push_raw(site: Site, slot: int, body: bytes) -> None:
    from dish.server import PORT, Type
    from dish.server import request as head

    async def exchange() -> None:
        with site.ground.open(DISH, PORT) as client:
            client.send(head(Type.PUSH, slot) + body)
            with contextlib.suppress(CspError):
                await client.receive(0.3)

    site.do(exchange())


def _endless_calls(case: Case) -> str:
    nested = {0: "unop a -- a\nifelse a > b\ncall 0\nnoop\nset c 1"}
    for engine in _ENGINES:
        world = World(_table())
        world.local["a"].set(5000)
        made = _ENGINES[engine](graph_of(nested), world.local, Settings())
        outcome = world.fly(made)
        require(isinstance(outcome, Failed), f"{engine}: 5000 nested calls ended with {outcome}")
    site = Site(case)
    site.start(30, BUSY)
    site.until(lambda: site.dish.table["p_uint32"].get(0), "the loop runs")
    try:
        site.do(site.proc.push(DISH, 30, assemble_one("set p_uint32[1] 5")))
    except (Refused, NoResponse):
        pass
    else:
        require(False, "a push replaced an occupied slot")
    site.do(site.proc.delete(DISH, 30))
    site.do(site.proc.push(DISH, 30, assemble_one("set p_uint32[1] 5")))
    before = site.dish.table["p_uint32"].get(0)
    site.until(lambda: site.dish.table["p_uint32"].get(0) != before, "the old one goes on")
    require(site.get("p_uint32", 1) == 0, "the running procedure became another one")
    require(site.do(site.proc.control(DISH, Verb.STOP, 30)) == 1, "nothing was stopped")
    site.until(lambda: len(site.dish.runs) == 0, "it stops")
    site.still_works()
    return "5000 nested calls fail; a replaced procedure runs on as it began"


def _bad_neighbour(case: Case) -> str:
    site = Site(case)
    table = site.neighbour(
        ParamSpec(id=1, name="x", type=ParamType.U32, mask=Mask.CONF),
        ParamSpec(id=2, name="text", type=ParamType.STRING, array_size=16, mask=Mask.CONF),
        ParamSpec(id=3, name="fixed", type=ParamType.U32, mask=Mask.READONLY),
    )
    for text in ("set nope 1 9", "set fixed 1 9", "unop p_uint32[0] rmt text 9",
                 "set x 5 8"):  # fmt: skip
        outcome = site.finish(30, "noop\n" + text)
        require((outcome.ret, outcome.index) == (Ret.ERROR, 1), f"{text!r}: {outcome}")
    for channel in site.network.channels.values():
        channel.loss = 0.0
    site.network.channels[PEER].loss = 1.0
    started = time.monotonic()
    silent = site.finish(30, "set x 5 9")
    took_s = time.monotonic() - started
    require(silent.ret == Ret.ERROR, f"a silent node: {silent}")
    require(took_s < 20, f"a silent node held it up for {took_s:.0f} s")
    site.network.channels[PEER].loss = 0.0
    good = site.finish(30, "set x 7 9")
    require((good.ret, table["x"].get()) == (Ret.OK, 7), f"the node came back: {good}")
    site.still_works()
    return (
        f"wrong answers, a missing node, a silent one (after {took_s:.1f} s): failed at its place"
    )


def _endless_loop(case: Case) -> str:
    for engine in _ENGINES:
        outcome, _ = _fly(engine, {0: "noop\ncall 0"}, budget=10_000)
        require(isinstance(outcome, Failed) and outcome.ret is Ret.BUDGET, f"{engine}: {outcome}")
    site = Site(case)
    for slot in (30, 31, 32, 33):
        site.start(slot, f"unop p_uint32[0] ++ p_uint32[0]\ncall {slot}")
    started = time.monotonic()
    for _ in range(5):
        require(site.finish(40, "set p_uint32[1] 1").ret is Ret.OK, "held up by busy loops")
    took_s = time.monotonic() - started
    site.still_works()
    require(site.do(site.proc.control(DISH, Verb.STOP)) == 4, "not all four still ran")
    site.until(lambda: len(site.dish.runs) == 0, "they stop")
    return f"a budget ends it in both engines; beside 4 of them 5 short runs took {took_s:.1f} s"


def _never_true(case: Case) -> str:
    limit_s = case.random.uniform(1, 100)
    for engine in _ENGINES:
        outcome, world = _fly(engine, {0: "noop\nblock a == one"}, block_timeout_s=limit_s)
        require(isinstance(outcome, Failed), f"{engine}: {outcome}")
        if isinstance(outcome, Failed):
            require((outcome.ret, outcome.index) == (Ret.ERROR, 1), f"{engine}: {outcome}")
        require(limit_s <= world.now <= limit_s + 0.26, f"{engine}: ended at {world.now:.2f} s")
    real, wall = time.time, iter(range(10**9))
    site = Site(case)
    time.time = lambda: real() + (3600.0 if next(wall) % 2 else -1e9)
    try:
        site.start(30, WAITS)
        site.set("p_uint8", 1, 0)
        site.until(lambda: len(site.dish.runs) == 1, "it waits")
        site.set("p_uint8", 0, 0)
        site.until(lambda: len(site.dish.runs) == 0, "it goes on")
    finally:
        time.time = real
    return (
        f"times out {limit_s:.1f} s later at its instruction; a jumping wall clock changes nothing"
    )


def _seventeenth(case: Case) -> str:
    site = Site(case)
    site.do(site.proc.push(DISH, 30, assemble_one(WAITS)))
    site.set("p_uint8", 1, 0)
    for _ in range(16):
        site.do(site.proc.run(DISH, 30))
    try:
        site.do(site.proc.run(DISH, 30))
    except Refused:
        pass
    else:
        require(False, "the 17th run was accepted")
    require(site.get("proc_running") == 16, f"{site.get('proc_running')!r} run")
    reason = site.get("proc_refusal")
    site.set("p_uint8", 0, 0)
    site.until(lambda: len(site.dish.runs) == 0, "the 16 end")
    require(site.get("proc_completed") == 16, "not all 16 completed")
    site.still_works()
    return f"refused: {reason!r}"


def _deleted(case: Case) -> str:
    site = Site(case)
    site.start(30, BUSY)
    site.until(lambda: site.dish.table["p_uint32"].get(0), "it runs")
    site.do(site.proc.delete(DISH, 30))
    before = site.dish.table["p_uint32"].get(0)
    site.until(lambda: site.dish.table["p_uint32"].get(0) != before, "it goes on")
    require(30 not in site.do(site.proc.slots(DISH)), "the slot is still listed")
    require(site.do(site.proc.control(DISH, Verb.STOP, 30)) == 1, "it can no longer be stopped")
    site.until(lambda: len(site.dish.runs) == 0, "it stops")
    require(site.get("proc_last_ret") == Ret.STOPPED, f"{site.get('proc_last_ret')!r}")
    site.still_works()
    return "it ran on and could be stopped; the slot was free"


ROWS: tuple[FaultRow, ...] = (
    fault_row(
        86,
        "bad-arithmetic",
        "divides by zero, shifts by 64 and -1, INT_MIN / -1, compares NaN",
        "fails at its instruction in both engines, or has a value" + GOES_ON,
        _arithmetic,
    ),
    fault_row(
        87,
        "damaged-procedures",
        "truncations, bit flips, wrong counts, noise, 255 instructions",
        "refused, or runs to an end within its budget" + GOES_ON,
        _damaged_procedures,
    ),
    fault_row(
        88,
        "endless-calls",
        "5000 nested calls; replaces a procedure while it runs",
        "depth limit; an occupied slot is not overwritten" + GOES_ON,
        _endless_calls,
    ),
    fault_row(
        89,
        "bad-neighbour",
        "asks nodes that are silent, missing, without that parameter",
        "fails in time at its instruction" + GOES_ON,
        _bad_neighbour,
    ),
    fault_row(
        90,
        "endless-loop",
        "a loop without end, with a budget; four of them beside others",
        "the budget ends it, others keep their rate" + GOES_ON,
        _endless_loop,
    ),
    fault_row(
        91,
        "block-never-true",
        "waits for what never comes; the wall clock jumps meanwhile",
        "times out on the monotonic clock",
        _never_true,
    ),
    fault_row(
        92,
        "seventeenth-run",
        "starts 17 procedures at once",
        "the 17th is refused with a reason, 16 complete",
        _seventeenth,
    ),
    fault_row(
        94,
        "running-procedure-deleted",
        "deletes a procedure while it runs",
        "it runs on, can be stopped" + GOES_ON,
        _deleted,
    ),
    *KILLS,
)
