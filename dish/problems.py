"""Say what a verifier can find: one row per kind of problem. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """ERROR: it will fail or cannot be stored. WARNING: it probably is not what was meant."""

    ERROR = "error"
    WARNING = "warning"


class Check(Enum):
    """Kinds of problems: severity and what it means in general."""

    BAD_NAME = (Severity.ERROR, "text that cannot name a parameter")
    LITERAL = (Severity.ERROR, "a literal where a parameter is needed")
    UNKNOWN_NAME = (Severity.ERROR, "the node has no such parameter")
    BAD_INDEX = (Severity.ERROR, "the array has no such element")
    READ_ONLY = (Severity.ERROR, "the target cannot be written")
    NOT_LOADABLE = (Severity.ERROR, "data cannot be an operand")
    CLASS_MISMATCH = (Severity.ERROR, "operands of different classes")
    BAD_OPERATOR = (Severity.ERROR, "the operator does not take this class")
    BAD_RESULT = (Severity.ERROR, "the result cannot be stored in the target")
    BAD_VALUE = (Severity.ERROR, "the text is no value of the parameter")
    UNKNOWN_NODE = (Severity.WARNING, "no parameter list of that node to check against")
    MISSING_SLOT = (Severity.ERROR, "a called slot is empty")
    RECURSION = (Severity.ERROR, "a cycle of calls that is no tail loop")
    NESTED_IFELSE = (Severity.ERROR, "ifelse in the then-slot of another")
    UNREACHABLE = (Severity.WARNING, "never executed")
    NEVER_TRUE = (Severity.ERROR, "a wait that cannot end")
    CONSTANT = (Severity.WARNING, "a condition that is always the same")
    ALONE = (Severity.WARNING, "a wait that only somebody else can end")
    TOO_LONG = (Severity.ERROR, "more instructions than the node takes")
    TOO_BIG = (Severity.ERROR, "does not fit a packet to the node")
    BAD_SLOT = (Severity.ERROR, "a slot the node does not have for procedures")
    HEAP = (Severity.ERROR, "more memory than the board has")

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.value[0]

    @property
    def code(self) -> str:
        """Its name in reports, such as `unknown-name`."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding. `index` is the instruction, None if it is about the whole procedure."""

    check: Check
    slot: int
    index: int | None
    text: str

    def __str__(self) -> str:
        place = f"slot {self.slot}" + ("" if self.index is None else f" instruction {self.index}")
        return f"{place}: {self.check.severity.value}: {self.text} [{self.check.code}]"
