"""Turn values into instructions that leave them in registers.

Every instruction is chosen so that the strict and the flown semantics agree: a flown machine
narrows a result to the type of the first operand and stores its bytes, so the first operand always
has the type of the result, except where the low bytes are the right answer anyway.
Source: dish.md 7.2, 8.3.
"""

from __future__ import annotations

from csp.param.types import TYPES, ParamType, TypeClass
from dish.isa import Opcode
from dish.plan.ir import Code, Fixed, Item, Jump, Op, Operand, Register, Sequence
from dish.plan.kinds import WIDTHS, as_text, class_of, fits, register_type
from dish.plan.names import CLOCK, OWN
from dish.plan.problems import Place, PlanError, PlanProblem
from dish.plan.tree import (
    Assign,
    Binary,
    Compare,
    Convert,
    Literal,
    ParamRef,
    Plan,
    Read,
    Unary,
    Value,
    Variable,
)

_COMMUTATIVE = frozenset(("+", "*", "&", "|", "^"))
_NARROW_INVERT = frozenset((ParamType.U8, ParamType.U16))


class ValueLowerer:
    """Emits into the current sequence; constants get one register each."""

    def __init__(self, plan: Plan) -> None:
        self.code = Code(root=0)
        self.current: Sequence | None = None
        self._registers = plan.registers
        self._labels = 0
        self._variables: dict[Variable, Register] = {}
        self._constants: dict[tuple[ParamType, str], Register] = {}
        self._constant_places: dict[Register, Place] = {}

    # -- sequences

    def new_label(self) -> int:
        """Return a label of which nothing is known yet."""
        self._labels += 1
        return self._labels - 1

    def start(self, label: int | None = None) -> int:
        """Make the sequence of a label the current one."""
        label = self.new_label() if label is None else label
        self.current = self.code.sequences[label] = Sequence(label)
        return label

    def emit(self, item: Item) -> None:
        """Append to the current sequence, unless it has ended."""
        if self.current is not None:
            self.current.items.append(item)

    def jump(self, target: int | None, place: Place) -> None:
        """End the current sequence."""
        if self.current is not None and target is not None:
            self.current.end = Jump(place=place, label=target)
        self.current = None

    def finish(self) -> None:
        """End the current sequence with its frame."""
        self.current = None

    @staticmethod
    def no_clock() -> PlanError:
        """Return the error for waits on a node without a clock."""
        text = f"this node has no {CLOCK}: only `wait until` a comparison works"
        return PlanError([PlanProblem(Place(1, 1), text)])

    # -- registers

    def register(self, variable: Variable) -> Register:
        """Return the register of a variable."""
        if variable not in self._variables:
            self._variables[variable] = Register(OWN, variable.type, variable.name)
        return self._variables[variable]

    def temporary(self, type_: ParamType) -> Register:
        """Return a new register of this node."""
        return Register(OWN, register_type(type_))

    def constant(self, value: int | float, type_: ParamType, place: Place) -> Register:
        """Return the register of this node that holds a number in exactly this type."""
        type_ = register_type(type_)
        key = type_, as_text(value, type_)
        if key not in self._constants:
            self._constants[key] = Register(OWN, type_)
            self._constant_places[self._constants[key]] = place
        return self._constants[key]

    def any_constant(self, value: int | float, type_: ParamType, place: Place) -> Register:
        """Return a register that holds a number in any width of the class of a type."""
        kind = class_of(type_)
        if kind is TypeClass.FLOAT:
            return self.constant(value, type_, place)
        text = as_text(value, register_type(type_))
        widths = [width for width in WIDTHS[kind] if fits(value, width)]
        for width in widths:
            if (width, text) in self._constants:
                return self._constants[width, text]
        known = (width for width in widths if (OWN, width) in self._registers)
        return self.constant(value, next(known, type_), place)

    def constant_sets(self) -> list[Op]:
        """Return the instructions that fill the registers of all constants."""
        return [
            Op(
                place=self._constant_places[register], opcode=Opcode.SET, first=register,
                value=text,
            )
            for (_, text), register in self._constants.items()
        ]  # fmt: skip

    # -- values

    def operand(self, value: Value, place: Place) -> Operand:
        """Return an operand on this node that holds a value, computing it if need be."""
        match value:
            case Literal():
                return self.any_constant(value.value, value.type, place)
            case Read(source=Variable() as variable):
                return self.register(variable)
            case Read(source=ParamRef() as source) if source.node == OWN:
                return Fixed(text=source.text, type=source.type)
        result = self.temporary(value.type)
        self.into(value, result, place)
        return result

    def into(self, value: Value, target: Operand, place: Place) -> None:
        """Compute a value into an operand of this node of the same class, not narrower."""
        match value:
            case Literal():
                text = as_text(value.value, target.type)
                self.emit(Op(place=place, opcode=Opcode.SET, first=target, value=text))
            case Read(source=ParamRef() as source) if source.node != OWN:
                self._load(source, target, place)
            case Read():
                self._move(self.operand(value, place), target, place)
            case Convert():
                self._convert(value, target, place)
            case Unary():
                self._unary(value, target, place)
            case Binary():
                self._binary(value, target, place)

    def _load(self, source: ParamRef, target: Operand, place: Place) -> None:
        """Copy a remote value here."""
        wide = register_type(source.type)
        here = target if register_type(target.type) is wide else self.temporary(wide)
        self.emit(
            Op(
                place=place, opcode=Opcode.UNOP, node=source.node, operator="idt",
                first=Fixed(text=source.text, type=source.type), result=here,
            )
        )  # fmt: skip
        if here is not target:
            self._move(here, target, place)

    def _move(self, source: Operand, target: Operand, place: Place) -> None:
        """Copy between types; a conversion that a flown machine gets wrong goes by way of zero."""
        kinds = class_of(source.type), class_of(target.type)
        sizes = TYPES[source.type].size, TYPES[target.type].size
        is_safe = sizes[0] >= sizes[1] or kinds[0] is TypeClass.UINT
        if kinds[0] is TypeClass.FLOAT:
            is_safe = sizes[0] == sizes[1]
        if is_safe:
            op = Op(place=place, opcode=Opcode.UNOP, first=source, operator="idt", result=target)
            self.emit(op)
            return
        # The first operand must have the width of the target, in the class of the source.
        wide = next(
            row.type for row in TYPES
            if row.kind is kinds[0] and row.size == sizes[1] and not row.is_hex
        )  # fmt: skip
        zero = self.constant(0, wide, place)
        self.emit(
            Op(
                place=place, opcode=Opcode.BINOP, first=zero, operator="+", second=source,
                result=target,
            )
        )  # fmt: skip

    def _convert(self, value: Convert, target: Operand, place: Place) -> None:
        source = self.operand(value.operand, place)
        if register_type(target.type) is value.type:
            self._move(source, target, place)
            return
        middle = self.temporary(value.type)
        self._move(source, middle, place)
        self._move(middle, target, place)

    def _result(self, type_: ParamType, target: Operand) -> Operand:
        return target if register_type(target.type) is type_ else self.temporary(type_)

    def _of_type(self, value: Value, type_: ParamType, place: Place) -> Operand:
        """Return an operand of exactly that register type."""
        if isinstance(value, Literal):
            return self.constant(value.value, type_, place)
        operand = self.operand(value, place)
        if register_type(operand.type) is type_:
            return operand
        wide = self.temporary(type_)
        self._move(operand, wide, place)
        return wide

    def _unary(self, value: Unary, target: Operand, place: Place) -> None:
        type_ = register_type(value.type)
        source = self._of_type(value.operand, type_, place)
        result = self._result(type_, target)
        if value.operator == "~" and type_ not in _NARROW_INVERT:
            # The flown machine inverts only u8 and u16 (dish.md 8.1).
            ones = -1 if class_of(type_) is TypeClass.INT else TYPES[type_].high
            second = self.any_constant(ones, type_, place)
            op = Op(
                place=place, opcode=Opcode.BINOP, first=source, operator="^", second=second,
                result=result,
            )  # fmt: skip
        else:
            sign = "!" if value.operator == "~" else "-"
            op = Op(place=place, opcode=Opcode.UNOP, first=source, operator=sign, result=result)
        self.emit(op)
        self._deliver(result, target, place)

    def _binary(self, value: Binary, target: Operand, place: Place) -> None:
        type_, sign = register_type(value.type), value.operator
        left, right = value.left, value.right
        if sign in _COMMUTATIVE and isinstance(left, Literal):
            left, right = right, left
        result = self._result(type_, target)
        if sign in "+-" and isinstance(right, Literal) and right.value == 1:
            first = self._of_type(left, type_, place)
            step = "++" if sign == "+" else "--"
            op = Op(place=place, opcode=Opcode.UNOP, first=first, operator=step, result=result)
        else:
            if sign in _COMMUTATIVE and register_type(right.type) is type_ is not left.type:
                left, right = right, left
            first = self._of_type(left, type_, place)
            second = self.operand(right, place)
            op = Op(
                place=place, opcode=Opcode.BINOP, first=first, operator=sign, second=second,
                result=result, note="division by zero?" if sign in "/%" else "",
            )  # fmt: skip
        self.emit(op)
        self._deliver(result, target, place)

    def _deliver(self, result: Operand, target: Operand, place: Place) -> None:
        if result is not target:
            self._move(result, target, place)

    # -- assignments and comparisons

    def assign(self, step: Assign) -> None:
        """Lower an assignment."""
        target, value, place = step.target, step.value, step.place
        if isinstance(target, Variable):
            if not isinstance(value, str):
                self.into(value, self.register(target), place)
            return
        fixed = Fixed(text=target.text, type=target.type)
        if isinstance(value, (str, Literal)):
            text = value if isinstance(value, str) else as_text(value.value, target.type)
            op = Op(place=place, opcode=Opcode.SET, node=target.node, first=fixed, value=text)
            self.emit(op)
        elif target.node == OWN:
            self.into(value, fixed, place)
        else:
            here = self._of_type(value, register_type(target.type), place)
            self.emit(
                Op(
                    place=place, opcode=Opcode.UNOP, node=target.node, first=here,
                    operator="rmt", result=fixed,
                )
            )  # fmt: skip

    def common_node(self, entry: Compare) -> int | None:
        """Return the node where both sides are or a constant can be put, None if there is none.

        Sides that must be computed first are here.
        """
        nodes = {_node_of(side) for side in (entry.left, entry.right)} - {None}
        if len(nodes) > 1:
            return None
        node = nodes.pop() if nodes else OWN
        constants = [side for side in (entry.left, entry.right) if isinstance(side, Literal)]
        has_room = all((node, register_type(side.type)) in self._registers for side in constants)
        return node if node == OWN or has_room else None

    def comparands(self, entry: Compare, place: Place) -> tuple[int, Operand, Operand]:
        """Return where to compare and with which operands, copying remote values here if needed."""
        node = self.common_node(entry)
        if node is None or node == OWN:
            return OWN, self.operand(entry.left, place), self.operand(entry.right, place)
        sides: list[Operand] = []
        for side in (entry.left, entry.right):
            if isinstance(side, Literal):
                sides.append(self._remote_constant(side, node, place))
            elif isinstance(side, Read) and isinstance(side.source, ParamRef):
                sides.append(Fixed(text=side.source.text, type=side.source.type))
        return node, sides[0], sides[1]

    def _remote_constant(self, literal: Literal, node: int, place: Place) -> Register:
        """Set a number on another node, right before its use: that node may have restarted."""
        register = Register(node, register_type(literal.type))
        text = as_text(literal.value, literal.type)
        self.emit(Op(place=place, opcode=Opcode.SET, node=node, first=register, value=text))
        return register

    def can_block(self, entry: Compare) -> bool:
        """Tell whether one `block` can wait for this: both sides are read anew at every look."""
        direct = all(isinstance(side, (Literal, Read)) for side in (entry.left, entry.right))
        return direct and self.common_node(entry) is not None


def _node_of(value: Value) -> int | None:
    """Return the node of an operand, None for a constant, which can be anywhere."""
    if isinstance(value, Literal):
        return None
    if isinstance(value, Read) and isinstance(value.source, ParamRef):
        return value.source.node
    return OWN
