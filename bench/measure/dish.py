"""Table 3: the DISH engines, as `bench.dish_vm` measures them."""

from __future__ import annotations

from bench.dish_vm import C_RUNTIME_MIPS, ROUNDS, measure_rounds
from bench.effort import Effort
from bench.figures import Figure, Section, Table, text_of

_WHAT = {
    "dish.compiled_mips_5": ("M/s", "compiler, 5 parameters in the table"),
    "dish.compiled_mips_77": ("M/s", "compiler, 77 parameters in the table"),
    "dish.interpreter_mips_5": ("M/s", "interpreter, 5 parameters in the table"),
    "dish.interpreter_mips_77": ("M/s", "interpreter, 77 parameters in the table"),
    "dish.growth_5_to_77": ("×", "cost of an instruction, 77 parameters over 5"),
    "dish.fibonacci_bytes": ("bytes", "the Fibonacci pair of the paper, assembled"),
    "dish.fibonacci_compiled_bytes": ("bytes", "the same from the plan language"),
    "aa.dish": ("×", "control: compiler, 5 parameters, against itself"),
}


def measure(effort: Effort) -> Section:
    """Measure both engines."""
    effort.say("Fibonacci, both engines")
    best, median = measure_rounds(effort.some(ROUNDS, 2))
    figures = tuple(
        Figure(key=key, value=best[key], median=median.get(key), unit=unit, what=what)
        for key, (unit, what) in _WHAT.items()
    )
    flown = tuple(
        (f"C runtime, {size} parameters, another machine", rate)
        for size, rate in C_RUNTIME_MIPS.items()
    )
    rows = [
        (what, text_of(best[key]))
        for key, (unit, what) in _WHAT.items()
        if unit in ("M/s", "bytes")
    ]
    return Section(
        name="dish",
        title="Table 3: DISH",
        figures=figures,
        tables=(
            Table(title="", head=("millions of instructions per second, or bytes", "best"),
                  rows=(*rows, *flown)),
        ),
        notes=(
            ("Processor time. The C runtime was measured on the machine of performance.md, not "
            "here and not in this run."),
        ),
    )  # fmt: skip
