"""The plan as it was written: what the parser makes and the checker reads."""

from __future__ import annotations

from dataclasses import dataclass

from dish.plan.problems import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number; a unit of time has been multiplied in."""

    place: Place
    value: int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A quoted text."""

    place: Place
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """`true` or `false`."""

    place: Place
    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """`name`, `name[index]`, `node.name` or `node.name[index]`."""

    place: Place
    node: str
    name: str
    index: int | None

    def __str__(self) -> str:
        index = "" if self.index is None else f"[{self.index}]"
        return f"{self.node}.{self.name}{index}" if self.node else f"{self.name}{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """`-x`, `~x` or `not x`."""

    place: Place
    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Infix:
    """Arithmetic, a comparison, `and`, `or`."""

    place: Place
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """`name(arguments)`: a function or a conversion."""

    place: Place
    name: str
    arguments: tuple[Expression, ...]


Expression = Number | Text | Truth | Reference | Prefix | Infix | Apply


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`target = value`."""

    place: Place
    target: Reference
    value: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """`var name: type = value`."""

    place: Place
    name: str
    type: str
    value: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional:
    """`if`, with `else`."""

    place: Place
    condition: Expression
    then: Block
    other: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class While:
    """`while condition { }`."""

    place: Place
    condition: Expression
    body: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """`repeat count { }`."""

    place: Place
    count: Expression
    body: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitUntil:
    """`wait until condition [within limit | forever] [every period] [else { }]`."""

    place: Place
    condition: Expression
    limit: Expression | None
    forever: bool
    period: Expression | None
    other: Block | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFor:
    """`wait for duration`."""

    place: Place
    duration: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class TryBlock:
    """`try { } on failure { }`."""

    place: Place
    body: Block
    handler: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """`break`, `continue`, `stop`, `fail`; `reason` belongs to `fail`."""

    place: Place
    word: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnValue:
    """`return` with or without a value."""

    place: Place
    value: Expression | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Perform:
    """A function called for what it does."""

    place: Place
    call: Apply


Statement = (
    Assignment
    | Declaration
    | Conditional
    | While
    | Repeat
    | WaitUntil
    | WaitFor
    | TryBlock
    | Leave
    | ReturnValue
    | Perform
)
Block = tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDeclaration:
    """A parameter of another node: `name: type[size] readonly|registers`."""

    place: Place
    name: str
    type: str
    size: int
    flag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDeclaration:
    """`node name = number { fields }`."""

    place: Place
    name: str
    number: int
    fields: tuple[FieldDeclaration, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """`param name = reference`."""

    place: Place
    name: str
    target: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """`const name = value`."""

    place: Place
    name: str
    value: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`name` or `name[low..high]` of a `registers` line."""

    place: Place
    name: str
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A parameter of a function."""

    place: Place
    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """`func name(arguments) -> type { }`."""

    place: Place
    name: str
    arguments: tuple[Argument, ...]
    result: str
    body: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A whole plan. `slots` and `registers` are None where the source does not restrict them."""

    nodes: tuple[NodeDeclaration, ...] = ()
    aliases: tuple[Alias, ...] = ()
    constants: tuple[Constant, ...] = ()
    functions: tuple[Function, ...] = ()
    slots: tuple[int, int] | None = None
    registers: tuple[Span, ...] | None = None
    body: Block = ()
