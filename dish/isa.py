"""Define the instruction set: one row per operator and per opcode.

Encoder, decoder, assembler, disassembler, verifier, interpreter and compiler read these rows; a
number, a text or an operand rule stands nowhere else. Source: dish.md 2.3, 7.2, 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

from csp.param.types import TypeClass
from dish import values
from dish.values import Mode


class Opcode(IntEnum):
    """The type byte of an instruction."""

    BLOCK = 0
    IFELSE = 1
    SET = 2
    UNOP = 3
    BINOP = 4
    CALL = 5
    NOOP = 6


class FieldKind(Enum):
    """How one operand is written on the wire."""

    NAME = auto()
    VALUE = auto()
    OPERATOR = auto()
    SLOT = auto()


class Side(Enum):
    """Where an operand lives: on the executing node, on the instruction's node, or nowhere."""

    LOCAL = auto()
    NODE = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator: wire number, text, and one function per operand class it accepts.

    `cost` is in units of one local copy; the budget and the verifier's bound count in it.
    """

    number: int
    text: str
    strict: Mapping[TypeClass, Callable[..., object]]
    flight: Mapping[TypeClass, Callable[..., object]]
    cost: int = 1

    def functions(self, mode: Mode) -> Mapping[TypeClass, Callable[..., object]]:
        """Return the semantics per operand class in the given mode."""
        return self.strict if mode is Mode.STRICT else self.flight

    @property
    def classes(self) -> frozenset[TypeClass]:
        """The operand classes this operator accepts."""
        return frozenset(self.strict)


def _rows(
    *rows: tuple[str, Mapping[TypeClass, Callable[..., object]]],
    flight: Mapping[str, Mapping[TypeClass, Callable[..., object]]] | None = None,
) -> tuple[Operator, ...]:
    other = flight or {}
    return tuple(
        Operator(number=number, text=text, strict=cells, flight=other.get(text, cells))
        for number, (text, cells) in enumerate(rows)
    )


COMPARISONS: tuple[Operator, ...] = _rows(
    ("==", values.EQUAL),
    ("!=", values.NOT_EQUAL),
    ("<", values.LESS),
    (">", values.GREATER),
    ("<=", values.LESS_EQUAL),
    (">=", values.GREATER_EQUAL),
    flight={
        "==": values.EQUAL_FLIGHT,
        "!=": values.NOT_EQUAL_FLIGHT,
        "<=": values.LESS_EQUAL_FLIGHT,
        ">=": values.GREATER_EQUAL_FLIGHT,
    },
)
UNARY: tuple[Operator, ...] = _rows(
    ("++", values.INCREMENT),
    ("--", values.DECREMENT),
    ("!", values.INVERT),
    ("-", values.NEGATE),
    ("idt", values.COPY),
    ("rmt", values.COPY),
)
BINARY: tuple[Operator, ...] = _rows(
    ("+", values.ADD),
    ("-", values.SUBTRACT),
    ("*", values.MULTIPLY),
    ("/", values.DIVIDE),
    ("%", values.REMAINDER),
    ("<<", values.SHIFT_LEFT),
    (">>", values.SHIFT_RIGHT),
    ("&", values.AND),
    ("|", values.OR),
    ("^", values.XOR),
    flight={"<<": values.SHIFT_LEFT_FLIGHT, ">>": values.SHIFT_RIGHT_FLIGHT},
)
# The one unary operator whose operand is local and whose result is on the node (dish.md 7.2).
REMOTE_STORE = next(row.number for row in UNARY if row.text == "rmt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One operand of an opcode: the attribute of `Instruction` that holds it, and its form."""

    attribute: str
    kind: FieldKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcodeRow:
    """One opcode: its operands in wire order, in typing order, how it is listed, where they live.

    `reads` and `writes` name the string attributes that are parameters. `listing` is the text of
    `proc list` with the attributes as format fields. `polls` marks the opcode that repeats.
    """

    opcode: Opcode
    name: str
    fields: tuple[Field, ...]
    typed: tuple[str, ...]
    listing: str
    operators: tuple[Operator, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    read_side: Side = Side.NONE
    write_side: Side = Side.NONE
    cost: int = 1


def _name(attribute: str) -> Field:
    return Field(attribute=attribute, kind=FieldKind.NAME)


_OPERATOR = Field(attribute="operator", kind=FieldKind.OPERATOR)
_CONDITION = (_name("first"), _OPERATOR, _name("second"))

# Indexed by type byte.
OPCODES: tuple[OpcodeRow, ...] = (
    OpcodeRow(
        opcode=Opcode.BLOCK,
        name="block",
        fields=_CONDITION,
        typed=("first", "operator", "second"),
        listing="block : {first} {operator} {second}",
        operators=COMPARISONS,
        reads=("first", "second"),
        read_side=Side.NODE,
        cost=2,
    ),
    OpcodeRow(
        opcode=Opcode.IFELSE,
        name="ifelse",
        fields=_CONDITION,
        typed=("first", "operator", "second"),
        listing="ifelse: {first} {operator} {second}",
        operators=COMPARISONS,
        reads=("first", "second"),
        read_side=Side.NODE,
        cost=2,
    ),
    OpcodeRow(
        opcode=Opcode.SET,
        name="set",
        fields=(_name("first"), Field(attribute="value", kind=FieldKind.VALUE)),
        typed=("first", "value"),
        listing="set   : {first} = {value}",
        writes=("first",),
        write_side=Side.NODE,
    ),
    OpcodeRow(
        opcode=Opcode.UNOP,
        name="unop",
        fields=(_name("first"), _OPERATOR, _name("result")),
        typed=("first", "operator", "result"),
        listing="unop  : {result} = {operator}({first})",
        operators=UNARY,
        reads=("first",),
        writes=("result",),
        read_side=Side.NODE,
        write_side=Side.LOCAL,
    ),
    OpcodeRow(
        opcode=Opcode.BINOP,
        name="binop",
        fields=(_name("first"), _OPERATOR, _name("second"), _name("result")),
        typed=("first", "operator", "second", "result"),
        listing="binop : {result} = {first} {operator} {second}",
        operators=BINARY,
        reads=("first", "second"),
        writes=("result",),
        read_side=Side.NODE,
        write_side=Side.NODE,
        cost=2,
    ),
    OpcodeRow(
        opcode=Opcode.CALL,
        name="call",
        fields=(Field(attribute="slot", kind=FieldKind.SLOT),),
        typed=("slot",),
        listing="call  : {slot}",
    ),
    OpcodeRow(opcode=Opcode.NOOP, name="noop", fields=(), typed=(), listing="noop"),
)
OPCODE_BY_NAME: dict[str, OpcodeRow] = {row.name: row for row in OPCODES}


def operator_by_text(row: OpcodeRow, text: str) -> Operator | None:
    """Return the operator of this opcode with that text, or None."""
    return next((operator for operator in row.operators if operator.text == text), None)


def sides(opcode: Opcode, operator: int) -> tuple[Side, Side]:
    """Return where the operands are read and where the result goes. Source: dish.md 7.2."""
    row = OPCODES[opcode]
    if opcode is Opcode.UNOP and operator == REMOTE_STORE:
        return Side.LOCAL, Side.NODE
    return row.read_side, row.write_side
