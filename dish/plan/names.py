"""Resolve what a plan calls things: nodes, their parameters, aliases, constants, registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from csp.errors import CspError
from csp.param.spec import ParamSpec
from csp.param.types import Mask, ParamType
from dish.plan import syntax
from dish.plan.kinds import NAME_OF, TYPE_NAMES, is_number, register_type
from dish.plan.problems import Place, Report
from dish.plan.tree import Function, ParamRef, Variable
from dish.program import MAX_NODE

# The general registers of the M7 (dish.md 12).
_REGISTER_PREFIX = "p_"
CLOCK = "gnss_unix"
OWN = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a plan is compiled for: the executing node and the parameter lists that are known."""

    own_node: int
    own: Mapping[str, ParamSpec]
    others: Mapping[int, Mapping[str, ParamSpec]] = field(default_factory=dict)


class Names:
    """Every name of one plan."""

    def __init__(self, program: syntax.Program, surroundings: Surroundings, report: Report) -> None:
        self._report = report
        self._own = surroundings.own_node
        self.catalogue: dict[int, dict[str, ParamSpec]] = {OWN: dict(surroundings.own)}
        self.nodes: dict[str, int] = {}
        self.aliases: dict[str, ParamRef] = {}
        self.constants: dict[str, int | float] = {}
        self.functions: dict[str, Function] = {}
        self.scopes: list[dict[str, Variable]] = [{}]
        self._used: set[str] = set()
        self._remote_registers: list[tuple[int, ParamSpec]] = []
        for node in program.nodes:
            self._declare_node(node, surroundings)
        for alias in program.aliases:
            if self._is_free(alias.name, alias.place):
                found = self.parameter(alias.target)
                if found is not None:
                    self.aliases[alias.name] = found
        self._spans = program.registers

    # -- declarations

    def _is_free(self, name: str, place: Place) -> bool:
        known: tuple[tuple[str, Mapping[str, object]], ...] = (
            ("a node", self.nodes),
            ("a parameter", self.aliases),
            ("a constant", self.constants),
            ("a function", self.functions),
            ("a parameter of this node", self.catalogue[OWN]),
            ("a type", TYPE_NAMES),
            *(("a variable", scope) for scope in self.scopes),
        )
        for what, names in known:
            if name in names:
                self._report.add(place, f"{name} is already {what}: choose another name")
                return False
        return True

    def _declare_node(self, node: syntax.NodeDeclaration, around: Surroundings) -> None:
        if not self._is_free(node.name, node.place):
            return
        if not 0 <= node.number <= MAX_NODE:
            self._report.add(node.place, f"node {node.number}: nodes are 0..{MAX_NODE}")
            return
        number = OWN if node.number in (OWN, self._own) else node.number
        self.nodes[node.name] = number
        known = around.others.get(number)
        if number != OWN:
            self.catalogue.setdefault(number, dict(known or {}))
        for entry in node.fields:
            spec = self._field_spec(entry, len(self.catalogue[number]))
            if spec is None:
                continue
            listed = self.catalogue[number].get(spec.name)
            if listed is not None:
                self._compare(entry, spec, listed)
                spec = listed
            elif known is not None or number == OWN:
                text = f"node {node.number} has no parameter {entry.name}: see its list"
                self._report.add(entry.place, text)
                continue
            self.catalogue[number][spec.name] = spec
            if entry.flag == "registers":
                self._remote_registers.append((number, spec))

    def _field_spec(self, entry: syntax.FieldDeclaration, id_: int) -> ParamSpec | None:
        type_ = self.type_named(entry.type, entry.place)
        if type_ is None:
            return None
        mask = Mask.READONLY if entry.flag == "readonly" else Mask.NONE
        if entry.flag == "registers" and not is_number(type_):
            self._report.add(entry.place, f"{entry.type} holds no numbers: no registers")
        try:
            return ParamSpec(id=id_, name=entry.name, type=type_, array_size=entry.size, mask=mask)
        except CspError as error:
            self._report.add(entry.place, str(error))
            return None

    def _compare(self, entry: syntax.FieldDeclaration, spec: ParamSpec, listed: ParamSpec) -> None:
        if (spec.type, spec.array_size) != (listed.type, listed.array_size):
            real = f"{NAME_OF[listed.type]}[{listed.array_size}]"
            self._report.add(entry.place, f"{entry.name} is {real} on that node: declare it so")

    def type_named(self, name: str, place: Place) -> ParamType | None:
        """Return a type by name, or report."""
        type_ = TYPE_NAMES.get(name)
        if type_ is None:
            self._report.add(place, f"no type {name}: there are {', '.join(TYPE_NAMES)}")
        return type_

    def declare(self, name: str, type_: ParamType, place: Place) -> Variable:
        """Make a variable in the innermost scope; report if the name is taken."""
        variable = Variable(name, register_type(type_) if is_number(type_) else ParamType.U8)
        if not is_number(type_):
            self._report.add(place, f"{name}: variables hold numbers, not {NAME_OF[type_]}")
        if self._is_free(name, place):
            self.scopes[-1][name] = variable
        return variable

    def declare_constant(self, name: str, value: int | float, place: Place) -> None:
        """Make a constant; report if the name is taken."""
        if self._is_free(name, place):
            self.constants[name] = value

    def declare_function(self, function: Function) -> None:
        """Make a function; report if the name is taken."""
        if self._is_free(function.name, function.place):
            self.functions[function.name] = function

    # -- look-up

    def variable(self, reference: syntax.Reference) -> Variable | None:
        """Return the variable of that name, None if there is none."""
        if reference.node or reference.index is not None:
            return None
        for scope in reversed(self.scopes):
            if reference.name in scope:
                return scope[reference.name]
        return None

    def constant(self, reference: syntax.Reference) -> int | float | None:
        """Return the constant of that name, None if there is none."""
        if reference.node or reference.index is not None:
            return None
        return self.constants.get(reference.name)

    def parameter(self, reference: syntax.Reference) -> ParamRef | None:
        """Return the parameter that is meant, or report."""
        if not reference.node and reference.name in self.aliases:
            if reference.index is not None:
                text = f"{reference.name} is one element already: leave [{reference.index}] out"
                self._report.add(reference.place, text)
            return self.aliases[reference.name]
        node = self.nodes.get(reference.node) if reference.node else OWN
        if node is None:
            text = f"no node {reference.node}: declare it, node {reference.node} = NUMBER"
            self._report.add(reference.place, text)
            return None
        spec = self.catalogue[node].get(reference.name)
        if spec is None:
            self._unknown(reference)
            return None
        return self._element(reference, node, spec)

    def peek(self, reference: syntax.Reference) -> ParamSpec | ParamRef | None:
        """Return what a name would be, without reporting."""
        if not reference.node and reference.name in self.aliases:
            return self.aliases[reference.name]
        node = self.nodes.get(reference.node, -1) if reference.node else OWN
        return self.catalogue.get(node, {}).get(reference.name)

    def _unknown(self, reference: syntax.Reference) -> None:
        if reference.node:
            declaration = f"node {reference.node} = NUMBER {{ {reference.name}: TYPE }}"
            text = f"nothing is known of {reference}: declare it, {declaration}"
        else:
            text = f"no variable, constant or own parameter is called {reference.name}"
            close = [name for name in self._all_names() if _is_close(name, reference.name)]
            text += f": did you mean {close[0]}?" if close else ": declare it with var"
        self._report.add(reference.place, text)

    def _all_names(self) -> list[str]:
        names = [*self.constants, *self.aliases, *self.catalogue[OWN]]
        return [*(name for scope in self.scopes for name in scope), *names]

    def _element(self, reference: syntax.Reference, node: int, spec: ParamSpec) -> ParamRef | None:
        count = 1 if spec.row.is_text else spec.array_size
        if reference.index is None and count > 1:
            text = f"{reference} has {count} elements: say which, {reference}[0]"
            self._report.add(reference.place, text)
            return None
        if reference.index is not None and reference.index >= count:
            self._report.add(reference.place, f"{spec.name} has {count} elements, 0..{count - 1}")
            return None
        text = spec.name if count == 1 else f"{spec.name}[{reference.index}]"
        if node == OWN:
            self._used.add(text)
        return ParamRef(
            node=node, text=text, type=spec.type, readonly=bool(spec.mask & Mask.READONLY),
            spec=spec,
        )  # fmt: skip

    def clock(self) -> ParamRef | None:
        """Return the clock of this node, None if it has none."""
        spec = self.catalogue[OWN].get(CLOCK)
        place = Place(1, 1)
        reference = syntax.Reference(place=place, node="", name=CLOCK, index=None)
        return None if spec is None else self._element(reference, OWN, spec)

    # -- registers

    def registers(self) -> dict[tuple[int, ParamType], tuple[str, ...]]:
        """Return the registers the compiler may use, by node and type, shortest names first.

        Elements that the plan names itself are left out.
        """
        found: dict[tuple[int, ParamType], list[str]] = {}
        if self._spans is None:
            for spec in self.catalogue[OWN].values():
                writable = not spec.mask & Mask.READONLY and is_number(spec.type)
                if writable and spec.name.startswith(_REGISTER_PREFIX):
                    self._add(found, OWN, spec, 0, spec.array_size - 1)
        for span in self._spans or ():
            self._add_span(found, span)
        for node, spec in self._remote_registers:
            self._add(found, node, spec, 0, spec.array_size - 1)
        return {key: tuple(sorted(names, key=_register_order)) for key, names in found.items()}

    def _add_span(self, found: dict[tuple[int, ParamType], list[str]], span: syntax.Span) -> None:
        spec = self.catalogue[OWN].get(span.name)
        if spec is None or spec.mask & Mask.READONLY or not is_number(spec.type):
            text = f"{span.name} is no writable number of this node: name a register array"
            self._report.add(span.place, text)
            return
        last = spec.array_size - 1
        low = 0 if span.low is None else span.low
        high = last if span.high is None else span.high
        if not low <= high <= last:
            self._report.add(span.place, f"{span.name} has elements 0..{last}")
            return
        self._add(found, OWN, spec, low, high)

    def _add(
        self,
        found: dict[tuple[int, ParamType], list[str]],
        node: int,
        spec: ParamSpec,
        low: int,
        high: int,
    ) -> None:
        names = found.setdefault((node, register_type(spec.type)), [])
        for index in range(low, high + 1):
            text = spec.name if spec.array_size == 1 else f"{spec.name}[{index}]"
            if (node != OWN or text not in self._used) and text not in names:
                names.append(text)


def _register_order(text: str) -> tuple[int, int]:
    """Order by what a read and a write of the name cost, elements of an array in order."""
    name, _, index = text.partition("[")
    return len(name) + len(index), int(index.rstrip("]") or 0)


def _is_close(known: str, typed: str) -> bool:
    """Tell whether two names differ by one character, its place, or upper and lower case."""
    if known.lower() == typed.lower():
        return True
    if abs(len(known) - len(typed)) > 1 or min(len(known), len(typed)) < 3:
        return False
    short, long = sorted((known, typed), key=len)
    cut = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) == len(long):
        return short[cut + 1 :] == long[cut + 1 :] or (
            short[cut : cut + 2] == long[cut : cut + 2][::-1]
            and short[cut + 2 :] == long[cut + 2 :]
        )
    return short[cut:] == long[cut + 1 :]
