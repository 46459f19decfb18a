"""Check a plan: resolve names, type values, find every mistake. Source: docs/plan-language.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from csp.param.types import TYPES, ParamType, TypeClass
from dish.plan import syntax
from dish.plan.kinds import NAME_OF, WIDTHS, class_of, fits, is_number, register_type
from dish.plan.names import CLOCK, Names, Surroundings
from dish.plan.problems import Place, Report
from dish.plan.tree import (
    Assign,
    Binary,
    Body,
    Call,
    Compare,
    Exit,
    Function,
    If,
    Leave,
    Limit,
    Literal,
    Loop,
    ParamRef,
    Pause,
    Plan,
    Read,
    Step,
    Try,
    Value,
    Variable,
    Wait,
)
from dish.plan.values import ValueChecker
from dish.text import parse_text
from dish.values import ValueFault

# A block that nobody ends fails after 5000 s (dish.md 1); pauses stay below with some room.
MAX_BLOCK_S = 4000
_U32 = ParamType.U32


def check(program: syntax.Program, surroundings: Surroundings, report: Report) -> Plan:
    """Return the checked plan. What is wrong goes to the report; then the plan is incomplete."""
    return _Checker(Names(program, surroundings, report), report).plan(program)


class _Checker(ValueChecker):
    def __init__(self, names: Names, report: Report) -> None:
        super().__init__(names, report)
        self._loops = 0
        self._function: Function | None = None

    def plan(self, program: syntax.Program) -> Plan:
        for constant in program.constants:
            value = self.fold(constant.value)
            if value is None:
                text = f"{constant.name} is not constant: use numbers and constants above it"
                self.report.add(constant.value.place, text)
            # A number after a mistake keeps its users from being reported as well.
            self.names.declare_constant(constant.name, value or 0, constant.place)
        for entry in program.functions:
            self.names.declare_function(self._signature(entry))
        body = self._statements(program.body)
        for entry in program.functions:
            self._function_body(entry)
        self._no_recursion()
        clock = self.names.clock()
        return Plan(
            body=body, clock=clock, registers=self.names.registers(), slots=program.slots,
            catalogue=self.names.catalogue,
        )  # fmt: skip

    # -- functions

    def _signature(self, entry: syntax.Function) -> Function:
        arguments = []
        for argument in entry.arguments:
            type_ = self.names.type_named(argument.type, argument.place) or _U32
            if not is_number(type_):
                self.report.add(argument.place, f"{argument.name}: arguments are numbers")
                type_ = _U32
            arguments.append(Variable(argument.name, register_type(type_)))
        result = None
        if entry.result:
            type_ = self.names.type_named(entry.result, entry.place) or _U32
            if not is_number(type_):
                self.report.add(entry.place, f"{entry.name}: results are numbers")
                type_ = _U32
            result = Variable(f"result of {entry.name}", register_type(type_))
        return Function(
            place=entry.place, name=entry.name, arguments=tuple(arguments), result=result
        )

    def _function_body(self, entry: syntax.Function) -> None:
        function = self.names.functions.get(entry.name)
        if function is None or function.place != entry.place:
            return
        self._function = function
        with self._scope():
            for written, argument in zip(entry.arguments, function.arguments, strict=True):
                self.names.declare(written.name, argument.type, written.place)
                self.names.scopes[-1][written.name] = argument
            function.body = self._statements(entry.body)
        self._function = None

    def _no_recursion(self) -> None:
        for function in self.names.functions.values():
            reached: set[Function] = set()
            pending = list(function.callees)
            while pending:
                callee = pending.pop()
                if callee not in reached:
                    reached.add(callee)
                    pending += callee.callees
            if function in reached:
                text = f"{function.name} calls itself: its registers exist once, use a loop"
                self.report.add(function.place, text)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self.names.scopes.append({})
        yield
        self.names.scopes.pop()

    # -- statements

    def _block(self, block: syntax.Block) -> Body:
        with self._scope():
            return self._statements(block)

    def _statements(self, block: syntax.Block) -> Body:
        rows: dict[type, Callable[..., list[Step]]] = {
            syntax.Assignment: self._assignment,
            syntax.Declaration: self._declaration,
            syntax.Conditional: self._conditional,
            syntax.While: self._while,
            syntax.Repeat: self._repeat,
            syntax.WaitUntil: self._wait_until,
            syntax.WaitFor: self._wait_for,
            syntax.TryBlock: self._try,
            syntax.Leave: self._leave,
            syntax.ReturnValue: self._return,
            syntax.Perform: self._perform,
        }
        steps: list[Step] = []
        for number, entry in enumerate(block):
            steps += rows[type(entry)](entry)
            leaves = isinstance(entry, (syntax.Leave, syntax.ReturnValue))
            if leaves and number + 1 < len(block):
                self.report.add(block[number + 1].place, "this is never executed: remove it")
                break
        return tuple(steps)

    def _assignment(self, entry: syntax.Assignment) -> list[Step]:
        variable = self.names.variable(entry.target)
        if variable is not None:
            return self._store(variable, entry.value, entry.place)
        if self.names.constant(entry.target) is not None:
            text = f"{entry.target} is a constant: declare it with var to change it"
            self.report.add(entry.place, text)
            return []
        target = self.names.parameter(entry.target)
        if target is None:
            return []
        if target.readonly:
            self.report.add(entry.place, f"{entry.target} is read-only")
            return []
        if isinstance(entry.value, syntax.Text):
            return self._store_text(target, entry.value, entry.place)
        if not is_number(target.type):
            kind = NAME_OF[target.type]
            self.report.add(entry.value.place, f"{entry.target} is {kind}: assign a quoted text")
            return []
        return self._store(target, entry.value, entry.place)

    def _store_text(self, target: ParamRef, text: syntax.Text, place: Place) -> list[Step]:
        if is_number(target.type):
            kind = NAME_OF[target.type]
            self.report.add(text.place, f"{target.text} is {kind}: assign a number")
            return []
        try:
            parse_text(text.value, target.type, target.spec.array_size)
        except ValueFault as fault:
            self.report.add(text.place, f"{target.text}: {fault}")
        return [Assign(place=place, target=target, value=text.value)]

    def _store(
        self, target: Variable | ParamRef, entry: syntax.Expression, place: Place
    ) -> list[Step]:
        """Assign an expression, or the result of a function."""
        if isinstance(entry, syntax.Apply) and entry.name in self.names.functions:
            steps, function = self._call(entry)
            if function is None:
                return steps
            if function.result is None:
                self.report.add(entry.place, f"{function.name} returns nothing")
                return steps
            result = Read(source=function.result, type=function.result.type)
            self._fits(result, target, entry.place)
            return [*steps, Assign(place=place, target=target, value=result)]
        value = self.value(entry, register_type(target.type))
        if value is None or not self._fits(value, target, entry.place):
            return []
        if isinstance(value, Literal):
            value = Literal(value=value.value, type=target.type)
        return [Assign(place=place, target=target, value=value)]

    def _fits(self, value: Value, target: Variable | ParamRef, place: Place) -> bool:
        name = target.name if isinstance(target, Variable) else target.text
        have, want = NAME_OF[value.type], NAME_OF[target.type]
        if class_of(value.type) is not class_of(target.type):
            self.report.add(place, f"{name} is {want}, this is {have}: convert it, {want}(...)")
            return False
        if isinstance(value, Literal):
            ok = fits(value.value, target.type)
        else:
            ok = TYPES[value.type].size <= TYPES[target.type].size
        if not ok:
            what = value.value if isinstance(value, Literal) else have
            hint = f": {want}(...) cuts it" if not isinstance(value, Literal) else ""
            self.report.add(place, f"{what} does not fit {name}, which is {want}{hint}")
        return ok

    def _declaration(self, entry: syntax.Declaration) -> list[Step]:
        type_ = self.names.type_named(entry.type, entry.place) if entry.type else None
        if entry.type and type_ is None:
            type_ = _U32
        if type_ is None:
            type_ = self._type_of(entry.value)
        # Declared after its value, which cannot use it.
        probe = Variable(entry.name, register_type(type_) if is_number(type_) else _U32)
        steps = self._store(probe, entry.value, entry.place)
        variable = self.names.declare(entry.name, type_, entry.place)
        return [
            Assign(place=step.place, target=variable, value=step.value)
            if isinstance(step, Assign) and step.target is probe
            else step
            for step in steps
        ]

    def _type_of(self, entry: syntax.Expression) -> ParamType:
        """Return the type of a declaration that does not name one."""
        if isinstance(entry, syntax.Apply) and entry.name in self.names.functions:
            result = self.names.functions[entry.name].result
            return _U32 if result is None else result.type
        problems = len(self.report.problems)
        value = self.value(entry)
        del self.report.problems[problems:]
        return _U32 if value is None else value.type

    def _conditional(self, entry: syntax.Conditional) -> list[Step]:
        condition = self.condition(entry.condition)
        then, other = self._block(entry.then), self._block(entry.other)
        return [If(place=entry.place, condition=condition, then=then, other=other)]

    @contextmanager
    def _loop(self) -> Iterator[None]:
        self._loops += 1
        yield
        self._loops -= 1

    def _while(self, entry: syntax.While) -> list[Step]:
        condition = self.condition(entry.condition)
        with self._loop():
            body = self._block(entry.body)
        return [Loop(place=entry.place, condition=condition, body=body)]

    def _repeat(self, entry: syntax.Repeat) -> list[Step]:
        count = self.value(entry.count)
        constant = self.fold(entry.count)
        if count is None or class_of(count.type) is not TypeClass.UINT or constant == 0:
            text = "repeat needs a count above 0 that is not negative, such as 3 or a u8"
            self.report.add(entry.count.place, text)
            return []
        type_ = register_type(count.type)
        if isinstance(constant, int):
            type_ = next(t for t in WIDTHS[TypeClass.UINT] if fits(constant, t))
            count = Literal(value=constant, type=type_)
        counter = Variable(f"turns left of line {entry.place.line}", type_)
        left = Read(source=counter, type=type_)
        zero, one = Literal(value=0, type=type_), Literal(value=1, type=type_)
        less = Binary(operator="-", left=left, right=one, type=type_)
        with self._loop():
            body = self._block(entry.body)
        return [
            Assign(place=entry.place, target=counter, value=count),
            Loop(
                place=entry.place,
                condition=Compare(operator="!=", left=left, right=zero),
                body=body,
                step=(Assign(place=entry.place, target=counter, value=less),),
                at_least_once=constant is not None,
            ),
        ]

    # -- waiting

    def _need_clock(self, place: Place) -> None:
        if CLOCK not in self.names.catalogue[0]:
            self.report.add(
                place, f"this node has no {CLOCK}: only `wait until` a comparison works"
            )

    def _wait_until(self, entry: syntax.WaitUntil) -> list[Step]:
        condition = self.condition(entry.condition)
        limit: Limit | Value | None = Limit.NEVER if entry.forever else Limit.MACHINE
        if entry.limit is not None:
            limit = self._seconds(entry.limit)
        period = None if entry.period is None else self.fold(entry.period)
        if entry.period is not None and not (
            isinstance(period, int) and 1 <= period <= MAX_BLOCK_S
        ):
            text = f"every takes whole seconds, 1..{MAX_BLOCK_S}, as a constant"
            self.report.add(entry.period.place, text)
        if entry.other is not None and entry.forever:
            self.report.add(entry.place, "a wait forever never gets to its else: remove one")
        if limit is not Limit.MACHINE or entry.period is not None or entry.other is not None:
            self._need_clock(entry.place)
        other = None if entry.other is None else self._block(entry.other)
        return [
            Wait(
                place=entry.place, condition=condition, limit=limit or Limit.MACHINE,
                period_s=int(period) if period is not None else None, other=other,
            )
        ]  # fmt: skip

    def _wait_for(self, entry: syntax.WaitFor) -> list[Step]:
        self._need_clock(entry.place)
        seconds = self._seconds(entry.duration)
        return [] if seconds is None else [Pause(place=entry.place, seconds=seconds)]

    def _seconds(self, entry: syntax.Expression) -> Value | None:
        seconds = self.value(entry, _U32)
        if seconds is None:
            return None
        if class_of(seconds.type) is not TypeClass.UINT or seconds.type is ParamType.U64:
            self.report.add(entry.place, "a duration is whole seconds, such as 10 s, or a u32")
            return None
        return seconds

    # -- leaving and calling

    def _try(self, entry: syntax.TryBlock) -> list[Step]:
        body = self._block(entry.body)
        return [Try(place=entry.place, body=body, handler=self._block(entry.handler))]

    def _leave(self, entry: syntax.Leave) -> list[Step]:
        exit_ = Exit(entry.word)
        if exit_ in (Exit.BREAK, Exit.CONTINUE) and not self._loops:
            self.report.add(entry.place, f"{entry.word} belongs into while or repeat")
            return []
        if exit_ is Exit.STOP and self._function is not None:
            self.report.add(entry.place, "stop does not work in a function: return and stop there")
            return []
        return [Leave(place=entry.place, exit=exit_, reason=entry.reason)]

    def _return(self, entry: syntax.ReturnValue) -> list[Step]:
        function = self._function
        if function is None:
            self.report.add(entry.place, "return belongs into a function: use stop")
            return []
        leave = Leave(place=entry.place, exit=Exit.RETURN)
        if (entry.value is None) != (function.result is None):
            what = "a value" if function.result is not None else "no value"
            self.report.add(entry.place, f"{function.name} must return {what}")
            return []
        if entry.value is None or function.result is None:
            return [leave]
        return [*self._store(function.result, entry.value, entry.place), leave]

    def _perform(self, entry: syntax.Perform) -> list[Step]:
        return self._call(entry.call)[0]

    def _call(self, entry: syntax.Apply) -> tuple[list[Step], Function | None]:
        function = self.names.functions.get(entry.name)
        if function is None:
            self.report.add(entry.place, f"no function is called {entry.name}: define it with func")
            return [], None
        if len(entry.arguments) != len(function.arguments):
            count = len(function.arguments)
            self.report.add(entry.place, f"{entry.name} takes {count} arguments")
            return [], None
        if self._function is not None:
            self._function.callees.add(function)
        steps: list[Step] = []
        for argument, written in zip(function.arguments, entry.arguments, strict=True):
            if isinstance(written, syntax.Apply) and written.name in self.names.functions:
                self.value(written)
            else:
                steps += self._store(argument, written, written.place)
        return [*steps, Call(place=entry.place, function=function)], function
