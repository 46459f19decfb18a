"""Say a benchmark run in plain text and in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.compare import Change
from bench.figures import Figure, Run, text_of
from bench.page import verdict_of


def console_lines(run: Run) -> list[str]:
    """Return what is printed at the end of a run: all figures, the required ones first."""
    required = run.required()
    lines = ["", "required:"]
    lines += [_line(figure) for figure in required]
    for section in run.sections:
        others = [figure for figure in section.figures if figure.target is None]
        if others:
            lines += ["", f"{section.title}:", *(_line(figure) for figure in others)]
    lines += [f"not measured: {name}: {why}" for name, why in run.failures.items()]
    return lines


def _line(figure: Figure) -> str:
    best = f"{text_of(figure.value)} {figure.unit}".strip()
    median = "" if figure.median is None else f"median {text_of(figure.median)}"
    wanted = "" if figure.target is None else f"{figure.target}  {verdict_of(figure)[1]}"
    return f"  {figure.key:<42}{best:>16}  {median:<16} {wanted}".rstrip()


def markdown(run: Run) -> str:
    """Return the table of figures for docs/performance.md."""
    about = run.about
    head = (
        f"{about.get('date_utc')} UTC, commit {about.get('commit')}, {about.get('machine')}, "
        f"{about.get('kernel')}, Python {about.get('python')}; {_load(about)}; huge-page arena "
        f"{'on' if about.get('huge_arena') else 'off'}"
        f"{'; --quick, too short to mean much' if about.get('quick') else ''}."
    )
    lines = [
        head,
        "",
        "| figure | key | best | median | wanted | |",
        "|---|---|---:|---:|---:|---|",
    ]
    lines += [_row(figure) for figure in run.required()]
    lines += [_row(figure) for figure in run.figures() if figure.target is None]
    lines += ["", *(f"Not measured: {name}: {why}." for name, why in run.failures.items())]
    return "\n".join(lines).rstrip() + "\n"


def _row(figure: Figure) -> str:
    median = "" if figure.median is None else text_of(figure.median)
    wanted = "" if figure.target is None else str(figure.target)
    best = f"{text_of(figure.value)} {figure.unit}".strip()
    cells = (figure.what, f"`{figure.key}`", best, median, wanted, verdict_of(figure)[1])
    return f"| {' | '.join(cells)} |"


def _load(about: Mapping[str, object]) -> str:
    before, after = about.get("load_before"), about.get("load_after")
    if not isinstance(before, list) or not isinstance(after, list):
        return "load unknown"
    return (
        f"load {before[0]:.2f} before, {about.get('load_during_mean')} during, {after[0]:.2f} after"
    )


def change_lines(changes: Sequence[Change]) -> list[str]:
    """Return what is printed of a comparison."""
    if not changes:
        return []
    rows = [
        f"  {each.key:<42}{text_of(each.old):>12}{text_of(each.new):>12}"
        f"{each.ratio:>9.3f}  {each.words}"
        for each in changes
    ]
    return ["", f"  {'against the other run':<42}{'old':>12}{'new':>12}{'new/old':>9}", *rows]
