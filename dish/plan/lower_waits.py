"""Lower what waits are made of: instants of the clock, blocks on it, long sleeps.

A block ends in failure after 5000 s, so whatever may take longer sleeps in pieces. The clock is a
parameter; nothing else on a flown node tells how much time has passed. Source: dish.md 9.
"""

from __future__ import annotations

from csp.param.types import ParamType
from dish.isa import Opcode
from dish.plan.check import MAX_BLOCK_S
from dish.plan.ir import Action, Jump, Op, Operand, Test
from dish.plan.lower_values import ValueLowerer
from dish.plan.problems import Place
from dish.plan.tree import Binary, Compare, Condition, Literal, Plan, Read, Value, Variable

# A label to go on at; None is the end of the sequence, back to the caller.
Target = int | None
_U32 = ParamType.U32


class WaitLowerer(ValueLowerer):
    """Emits waits on the clock of the plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._clock = plan.clock

    def now(self) -> Read:
        """Return the reading of the clock. Raises PlanError if the node has none."""
        clock = self._clock
        if clock is None:
            raise self.no_clock()
        return Read(source=clock, type=clock.type)

    def wait_block(self, condition: Compare, place: Place) -> None:
        """Emit a `block` on a comparison that `can_block`."""
        node, first, second = self.comparands(condition, place)
        self.emit(
            Op(
                place=place, opcode=Opcode.BLOCK, node=node, first=first,
                operator=condition.operator, second=second, note="the wait took too long",
            )
        )  # fmt: skip

    def later(self, seconds: Value, place: Place) -> Operand:
        """Emit the computation of an instant and return its register."""
        instant = self.temporary(_U32)
        self.into(Binary(operator="+", left=self.now(), right=seconds, type=_U32), instant, place)
        return instant

    def sleep(self, seconds: Value, place: Place) -> None:
        """Emit a sleep of at most what a block allows."""
        instant = self.later(seconds, place)
        self._block_until(instant, place)

    def _block_until(self, instant: Operand, place: Place) -> None:
        clock = self.operand(self.now(), place)
        self.emit(
            Op(
                place=place, opcode=Opcode.BLOCK, first=clock, operator=">=", second=instant,
                note="the clock stood still",
            )
        )  # fmt: skip

    def instant_of(self, condition: Condition) -> Value | None:
        """Return T of the condition `clock >= T`, if that is what it is and T stays the same."""
        if not isinstance(condition, Compare) or self._clock is None:
            return None
        clock, instant = condition.left, condition.right
        if condition.operator == "<=":
            clock, instant = instant, clock
        elif condition.operator != ">=":
            return None
        is_clock = isinstance(clock, Read) and clock.source == self._clock
        is_stable = isinstance(instant, Literal) or (
            isinstance(instant, Read) and isinstance(instant.source, Variable)
        )
        return instant if is_clock and is_stable and instant.type is _U32 else None

    def long_sleep(self, end: Operand, then: Target, place: Place) -> None:
        """Sleep until an instant in pieces that the limit of a block allows."""
        again = self.new_label()
        self.jump(again, place)
        self.start(again)
        piece = self.later(Literal(value=MAX_BLOCK_S, type=_U32), place)
        clip = Op(place=place, opcode=Opcode.UNOP, first=end, operator="idt", result=piece)
        self.emit(
            Test(place=place, node=0, first=piece, operator=">", second=end, then=clip, other=None)
        )
        self._block_until(piece, place)
        clock = self.operand(self.now(), place)
        self.emit(
            Test(
                place=place, node=0, first=clock, operator="<", second=end,
                then=Jump(place=place, label=again), other=jump_to(then, place),
            )
        )  # fmt: skip
        self.jump(None, place)


def jump_to(target: Target, place: Place) -> Action:
    return None if target is None else Jump(place=place, label=target)
