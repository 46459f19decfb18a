"""Compile a plan: text in, procedures, source map and figures out. The front door of the package.

The code is laid out several times, with more and less copying of short sequences; the smallest that
fits is taken. Then the verifier looks at it, and what it finds is said in terms of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from csp.param.spec import ParamSpec
from dish.params import SPECS
from dish.plan.allocate import allocate
from dish.plan.check import check
from dish.plan.layout import Layout, lay_out
from dish.plan.lower import lower
from dish.plan.names import OWN, Surroundings
from dish.plan.parser import parse
from dish.plan.problems import Place, PlanError, PlanProblem, Report
from dish.plan.simplify import simplify
from dish.plan.sourcemap import SourceMap
from dish.plan.tree import Plan
from dish.problems import Check, Problem, Severity
from dish.profile import PROFILES, Profile
from dish.program import Procedure, size_bytes
from dish.verify import Target, verify

# How long a sequence may be to be copied into jumps to it.
_COPY_ITEMS = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a plan is compiled for. `others` are known parameter lists of other nodes.

    `slots` overrides the range that the plan and the profile give.
    """

    own_node: int = 4
    own: Mapping[str, ParamSpec] = field(
        default_factory=lambda: {spec.name: spec for spec in SPECS}
    )
    others: Mapping[int, Mapping[str, ParamSpec]] = field(default_factory=dict)
    profile: Profile = field(default_factory=lambda: PROFILES["m7"])
    slots: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled plan. Run slot `root`; `variables` says where each variable is kept."""

    root: int
    procedures: Mapping[int, Procedure]
    source: SourceMap
    variables: Mapping[str, str]
    warnings: tuple[PlanProblem, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all procedures, as `proc size` counts."""
        return sum(size_bytes(procedure) for procedure in self.procedures.values())

    @property
    def instructions(self) -> int:
        """Instructions of all procedures."""
        return sum(len(procedure) for procedure in self.procedures.values())


def read_plan(text: str, options: Options | None = None) -> Plan:
    """Parse and check. Raises PlanError with all problems."""
    options = options or Options()
    report = Report()
    program = parse(text, report)
    around = Surroundings(own_node=options.own_node, own=options.own, others=options.others)
    plan = check(program, around, report)
    report.stop()
    return plan


def compile_plan(text: str, options: Options | None = None) -> Compiled:
    """Compile a plan. Raises PlanError with all problems that one pass can find."""
    options = options or Options()
    plan = read_plan(text, options)
    code = lower(plan)
    best: tuple[tuple[int, int], Layout, dict[str, str]] | None = None
    failure: PlanError | None = None
    for copy_items in _COPY_ITEMS:
        joined = simplify(code, copy_items)
        try:
            texts = allocate(joined, plan.registers)
            layout = lay_out(joined, texts, options.profile, _slots(plan, options))
        except PlanError as error:
            failure = failure or error
            continue
        size = sum(size_bytes(procedure) for procedure in layout.procedures.values())
        rank = size, len(layout.procedures)
        if best is None or rank < best[0]:
            named = {each.name: text for each, text in texts.items() if each.name}
            best = rank, layout, named
    if best is None:
        raise failure or PlanError([])
    _, layout, variables = best
    warnings = _verified(layout, plan, options)
    return Compiled(
        root=layout.root, procedures=layout.procedures, source=layout.source,
        variables=variables, warnings=warnings,
    )  # fmt: skip


def _slots(plan: Plan, options: Options) -> tuple[int, int]:
    profile = options.profile
    low, high = options.slots or plan.slots or (profile.reserved, profile.max_slot)
    if not profile.reserved <= low <= high <= profile.max_slot:
        text = (
            f"slots {low}..{high}: node profile {profile.name} has"
            f" {profile.reserved}..{profile.max_slot}"
        )
        raise PlanError([PlanProblem(Place(1, 1), text)])
    return low, high


def _verified(layout: Layout, plan: Plan, options: Options) -> tuple[PlanProblem, ...]:
    """Return the warnings of the verifier. Raises PlanError for what it calls an error."""
    catalogue = {
        options.own_node if node == OWN else node: table for node, table in plan.catalogue.items()
    }
    target = Target(own=options.own_node, profile=options.profile, catalogue=catalogue)
    rows = [
        (problem.check, _in_source(problem, layout.source))
        for problem in verify(layout.procedures, target)
    ]
    errors = [row for check_, row in rows if check_.severity is Severity.ERROR]
    if errors:
        raise PlanError(errors)
    # Registers are shared with ground by intent; what nobody else writes was checked before.
    return tuple(row for check_, row in rows if check_ is not Check.ALONE)


def _in_source(problem: Problem, source: SourceMap) -> PlanProblem:
    origin = source.find(problem.slot, problem.index or 0)
    return PlanProblem(origin.place if origin is not None else Place(1, 1), problem.text)
