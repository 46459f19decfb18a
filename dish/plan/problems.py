"""Say what is wrong with a plan, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dish.errors import ContentError


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in the source; both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True, slots=True, order=True)
class PlanProblem:
    """One finding: where, what, and what to do about it."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class PlanError(ContentError):
    """A plan that cannot be compiled. `problems` are all of them, in the order of the source."""

    def __init__(self, problems: Iterable[PlanProblem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Report:
    """Collects problems, so that a compiler pass can go on after the first."""

    def __init__(self) -> None:
        self.problems: list[PlanProblem] = []

    def add(self, place: Place, text: str) -> None:
        """Note a problem."""
        self.problems.append(PlanProblem(place, text))

    def stop(self) -> None:
        """Raise PlanError if there is any."""
        if self.problems:
            raise PlanError(self.problems)
