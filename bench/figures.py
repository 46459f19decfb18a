"""What a benchmark run finds out: figures with their targets, tables, charts. Pure.

Theory of operation: a section returns figures, tables, charts and notes; a run is all its sections
and what is known of the machine. In JSON every figure is a number under its key at the top level,
so that a program needs nothing else; `about` and `sections` hold the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

SCHEMA = 2
MEDIAN_SUFFIX = "_median"

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A limit that a figure must keep."""

    limit: float
    is_ceiling: bool = True
    source: str = "issue 7"

    def holds(self, value: float) -> bool:
        """Say whether a value keeps it."""
        return value <= self.limit if self.is_ceiling else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.is_ceiling else '≥'} {self.limit:g}"


TARGETS: dict[str, Target] = {
    "dipp.decomposed_over_merged": Target(limit=1.02),
    "dipp.latency_us_copy_1k": Target(limit=80),
    "dipp.latency_us_zero_copy": Target(limit=60),
    "dipp.latency_copy_7m_over_two_memcpy": Target(limit=2.2),
    "dipp.sustained_copy_7m_over_in_process": Target(limit=0.6, is_ceiling=False),
    "dipp.workers2_over_1": Target(limit=1.7, is_ceiling=False),
    "dipp.sandbox_us": Target(limit=10),
    "dipp.peak_over_batch": Target(limit=2.0, source="issue 7, figure 8"),
    "payload.idle_pss_mb": Target(limit=400),
    "payload.dipp_pss_mb": Target(limit=120),
    "payload.start_s": Target(limit=3.0),
    "dish.growth_5_to_77": Target(limit=1.1, source="performance.md 7"),
    "aurora.cpu_s_per_1000": Target(limit=20.0, source="issue 5"),
    "aurora.paper_gate_s_per_200": Target(limit=4.0, source="aurora.md 7"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number. `value` is the best of all rounds unless `what` says otherwise.

    `spread` is how far apart the same variant was from itself in that contest, in the same unit.
    """

    key: str
    value: float
    unit: str
    what: str
    median: float | None = None
    spread: float | None = None

    @property
    def target(self) -> Target | None:
        """The limit it must keep, if there is one."""
        return TARGETS.get(self.key)

    @property
    def is_met(self) -> bool | None:
        """Whether it keeps the limit; None without one."""
        return self.target.holds(self.value) if self.target else None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the limit is nearer than the control can tell."""
        if self.target is None or self.spread is None:
            return False
        return abs(self.value - self.target.limit) <= self.spread

    @property
    def is_met_by_median(self) -> bool | None:
        """Whether its median keeps the limit too; None without a limit or a median."""
        if self.target is None or self.median is None:
            return None
        return self.target.holds(self.median)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a heading; the first column is on the left, the others on the right."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture: `name` is the name of its file, `svg` its content."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one part of the benchmark found."""

    name: str
    title: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()
    wall_s: float = 0.0
    load: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole benchmark run. `failures` are sections that could not be measured, and why."""

    about: Mapping[str, object]
    sections: tuple[Section, ...]
    failures: Mapping[str, str] = field(default_factory=dict)

    def figures(self) -> Iterator[Figure]:
        """Yield all figures."""
        for section in self.sections:
            yield from section.figures

    def required(self) -> list[Figure]:
        """Return the figures that have a target, in the order of the targets."""
        known = {figure.key: figure for figure in self.figures()}
        return [known[key] for key in TARGETS if key in known]

    def to_json(self) -> Json:
        """Return what goes into bench.json."""
        flat: Json = {}
        for figure in self.figures():
            flat[figure.key] = _rounded(figure.value)
            if figure.median is not None:
                flat[figure.key + MEDIAN_SUFFIX] = _rounded(figure.median)
        return {
            **flat,
            "about": dict(self.about),
            "failures": dict(self.failures),
            "sections": [_section_json(section) for section in self.sections],
            "schema": SCHEMA,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Run:
        """Read what `to_json` gave; charts are not in it. Raises ValueError."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')!r}, wanted {SCHEMA}: measure again")
        about, failures, sections = (data.get(key) for key in ("about", "failures", "sections"))
        if not isinstance(about, Mapping) or not isinstance(sections, Sequence):
            raise ValueError("no `about` or no `sections`")
        reasons = failures if isinstance(failures, Mapping) else {}
        return cls(
            about=about,
            sections=tuple(_section(each) for each in sections),
            failures={str(key): str(value) for key, value in reasons.items()},
        )


def numbers(data: Mapping[str, object]) -> dict[str, float]:
    """Return the figures of a bench.json, of this or an older schema."""
    return {
        key: float(value)
        for key, value in data.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "schema"
    }


def text_of(value: float) -> str:
    """Return a number with the digits that mean something."""
    if value == 0:
        return "0"
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _section_json(section: Section) -> Json:
    data = asdict(section)
    del data["charts"]
    return data


def _section(data: object) -> Section:
    if not isinstance(data, Mapping):
        raise ValueError("a section is no object")
    try:
        return Section(
            name=data["name"],
            title=data["title"],
            figures=tuple(Figure(**each) for each in data["figures"]),
            tables=tuple(
                Table(title=t["title"], head=tuple(t["head"]), rows=_rows(t["rows"]))
                for t in data["tables"]
            ),
            notes=tuple(data["notes"]),
            wall_s=data["wall_s"],
            load=data["load"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a section that is none: {error!r}") from error


def _rows(rows: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in rows)
