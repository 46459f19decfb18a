"""The plan after checking: every name resolved, every value typed, every constant computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from csp.param.spec import ParamSpec
from csp.param.types import ParamType
from dish.plan.problems import Place


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A variable. Two of the same name are different ones if they are different objects."""

    name: str
    type: ParamType


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamRef:
    """An element of a parameter as operand text. Node 0 is the executing node."""

    node: int
    text: str
    type: ParamType
    readonly: bool
    spec: ParamSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A number."""

    value: int | float
    type: ParamType


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The value of a variable or parameter."""

    source: Variable | ParamRef
    type: ParamType


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """`-` or `~` of a value of the same type."""

    operator: str
    operand: Value
    type: ParamType


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """Arithmetic: operands of the class of `type` and not wider; computed modulo its width."""

    operator: str
    left: Value
    right: Value
    type: ParamType


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert:
    """A value in another type."""

    operand: Value
    type: ParamType


Value = Literal | Read | Unary | Binary | Convert


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """A comparison of two values of one class."""

    operator: str
    left: Value
    right: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """`and` (`is_and`) or `or`, short circuit."""

    is_and: bool
    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """The opposite."""

    operand: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Always:
    """`true` or `false`."""

    value: bool


Condition = Compare | Both | Not | Always


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Store a value, or a text, which is parsed by the machine."""

    place: Place
    target: Variable | ParamRef
    value: Value | str


@dataclass(frozen=True, slots=True, kw_only=True)
class If:
    """Two ways."""

    place: Place
    condition: Condition
    then: Body
    other: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Body, then `step`, as long as the condition holds; it is first asked before the body.

    With `at_least_once` it is first asked after the body. `continue` goes to the step.
    """

    place: Place
    condition: Condition
    body: Body
    step: Body = ()
    at_least_once: bool = False


class Limit(Enum):
    """How long a wait may take: as long as the machine lets a block wait, or for ever."""

    MACHINE = auto()
    NEVER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Go on when the condition holds; look every `period_s` seconds of the clock.

    `limit` may also be a number of seconds. After it `other` runs; None means failure.
    """

    place: Place
    condition: Condition
    limit: Limit | Value
    period_s: int | None
    other: Body | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Wait for a number of seconds."""

    place: Place
    seconds: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """Run the handler if the body fails."""

    place: Place
    body: Body
    handler: Body


class Exit(Enum):
    """Ways to leave a statement other than by its end."""

    BREAK = "break"
    CONTINUE = "continue"
    RETURN = "return"
    STOP = "stop"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Go where the exit leads."""

    place: Place
    exit: Exit
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Run a function; its arguments have been assigned before."""

    place: Place
    function: Function


Step = Assign | If | Loop | Wait | Pause | Try | Leave | Call
Body = tuple[Step, ...]


@dataclass(slots=True, eq=False)
class Function:
    """A function: variables for arguments and result, and its body once that is checked."""

    place: Place
    name: str
    arguments: tuple[Variable, ...]
    result: Variable | None
    body: Body = ()
    callees: set[Function] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked plan. `clock` is what waits look at."""

    body: Body
    clock: ParamRef | None
    registers: dict[tuple[int, ParamType], tuple[str, ...]]
    slots: tuple[int, int] | None
    catalogue: dict[int, dict[str, ParamSpec]]


def exits(body: Body) -> frozenset[Exit]:
    """Return the ways in which a body can be left other than by its end."""
    return frozenset().union(*map(exits_of, body))


def exits_of(step: Step) -> frozenset[Exit]:
    """Return the ways in which one statement can be left other than by its end."""
    match step:
        case If():
            return exits(step.then) | exits(step.other)
        case Loop():
            inner = exits(step.body) | exits(step.step)
            return inner - {Exit.BREAK, Exit.CONTINUE}
        case Wait():
            if step.limit is Limit.NEVER:
                return frozenset()
            return frozenset((Exit.FAIL,)) if step.other is None else exits(step.other)
        case Try():
            return (exits(step.body) - {Exit.FAIL}) | exits(step.handler)
        case Leave():
            return frozenset((step.exit,))
        case Call():
            return exits(step.function.body) - {Exit.RETURN}
    return frozenset()
