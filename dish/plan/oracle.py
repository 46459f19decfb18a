"""Execute a checked plan directly, statement by statement: the oracle for the compiler.

It shares the type checker with the compiler and nothing after it. Arithmetic is that of the strict
machine. Time passes only in waits; `World.advance` moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from csp.param.types import TYPES, ParamType, TypeClass
from dish.isa import COMPARISONS, OPCODES, Opcode, Operator, operator_by_text
from dish.plan.kinds import class_of, register_type
from dish.plan.tree import (
    Always,
    Assign,
    Binary,
    Body,
    Both,
    Call,
    Compare,
    Condition,
    Convert,
    Exit,
    If,
    Leave,
    Limit,
    Literal,
    Loop,
    Not,
    ParamRef,
    Pause,
    Plan,
    Read,
    Step,
    Try,
    Unary,
    Value,
    Variable,
    Wait,
)
from dish.values import Mode, ValueFault, convert

Number = int | float
_MACHINE_LIMIT_S = 5000


class Surface(Protocol):
    """What the oracle sees of the world."""

    def read(self, parameter: ParamRef) -> Number:
        """Return the value of an element."""

    def write(self, parameter: ParamRef, value: Number | str) -> None:
        """Store a value, or the text of one."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""


class PlanFailure(Exception):
    """The plan ended by failing."""


class _Exit(Exception):
    def __init__(self, exit_: Exit) -> None:
        super().__init__(exit_.value)
        self.exit = exit_


class Oracle:
    """One execution. `variables` holds the values afterwards; `budget` bounds the statements."""

    def __init__(self, plan: Plan, surface: Surface, budget: int = 100_000) -> None:
        self._plan = plan
        self._surface = surface
        self._budget = budget
        self.variables: dict[Variable, Number] = {}

    def run(self) -> None:
        """Execute the plan. Raises PlanFailure, TimeoutError when the budget is used up."""
        try:
            self._body(self._plan.body)
        except _Exit as exit_:
            if exit_.exit is Exit.FAIL:
                raise PlanFailure from None
        except ValueFault as fault:
            raise PlanFailure(str(fault)) from None

    def _body(self, body: Body) -> None:
        for step in body:
            self._budget -= 1
            if self._budget < 0:
                raise TimeoutError("the plan does not end")
            self._step(step)

    def _step(self, step: Step) -> None:
        match step:
            case Assign():
                self._assign(step)
            case If():
                self._body(step.then if self._holds(step.condition) else step.other)
            case Loop():
                self._loop(step)
            case Wait():
                self._wait(step)
            case Pause():
                end = self._now() + self._value(step.seconds)
                while self._now() < end:
                    self._surface.advance(1.0)
            case Try():
                self._try(step)
            case Leave():
                raise _Exit(step.exit)
            case Call():
                self._leaving(step.function.body, Exit.RETURN)

    def _assign(self, step: Assign) -> None:
        value = step.value if isinstance(step.value, str) else self._value(step.value)
        if isinstance(step.target, ParamRef):
            self._surface.write(step.target, value)
        elif not isinstance(value, str) and not isinstance(step.value, str):
            self.variables[step.target] = _change(value, step.value.type, step.target.type)

    def _leaving(self, body: Body, *ways: Exit) -> Exit | None:
        """Execute a body; return the way it was left if that is one of these."""
        try:
            self._body(body)
        except _Exit as exit_:
            if exit_.exit in ways:
                return exit_.exit
            raise
        return None

    def _loop(self, step: Loop) -> None:
        first = step.at_least_once
        while first or self._holds(step.condition):
            first = False
            self._budget -= 1
            if self._budget < 0:
                raise TimeoutError("the plan does not end")
            if self._leaving(step.body, Exit.BREAK, Exit.CONTINUE) is Exit.BREAK:
                return
            self._body(step.step)

    def _try(self, step: Try) -> None:
        if self._leaving(step.body, Exit.FAIL) is Exit.FAIL:
            self._body(step.handler)

    def _wait(self, step: Wait) -> None:
        limit: Number | None = None
        if step.limit is Limit.MACHINE:
            limit = _MACHINE_LIMIT_S
        elif not isinstance(step.limit, Limit):
            limit = self._value(step.limit)
        end = None if limit is None else self._now() + limit
        while not self._holds(step.condition):
            # The machine looks at its deadline after the pause.
            self._surface.advance(step.period_s or 1)
            self._budget -= 1
            if self._budget < 0:
                raise TimeoutError("the plan does not end")
            if end is not None and self._now() >= end:
                if step.other is None:
                    raise _Exit(Exit.FAIL)
                self._body(step.other)
                return

    def _now(self) -> Number:
        return 0 if self._plan.clock is None else self._surface.read(self._plan.clock)

    # -- values

    def _holds(self, entry: Condition) -> bool:
        match entry:
            case Always(value=value):
                return value
            case Not(operand=operand):
                return not self._holds(operand)
            case Both(is_and=True):
                return self._holds(entry.left) and self._holds(entry.right)
            case Both():
                return self._holds(entry.left) or self._holds(entry.right)
            case Compare():
                row = next(each for each in COMPARISONS if each.text == entry.operator)
                compare = _function(row, entry.left.type)
                return bool(compare(self._value(entry.left), self._value(entry.right)))

    def _value(self, entry: Value) -> Number:
        match entry:
            case Literal(value=value):
                return _change(value, entry.type, entry.type)
            case Read(source=Variable() as variable):
                return self.variables[variable]
            case Read(source=ParamRef() as parameter):
                return self._surface.read(parameter)
            case Convert(operand=operand):
                return _change(self._value(operand), operand.type, entry.type)
            case Unary():
                sign = "!" if entry.operator == "~" else "-"
                row = operator_by_text(OPCODES[Opcode.UNOP], sign)
                operand_value = _change(self._value(entry.operand), entry.operand.type, entry.type)
                result = _function(row, entry.type)(operand_value)
                return _change(cast(Number, result), entry.type, entry.type)
            case Binary():
                row = operator_by_text(OPCODES[Opcode.BINOP], entry.operator)
                left = _change(self._value(entry.left), entry.left.type, entry.type)
                result = _function(row, entry.type)(left, self._value(entry.right))
                return _change(cast(Number, result), entry.type, entry.type)
        raise TypeError(f"no value: {entry}")


def _function(row: Operator | None, type_: ParamType) -> Callable[..., object]:
    if row is None:
        raise TypeError("no such operator")
    return row.functions(Mode.STRICT)[class_of(type_)]


def _change(value: Number, source: ParamType, target: ParamType) -> Number:
    """Return a value as the target type holds it."""
    if TYPES[target].kind is TypeClass.STRING:
        raise TypeError("numbers only")
    return cast(Number, convert(value, source, register_type(target), Mode.STRICT))
