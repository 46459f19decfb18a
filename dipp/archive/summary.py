"""What is left behind at the end of a run: index, tables, page, and a line about it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from dipp.archive.chains import Context, describe_chain
from dipp.archive.keys import Unit
from dipp.archive.page import Heading, make_page
from dipp.archive.places import Store, StoreError, join_uri
from dipp.archive.plan import INDEX_NAME, Ledger
from dipp.archive.records import Report, State
from dipp.archive.tables import flat_row, quarantine_csv, to_csv, to_parquet
from dipp.errors import ContentError

PAGE, TABLE, PARQUET, QUARANTINE = "index.html", "results.csv", "results.parquet", "quarantine.csv"


@dataclass(slots=True, kw_only=True)
class Totals:
    """What this run has done, in units; `left` is what it has not come to."""

    done: int = 0
    failed: int = 0
    left: int = 0
    wall_s: float = 0.0
    problem: str = ""

    def count(self, report: Report) -> None:
        """Count a finished unit; what was there already is not this run's work."""
        self.left -= 1
        self.done += report.is_new and report.state is State.DONE
        self.failed += report.is_new and report.state is State.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The state of all units of a run's sources, and what of it is new."""

    batches: int
    files: int
    done: int
    quarantined: int
    unreadable: int
    left: int
    new_done: int
    new_quarantined: int
    wall_s: float
    store: str
    written: tuple[str, ...]
    note: str
    problem: str

    @property
    def is_complete(self) -> bool:
        """True if every unit has a result and nothing went wrong."""
        return self.done == self.batches and not self.problem

    def as_json(self) -> str:
        """Return it for a program."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """Return it for people."""
        new = self.new_done + self.new_quarantined
        rate = f"{new} new in {self.wall_s:.1f} s, {new / self.wall_s:.1f}/s" if new else "no new"
        counts = (
            f"{self.batches} batches: {self.done} done, {self.quarantined} in quarantine, "
            f"{self.unreadable} unreadable, {self.left} left; {rate}"
        )
        places = [join_uri(self.store, name) for name in self.written]
        return "\n".join(filter(None, [counts, *places, self.note]))


def write_reports(
    store: Store, context: Context, ledger: Ledger, units: Sequence[Unit], totals: Totals
) -> Summary:
    """Write index, tables and page. What a full disk does not take is a problem of the run."""
    rows = ledger.rows()
    flat = [flat_row(row) for row in rows]
    heading = Heading(
        title=f"{context.pipeline}: {len(rows):,} batches",
        about=f"Chain {context.fingerprint[:12]}, written {time.strftime('%Y-%m-%d %H:%M')} "
        f"to {store.uri}",
        chain=describe_chain(context),
    )
    files: dict[str, bytes | None] = {
        INDEX_NAME: ledger.encode(),
        TABLE: to_csv(flat),
        QUARANTINE: quarantine_csv(flat),
        PAGE: make_page(heading, rows),
    }
    note = ""
    try:
        files[PARQUET] = to_parquet(flat)
    except ContentError as error:
        note = str(error)
    written = []
    try:
        for name, data in files.items():
            if data is not None:
                store.write(name, data)
                written.append(name)
    except StoreError as error:
        totals.problem = totals.problem or str(error)
    mine = {unit.uris for unit in units}
    states = Counter(row.state for row in rows if row.uris in mine)
    return Summary(
        batches=len(units),
        files=sum(len(unit.inputs) for unit in units),
        done=states[State.DONE],
        quarantined=states[State.FAILED],
        unreadable=states[State.UNREADABLE],
        left=totals.left,
        new_done=totals.done,
        new_quarantined=totals.failed,
        wall_s=round(totals.wall_s, 3),
        store=store.uri,
        written=tuple(name for name in written if name != INDEX_NAME),
        note=note,
        problem=totals.problem,
    )
