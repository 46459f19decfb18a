"""Give every value a register of its node, so that values needed at once do not share one.

Theory of operation: graph colouring. Values connected by a copy are merged first where that is
possible, which makes the copy disappear; then the most used values choose first, and take the
register whose name costs the fewest bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from csp.param.types import ParamType
from dish.plan.flow import Flow
from dish.plan.ir import Code, Op, Operand, Register, Test
from dish.plan.kinds import NAME_OF
from dish.plan.problems import PlanError, PlanProblem

Pools = Mapping[tuple[int, ParamType], tuple[str, ...]]


def allocate(code: Code, pools: Pools) -> dict[Register, str]:
    """Return the operand text of every register. Raises PlanError if there are not enough.

    Also raises it for a value that may be read before it is set.
    """
    flow = Flow(code)
    unset = flow.before[flow.start]
    if unset:
        raise PlanError(
            PlanProblem(
                flow.first_read(each),
                f"{each.name or 'a value'} may be read before it is set: set it on every way here",
            )
            for each in unset
        )
    graph = _conflicts(flow)
    merged = _merge_copies(code, graph)
    texts = _colour(code, graph, merged, pools, flow)
    return {each: texts[_root(merged, each)] for each in merged}


def _conflicts(flow: Flow) -> dict[Register, set[Register]]:
    graph: dict[Register, set[Register]] = {}
    for step, needed in zip(flow.steps, flow.after, strict=True):
        for each in step.reads:
            graph.setdefault(each, set())
        target = step.writes
        if target is None:
            continue
        graph.setdefault(target, set())
        for other in needed:
            if other is not target and other is not step.copies:
                graph.setdefault(other, set()).add(target)
                graph[target].add(other)
    return graph


def _ops(code: Code) -> list[Op]:
    found: list[Op] = []
    for sequence in code.sequences.values():
        for item in sequence.items:
            candidates = item.actions if isinstance(item, Test) else (item,)
            found += [each for each in candidates if isinstance(each, Op)]
    return found


def _root(merged: dict[Register, Register], register: Register) -> Register:
    while merged[register] is not register:
        register = merged[register]
    return register


def _merge_copies(code: Code, graph: dict[Register, set[Register]]) -> dict[Register, Register]:
    merged = {each: each for each in graph}
    for op in _ops(code):
        if not op.is_copy or not isinstance(op.first, Register):
            continue
        source, target = op.first, op.result
        if not isinstance(target, Register):
            continue
        keep, gone = _root(merged, source), _root(merged, target)
        if keep is gone or gone in graph[keep]:
            continue
        merged[gone] = keep
        for other in graph.pop(gone):
            graph[other].discard(gone)
            graph[other].add(keep)
            graph[keep].add(other)
    return merged


def _uses(code: Code, merged: dict[Register, Register]) -> dict[Register, int]:
    counts: dict[Register, int] = {}

    def count(operand: Operand | None) -> None:
        if isinstance(operand, Register):
            root = _root(merged, operand)
            counts[root] = counts.get(root, 0) + 1

    for sequence in code.sequences.values():
        for item in sequence.items:
            if isinstance(item, Test):
                count(item.first)
                count(item.second)
    for op in _ops(code):
        for operand in (*op.reads, op.target):
            count(operand)
    return counts


def _colour(
    code: Code,
    graph: dict[Register, set[Register]],
    merged: dict[Register, Register],
    pools: Pools,
    flow: Flow,
) -> dict[Register, str]:
    uses = _uses(code, merged)
    order = {each: number for number, each in enumerate(graph)}
    texts: dict[Register, str] = {}
    problems: list[PlanProblem] = []
    for each in sorted(graph, key=lambda one: (-uses.get(one, 0), order[one])):
        taken = {texts[other] for other in graph[each] if other in texts}
        pool = pools.get((each.node, each.type), ())
        free = next((text for text in pool if text not in taken), None)
        if free is None:
            where = f"node {each.node}" if each.node else "this node"
            text = (
                f"no register left: {where} has {len(pool)} for {NAME_OF[each.type]};"
                " use fewer values at once, another type, or give it more with `registers`"
            )
            problems.append(PlanProblem(flow.first_read(each), text))
            continue
        texts[each] = free
    if problems:
        raise PlanError(problems)
    return texts
