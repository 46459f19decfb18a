"""Turn a checked plan into sequences of instructions.

Theory of operation: a statement that can only be left by its end, and is not the last of its block,
becomes a nested call, so that the rest of the block needs no sequence of its own. A statement that
can be left otherwise (break, failure, stop) is lowered in tail position: its ways out are tail
calls, which is possible because everything around it was lowered the same way. Loops are tail
calls. Nothing here knows sizes or register names. Source: dish.md 5, 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from csp.param.types import ParamType
from dish.isa import Opcode
from dish.plan.check import MAX_BLOCK_S
from dish.plan.ir import Action, Code, Jump, Op, Run, Test
from dish.plan.lower_waits import Target, WaitLowerer, jump_to
from dish.plan.problems import Place
from dish.plan.tree import (
    Always,
    Assign,
    Body,
    Both,
    Call,
    Compare,
    Condition,
    Exit,
    If,
    Leave,
    Limit,
    Literal,
    Loop,
    Not,
    Pause,
    Plan,
    Step,
    Try,
    Wait,
    exits_of,
)

_U32 = ParamType.U32
# The machine's own limit of a block (dish.md 1), for waits whose failure must be noticed.
_MACHINE_LIMIT_S = 5000
_LOOK_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """Where exits lead in the present frame. `fails` is False where a failure ends the plan."""

    break_: Target = None
    continue_: Target = None
    return_: Target = None
    fail: Target = None
    fails: bool = False


def lower(plan: Plan) -> Code:
    """Return the code of a plan without problems. Raises PlanError if registers lack."""
    return _Lowerer(plan).code_of(plan.body)


class _Lowerer(WaitLowerer):
    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._functions: dict[int, int] = {}

    def code_of(self, body: Body) -> Code:
        root = self.start()
        self._block(body, None, _Ways())
        # Constants are set once, before everything else.
        entry = self.code.sequences[root]
        if self.code.references()[root] > 1:
            entry = self.code.sequences[self.start()]
            self.jump(root, Place(1, 1))
            self.code.root = entry.label
        entry.items[:0] = self.constant_sets()
        return self.code

    # -- sequences

    @contextmanager
    def _aside(self, label: int) -> Iterator[None]:
        """Lower something else into another sequence, then go on here."""
        here = self.current
        self.start(label)
        yield
        self.current = here

    def _nested(self, lower_it: Callable[[], None]) -> int:
        label = self.new_label()
        with self._aside(label):
            lower_it()
        return label

    # -- blocks

    def _block(self, body: Body, then: Target, ways: _Ways) -> None:
        """Lower statements into the current sequence; their end goes on at `then`."""
        for number, step in enumerate(body):
            if number == len(body) - 1:
                self._tail(step, then, ways)
                return
            if self._is_plain(step, ways):
                self._plain(step)
            elif self._escapes(step, ways):
                rest = self.new_label()
                self._tail(step, rest, ways)
                self.start(rest)
            else:
                self._inside(step, ways)
        self.jump(then, Place(1, 1))

    def _escapes(self, step: Step, ways: _Ways) -> bool:
        found = exits_of(step)
        return bool(found if ways.fails else found - {Exit.FAIL})

    def _is_simple(self, step: If, ways: _Ways) -> bool:
        """Tell whether an `if` is one comparison whose ways come together behind it."""
        is_one = isinstance(_without_not(step.condition)[0], Compare)
        return is_one and not self._escapes(step, ways)

    def _is_plain(self, step: Step, ways: _Ways) -> bool:
        match step:
            case Assign():
                return True
            case Pause(seconds=seconds):
                return isinstance(seconds, Literal) and seconds.value <= MAX_BLOCK_S
            case Wait(condition=Compare() as condition):
                is_bare = step.limit is Limit.MACHINE and step.other is None
                is_bare = is_bare and step.period_s is None and not ways.fails
                return is_bare and self.can_block(condition)
            case Call():
                return not self._escapes(step, ways)
        return False

    def _plain(self, step: Step) -> None:
        match step:
            case Assign():
                self.assign(step)
            case Pause(seconds=seconds):
                self.sleep(seconds, step.place)
            case Wait(condition=Compare() as condition):
                self.wait_block(condition, step.place)
            case Call():
                self.emit(Run(place=step.place, label=self._function(step)))

    def _function(self, call: Call) -> int:
        key = id(call.function)
        if key not in self._functions:
            label = self._functions[key] = self.new_label()
            with self._aside(label):
                self._block(call.function.body, None, _Ways())
        return self._functions[key]

    def _inside(self, step: Step, ways: _Ways) -> None:
        """Lower a statement that can only be left by its end, and go on behind it."""
        if isinstance(step, If):
            condition, is_negated = _without_not(step.condition)
            then, other = (step.other, step.then) if is_negated else (step.then, step.other)
            if isinstance(condition, Compare):
                self._branch(condition, self._action(then, ways), self._action(other, ways), step)
                return
        label = self._nested(lambda: self._tail(step, None, ways))
        self.emit(Run(place=step.place, label=label))

    def _branch(self, condition: Compare, then: Action, other: Action, step: Step) -> None:
        node, first, second = self.comparands(condition, step.place)
        self.emit(
            Test(
                place=step.place, node=node, first=first, operator=condition.operator,
                second=second, then=then, other=other,
            )
        )  # fmt: skip

    def _action(self, body: Body, ways: _Ways) -> Action:
        """Return a body as one slot of an ifelse: itself if it is one instruction, else a call."""
        if not body:
            return None
        label = self._nested(lambda: self._block(body, None, ways))
        sequence = self.code.sequences[label]
        if not sequence.items and sequence.end is None:
            del self.code.sequences[label]
            return None
        if len(sequence.items) == 1 and sequence.end is None and isinstance(sequence.items[0], Op):
            del self.code.sequences[label]
            return sequence.items[0]
        return Run(place=body[0].place, label=label)

    # -- the last statement of a block

    def _tail(self, step: Step, then: Target, ways: _Ways) -> None:
        """Lower a statement whose end goes on at `then` in the same frame."""
        match step:
            case If() if self._is_simple(step, ways):
                self._inside(step, ways)
                self.jump(then, step.place)
            case If():
                self._tail_if(step, then, ways)
            case Loop():
                self._tail_loop(step, then, ways)
            case Try():
                handler = self.new_label()
                self._block(step.body, then, replace(ways, fail=handler, fails=True))
                with self._aside(handler):
                    self._block(step.handler, then, ways)
            case Leave():
                self._tail_leave(step, ways)
            case Call() if self._escapes(step, ways):
                # There is no way out of a frame but its end, so the function is lowered in place.
                inner = _Ways(return_=then, fail=ways.fail, fails=ways.fails)
                self._block(step.function.body, then, inner)
            case Wait() | Pause() if not self._is_plain(step, ways):
                self._tail_wait(step, then, ways)
            case _:
                self._plain(step)
                self.jump(then, step.place)

    def _tail_if(self, step: If, then: Target, ways: _Ways) -> None:
        labels = [self.new_label() if body else then for body in (step.then, step.other)]
        self._condition(step.condition, labels[0], labels[1], step.place)
        for body, label in zip((step.then, step.other), labels, strict=True):
            if body and label is not None:
                self.start(label)
                self._block(body, then, ways)

    def _tail_loop(self, step: Loop, then: Target, ways: _Ways) -> None:
        test, body, after = self.new_label(), self.new_label(), self.new_label()
        inner = replace(ways, break_=then, continue_=after if step.step else test)
        self.jump(body if step.at_least_once else test, step.place)
        self.start(test)
        self._condition(step.condition, body, then, step.place)
        self.start(body)
        self._block(step.body, after if step.step else test, inner)
        if step.step:
            self.start(after)
            self._block(step.step, test, ways)

    def _tail_leave(self, step: Leave, ways: _Ways) -> None:
        match step.exit:
            case Exit.BREAK:
                self.jump(ways.break_, step.place)
            case Exit.CONTINUE:
                self.jump(ways.continue_, step.place)
            case Exit.RETURN:
                self.jump(ways.return_, step.place)
            case Exit.STOP:
                self.jump(None, step.place)
            case Exit.FAIL:
                self._fail(step.place, step.reason or "fail", ways)

    def _fail(self, place: Place, reason: str, ways: _Ways) -> None:
        if ways.fails:
            self.jump(ways.fail, place)
        else:
            # Division by zero is the one way to end a run on every flown machine.
            zero = self.any_constant(0, ParamType.U8, place)
            self.emit(
                Op(
                    place=place, opcode=Opcode.BINOP, first=zero, operator="/", second=zero,
                    result=zero, note=reason,
                )
            )  # fmt: skip

    # -- conditions

    def _condition(self, entry: Condition, then: Target, other: Target, place: Place) -> None:
        """End the current sequence by going to one of two targets."""
        match entry:
            case Always(value=value):
                self.jump(then if value else other, place)
            case Not(operand=operand):
                self._condition(operand, other, then, place)
            case Both(is_and=is_and, left=left, right=right):
                second = self.new_label()
                if is_and:
                    self._condition(left, second, other, place)
                else:
                    self._condition(left, then, second, place)
                self.start(second)
                self._condition(right, then, other, place)
            case Compare():
                node, first, second_operand = self.comparands(entry, place)
                self.emit(
                    Test(
                        place=place, node=node, first=first, operator=entry.operator,
                        second=second_operand, then=jump_to(then, place),
                        other=jump_to(other, place),
                    )
                )  # fmt: skip
                self.jump(None, place)

    # -- waiting

    def _tail_wait(self, step: Wait | Pause, then: Target, ways: _Ways) -> None:
        if isinstance(step, Pause):
            self.long_sleep(self.later(step.seconds, step.place), then, step.place)
            return
        instant = self.instant_of(step.condition)
        is_default = step.limit is Limit.NEVER and step.period_s is None
        if is_default and instant is not None:
            # A register of its own only if the value could change: the wait looks at it twice.
            self.long_sleep(self.operand(instant, step.place), then, step.place)
            return
        self._poll(step, then, ways)

    def _poll(self, step: Wait, then: Target, ways: _Ways) -> None:
        """Look, sleep for a period, look again, until the condition or the deadline."""
        place, deadline = step.place, None
        if step.limit is not Limit.NEVER:
            limit = step.limit
            if isinstance(limit, Limit):
                limit = Literal(value=_MACHINE_LIMIT_S, type=_U32)
            deadline = self.later(limit, place)
        look, pause = self.new_label(), self.new_label()
        self.jump(look, place)
        self.start(look)
        self._condition(step.condition, then, pause, place)
        self.start(pause)
        self.sleep(Literal(value=step.period_s or _LOOK_S, type=_U32), place)
        if deadline is None:
            self.jump(look, place)
            return
        late = self._late(step, then, ways)
        clock = self.operand(self.now(), place)
        self.emit(
            Test(
                place=place, node=0, first=clock, operator="<", second=deadline,
                then=Jump(place=place, label=look), other=late,
            )
        )  # fmt: skip
        self.jump(None, place)

    def _late(self, step: Wait, then: Target, ways: _Ways) -> Action:
        """Return what happens after the deadline of a wait."""
        if step.other == ():
            return jump_to(then, step.place)
        label = self.new_label()
        with self._aside(label):
            if step.other is None:
                self._fail(step.place, "the wait took too long", ways)
                self.finish()
            else:
                self._block(step.other, then, ways)
        return Jump(place=step.place, label=label)


def _without_not(condition: Condition) -> tuple[Condition, bool]:
    """Return a condition without `not` around it, and whether it was negated."""
    is_negated = False
    while isinstance(condition, Not):
        condition, is_negated = condition.operand, not is_negated
    return condition, is_negated
