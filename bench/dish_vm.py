"""Measure the DISH engines: instructions per second, and whether the size of the table matters.

The contestants alternate within one process, each figure is the best of all rounds, and the same
variant runs twice (A/A): a difference below that spread means nothing. CPU time is measured, so a
busy machine disturbs less. Source: performance.md 5 and 7; the C figures are from issue 4.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from dish.asm import assemble_one
from dish.effects import Done, Settings
from dish.plan.compile import Options, compile_plan
from dish.profile import PROFILES
from dish.program import size_bytes
from dish.testing import World, compiled, graph_of, interpreter

# The README's pair; 6 instructions per pass of the loop.
FIBONACCI = {
    0: "set _zero 0\nset rx0 0\nset rx1 1\nifelse n > _zero\ncall 1",
    1: "binop rx0 + rx1 rx2\nunop rx1 idt rx0\nunop rx2 idt rx1\nunop n -- n\n"
    "ifelse n == _zero\nnoop\ncall 1",
}
# The same in the plan language, with the same parameter names.
FIBONACCI_PLAN = """
registers rx0, rx1, rx2, _zero
var a = 0
var b = 1
while n > 0 {
    var t = a + b
    a = b
    b = t
    n = n - 1
}
"""
NAMES = ("n", "_zero", "rx0", "rx1", "rx2")
# Measured on the reference machine of performance.md, not here.
C_RUNTIME_MIPS = {"5": "3.0-3.5", "77": "0.13-0.28"}
ROUNDS = 7


def _table(size: int) -> ParamTable:
    # The five that are used stand last, where a search through the table would find them late.
    names = [*(f"other{index}" for index in range(size - len(NAMES))), *NAMES]
    return ParamTable(
        ParamSpec(id=index + 1, name=name, type=ParamType.U32) for index, name in enumerate(names)
    )


def _mips(make: Callable[..., object], size: int, passes: int) -> float:
    table = _table(size)
    table["n"].set(passes)
    engine = make(graph_of(FIBONACCI), table, Settings())
    began = time.process_time()
    outcome = World(table).fly(engine)  # type: ignore[arg-type]
    seconds = time.process_time() - began
    if not isinstance(outcome, Done):
        raise RuntimeError(f"the benchmark failed: {outcome}")
    return float(engine.executed / seconds / 1e6)  # type: ignore[attr-defined]


def measure(rounds: int = ROUNDS) -> dict[str, float]:
    """Return the best figure of each contestant, in millions of instructions per second."""
    return measure_rounds(rounds)[0]


def measure_rounds(rounds: int = ROUNDS) -> tuple[dict[str, float], dict[str, float]]:
    """Return the best figures, and the medians of those that vary."""
    contestants = {
        "dish.compiled_mips_5": (compiled, 5, 100_000),
        "dish.compiled_mips_77": (compiled, 77, 100_000),
        "dish.compiled_mips_5_again": (compiled, 5, 100_000),
        "dish.interpreter_mips_5": (interpreter, 5, 20_000),
        "dish.interpreter_mips_77": (interpreter, 77, 20_000),
    }
    found: dict[str, list[float]] = {key: [] for key in contestants}
    for _ in range(rounds):
        for key, (make, size, passes) in contestants.items():
            found[key].append(_mips(make, size, passes))
    best = {key: max(values) for key, values in found.items()}
    median = {key: statistics.median(values) for key, values in found.items()}
    for figures in (best, median):
        few = figures["dish.compiled_mips_5"]
        figures["dish.growth_5_to_77"] = few / figures["dish.compiled_mips_77"]
        figures["aa.dish"] = figures["dish.compiled_mips_5_again"] / few
    best["dish.fibonacci_bytes"] = sum(size_bytes(assemble_one(t)) for t in FIBONACCI.values())
    best["dish.fibonacci_compiled_bytes"] = _compiled_bytes()
    return best, median


def _compiled_bytes() -> int:
    own = {parameter.spec.name: parameter.spec for parameter in _table(len(NAMES))}
    options = Options(own=own, profile=PROFILES["default"])
    return compile_plan(FIBONACCI_PLAN, options).size_bytes


def main() -> int:
    """Measure and show; `python -m bench --only dish` also writes the report."""
    for key, value in measure().items():
        print(f"{key:<30} {value:>9.3f}")
    print("C runtime, reference machine: " + ", ".join(
        f"{mips} M/s with {size} parameters" for size, mips in C_RUNTIME_MIPS.items()
    ))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
