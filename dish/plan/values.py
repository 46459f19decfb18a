"""Check expressions: fold constants, type values, tell conditions from values."""

from __future__ import annotations

import operator
from collections.abc import Callable

from csp.param.types import ParamType, TypeClass
from dish.plan import syntax
from dish.plan.expressions import COMPARISONS
from dish.plan.kinds import (
    NAME_OF,
    TYPE_NAMES,
    class_of,
    is_number,
    register_type,
    type_of_number,
    wider,
)
from dish.plan.names import Names
from dish.plan.problems import Place, Report
from dish.plan.tree import (
    Always,
    Binary,
    Both,
    Compare,
    Condition,
    Convert,
    Literal,
    Not,
    Read,
    Unary,
    Value,
)

Number = int | float

_COMPARE: dict[str, Callable[[Number, Number], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
    "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
_INTEGER_ONLY = frozenset(("%", "<<", ">>", "&", "|", "^"))
ARITHMETIC = frozenset(("+", "-", "*", "/")) | _INTEGER_ONLY
_INTEGER: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "&": operator.and_,
    "|": operator.or_, "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift,
    "/": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "%": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),
}  # fmt: skip
_REAL: dict[str, Callable[[Number, Number], Number]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip


class ValueChecker:
    """Turns written expressions into typed ones. None means that a problem was reported."""

    def __init__(self, names: Names, report: Report) -> None:
        self.names = names
        self.report = report

    # -- constants

    def fold(self, entry: syntax.Expression) -> Number | None:
        """Return the number of a constant expression, None for any other."""
        match entry:
            case syntax.Number(value=value):
                return value
            case syntax.Reference():
                return self.names.constant(entry)
            case syntax.Prefix(operator=sign, operand=operand) if sign != "not":
                inner = self.fold(operand)
                if inner is None:
                    return None
                if sign == "-":
                    return -inner
                return ~inner if isinstance(inner, int) else None
            case syntax.Infix(operator=sign) if sign in ARITHMETIC:
                left, right = self.fold(entry.left), self.fold(entry.right)
                if left is not None and right is not None:
                    return self._fold_pair(entry, left, right)
        return None

    def _fold_pair(self, entry: syntax.Infix, left: Number, right: Number) -> Number | None:
        sign = entry.operator
        is_shift = sign in ("<<", ">>")
        if (sign in "/%" and right == 0) or (is_shift and not 0 <= right <= 63):
            return None
        try:
            if isinstance(left, int) and isinstance(right, int):
                return _INTEGER[sign](left, right)
            return _REAL[sign](left, right) if sign in _REAL else None
        except OverflowError:
            return None

    def literal(self, value: Number, like: ParamType | None, place: Place) -> Literal | None:
        """Return a number in the type of its surroundings, or report."""
        type_ = type_of_number(value, like)
        if type_ is None:
            kind = "any type" if like is None else NAME_OF[like]
            self.report.add(place, f"{value} does not fit {kind}")
            return None
        number = float(value) if class_of(type_) is TypeClass.FLOAT else value
        return Literal(value=number, type=type_)

    # -- values

    def value(self, entry: syntax.Expression, want: ParamType | None = None) -> Value | None:
        """Return a typed value; arithmetic happens in the widest type involved, `want` included."""
        leaves = [type_ for type_ in self._leaves(entry) if is_number(type_)]
        for type_ in leaves:
            if want is None or not is_number(want):
                want = register_type(type_)
            elif class_of(type_) is class_of(want):
                want = wider(want, type_)
            elif not any(class_of(other) is class_of(want) for other in leaves):
                # The surroundings are of another class; the mismatch is reported where it is.
                want = register_type(type_)
        return self._value(entry, want)

    def _leaves(self, entry: syntax.Expression) -> list[ParamType]:
        match entry:
            case syntax.Reference():
                variable = self.names.variable(entry)
                if variable is not None:
                    return [variable.type]
                if self.names.constant(entry) is not None:
                    return []
                found = self.names.peek(entry)
                return [] if found is None else [found.type]
            case syntax.Prefix(operand=operand):
                return self._leaves(operand)
            case syntax.Infix(left=left, right=right):
                return self._leaves(left) + self._leaves(right)
            case syntax.Apply(name=name) if name in TYPE_NAMES:
                return [TYPE_NAMES[name]]
        return []

    def _value(self, entry: syntax.Expression, want: ParamType | None) -> Value | None:
        constant = self.fold(entry)
        if constant is not None:
            return self.literal(constant, want, entry.place)
        match entry:
            case syntax.Reference():
                return self._read(entry)
            case syntax.Prefix(operator=sign) if sign != "not":
                return self._unary(entry, want)
            case syntax.Infix(operator=sign) if sign in ARITHMETIC:
                return self._binary(entry, want)
            case syntax.Apply():
                return self._apply(entry)
            case syntax.Text():
                text = "a text can only be assigned to a string parameter"
            case _:
                text = "a condition is no value: use it in if, while or wait until"
        self.report.add(entry.place, text)
        return None

    def _read(self, entry: syntax.Reference) -> Value | None:
        variable = self.names.variable(entry)
        if variable is not None:
            return Read(source=variable, type=variable.type)
        source = self.names.parameter(entry)
        if source is None:
            return None
        if not is_number(source.type):
            text = f"{entry} is {NAME_OF[source.type]}: only numbers can be computed with"
            self.report.add(entry.place, text)
            return None
        return Read(source=source, type=source.type)

    def _unary(self, entry: syntax.Prefix, want: ParamType | None) -> Value | None:
        operand = self._value(entry.operand, want)
        if operand is None:
            return None
        kind, name = class_of(operand.type), NAME_OF[operand.type]
        if entry.operator == "-" and kind is TypeClass.UINT:
            self.report.add(entry.place, f"{name} has no negative values: convert it, i32(...)")
            return None
        if entry.operator == "~" and kind is TypeClass.FLOAT:
            self.report.add(entry.place, f"~ does not take {name}: it is for whole numbers")
            return None
        type_ = register_type(operand.type)
        if want is not None and class_of(want) is kind:
            type_ = wider(type_, want)
        return Unary(operator=entry.operator, operand=operand, type=type_)

    def pair(self, entry: syntax.Infix, want: ParamType | None) -> tuple[Value, Value] | None:
        """Return both sides of an operator in one class, or report."""
        constants = self.fold(entry.left), self.fold(entry.right)
        left = self._value(entry.left, want) if constants[0] is None else None
        right = self._value(entry.right, want) if constants[1] is None else None
        if constants[0] is not None and right is not None:
            left = self.literal(constants[0], right.type, entry.left.place)
        if constants[1] is not None and left is not None:
            right = self.literal(constants[1], left.type, entry.right.place)
        if left is None or right is None:
            return None
        if class_of(left.type) is not class_of(right.type):
            one, two = NAME_OF[left.type], NAME_OF[right.type]
            self.report.add(
                entry.place,
                f"{entry.operator} needs two of a kind, not {one} and {two}: convert one,"
                f" {one}(...)",
            )
            return None
        return left, right

    def _binary(self, entry: syntax.Infix, want: ParamType | None) -> Value | None:
        zero = self.fold(entry.right)
        if zero == 0 and entry.operator in "/%":
            self.report.add(entry.place, "division by zero")
            return None
        sides = self.pair(entry, want)
        if sides is None:
            return None
        left, right = sides
        type_ = wider(left.type, right.type)
        kind = class_of(type_)
        if want is not None and class_of(want) is kind:
            type_ = wider(type_, want)
        if kind is TypeClass.FLOAT and entry.operator in _INTEGER_ONLY:
            text = f"{entry.operator} does not take {NAME_OF[type_]}: it is for whole numbers"
            self.report.add(entry.place, text)
            return None
        if entry.operator in ("<<", ">>") and zero is not None and not 0 <= zero <= 63:
            self.report.add(entry.place, f"a shift by {zero}: the machine shifts by 0..63")
            return None
        return Binary(operator=entry.operator, left=left, right=right, type=type_)

    def _apply(self, entry: syntax.Apply) -> Value | None:
        type_ = TYPE_NAMES.get(entry.name)
        if type_ is None:
            known = entry.name in self.names.functions
            text = f"no function or type is called {entry.name}: define it with func"
            if known:
                text = f"call {entry.name} in an assignment of its own: x = {entry.name}(...)"
            self.report.add(entry.place, text)
            return None
        if len(entry.arguments) != 1 or not is_number(type_):
            self.report.add(entry.place, f"{entry.name}(...) converts one number")
            return None
        constant = self.fold(entry.arguments[0])
        if constant is not None:
            return self.literal(constant, register_type(type_), entry.place)
        operand = self.value(entry.arguments[0])
        if operand is None:
            return None
        kinds = {class_of(operand.type), class_of(type_)}
        if TypeClass.FLOAT in kinds and len(kinds) > 1:
            self.report.add(
                entry.place,
                f"the flown machine cannot turn {NAME_OF[operand.type]} into {entry.name}:"
                " compute in one class",
            )
            return None
        return Convert(operand=operand, type=register_type(type_))

    # -- conditions

    def condition(self, entry: syntax.Expression) -> Condition:
        """Return a condition; after a reported problem, any."""
        match entry:
            case syntax.Truth(value=value):
                return Always(value=value)
            case syntax.Prefix(operator="not", operand=operand):
                return Not(operand=self.condition(operand))
            case syntax.Infix(operator="and" | "or" as word):
                left, right = self.condition(entry.left), self.condition(entry.right)
                return Both(is_and=word == "and", left=left, right=right)
            case syntax.Infix(operator=sign) if sign in COMPARISONS:
                return self._compare(entry)
        self.report.add(entry.place, "this is no condition: compare it, such as x != 0")
        return Always(value=False)

    def _compare(self, entry: syntax.Infix) -> Condition:
        left_constant, right_constant = self.fold(entry.left), self.fold(entry.right)
        if left_constant is not None and right_constant is not None:
            return Always(value=_COMPARE[entry.operator](left_constant, right_constant))
        want: ParamType | None = None
        for type_ in self._leaves(entry):
            if is_number(type_) and (want is None or class_of(want) is class_of(type_)):
                want = register_type(type_) if want is None else wider(want, type_)
        sides = self.pair(entry, want)
        if sides is None:
            return Always(value=False)
        return Compare(operator=entry.operator, left=sides[0], right=sides[1])
