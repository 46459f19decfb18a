"""Every store at every system call: killed there, or refused there, and then opened again.

The kernel asks `dipp.faults.sabotage` before each call, whoever makes it. Whatever was struck: what
was stored before is there, or what was being stored, and the store goes on. Faults 59, 64, 67.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from csp.crc import crc32c
from csp.errors import NoResponse, Refused
from csp.faultrow import Case
from csp.files.forms import Form
from csp.files.store import FileStore
from csp.files.store import Limits as FileLimits
from csp.files.wire import DIGEST_BYTES, Offer
from csp.vmem.file import FileArea
from dipp.faults.sabotage import (
    BROKEN,
    CHANGES,
    KILL,
    RESOURCES,
    Strike,
    Switch,
    every_call,
    run_sabotaged,
)
from dipp.journal import Journal
from dipp.message import BatchMessage, encode_message
from dipp.params import Telemetry, make_table
from dipp.policy.standings import StandingRow, StandingsFile
from dipp.quarantine import Quarantine, Verdict
from dipp.records import Fate, Kind, Record
from dipp.ring import open_ring
from dipp.ringindex import RingGeometry
from dipp.supervisor.policy import ModuleKey
from dish.asm import assemble_one
from dish.faultsite import DISH, Site
from dish.storage import ProcedureFile
from sim.mirror import Look, Progress
from sim.store import ObservationStore

# A few of the calls of a node, evenly; all of them with EVERY_CALL=1, which takes some minutes.
MOST = 10_000 if os.environ.get("EVERY_CALL") else 5
SIZE = 300
GEOMETRY = RingGeometry(entries=6, data_bytes=256)
LOOK = Look(start=0, end=10, first_bytes=10, first_crc=1)
MESSAGE = encode_message(
    BatchMessage(num_images=1, batch_size=9, pipeline_id=1, segment="/segment")
)


@dataclass(frozen=True)
class Store:
    """`fill` makes the old state, `change` the new one; `read` opens what is left and says which.

    `read` also stores something more: a store that can only be read again has not survived.
    """

    fill: Callable[[Path], None]
    change: Callable[[Path], None]
    read: Callable[[Path], object]
    allowed: tuple[object, ...]


def area(path):
    return FileArea("storage", path / "storage.vmem", SIZE)


def write_area(byte):
    def write(path):
        opened = area(path)
        opened.write(0, byte * SIZE)
        opened.flush()

    return write


def read_area(path):
    opened = area(path)
    found = opened.read(0, SIZE)
    opened.write(0, b"z" * SIZE)
    opened.flush()
    assert area(path).read(0, SIZE) == b"z" * SIZE
    return found


def save_procedures(*slots):
    def save(path):
        file = ProcedureFile(path / "procedures")
        file.save({slot: assemble_one("noop\nset a 1") for slot in slots})

    return save


def read_procedures(path):
    loaded = ProcedureFile(path / "procedures").load()
    assert not loaded.problem
    save_procedures(9)(path)
    assert list(ProcedureFile(path / "procedures").load().procedures) == [9]
    return tuple(loaded.procedures)


def append_elements(*bytes_):
    def append(path):
        ring, damaged = open_ring(path / "images.vmem", GEOMETRY)
        assert not damaged
        ring.append([byte * 50 for byte in bytes_])
        ring.close()

    return append


def elements(ring):
    found = [ring.element(position) for position in range(ring.count)]
    return tuple(ring.read(each, 0, 99)[:1] for each in found)


def read_ring(path):
    ring, damaged = open_ring(path / "images.vmem", GEOMETRY)
    assert not damaged
    found = elements(ring)
    ring.append([b"z" * 50])
    assert elements(ring)[-1] == b"z"
    ring.close()
    return found


def append_records(*batches):
    def append(path):
        journal = Journal(path / "journal", compact_bytes=400)
        for batch in batches:
            journal.append(Record(kind=Kind.TAKEN, batch=batch, message=MESSAGE))
            journal.append(Record(kind=Kind.FATE, batch=batch, fate=Fate.DELIVERED, images=1))
        journal.close()

    return append


def read_journal(path):
    journal = Journal(path / "journal")
    state = journal.state
    found = state.totals.taken, state.totals.delivered
    assert journal.damaged_bytes == 0
    journal.append(Record(kind=Kind.TAKEN, batch=state.last_batch + 1, message=MESSAGE))
    journal.close()
    return found


def quarantine(path):
    return Quarantine(path / "quarantine", on_evict=lambda batch: None)


def keep(*batches):
    def store(path):
        opened = quarantine(path)
        for batch in batches:
            verdict = Verdict(
                batch=batch, status=1, attempts=1, time_unix=0.0, message=MESSAGE, reason="r"
            )
            for _ in opened.store(verdict, 9, lambda offset, size: b"123456789"[:size]):
                continue

    return store


def read_quarantine(path):
    opened = quarantine(path)
    found = []
    for entry in opened.entries():
        data = entry.path.read_bytes()
        assert data[entry.payload_offset :] == b"123456789"
        found.append(entry.verdict.batch)
    assert len(found) == opened.count == len(list((path / "quarantine").iterdir()))
    keep(9)(path)
    return tuple(found)


def progress(slot):
    return Progress(next_slot=slot, look=LOOK)


def observe(slot, byte):
    def append(path):
        store = ObservationStore(path / "radio", 1000)
        store.append(byte * 100, progress(slot))
        store.close()

    return append


def read_observations(path):
    store = ObservationStore(path / "radio", 1000)
    assert not store.was_damaged
    found = store.ring.count, store.progress.next_slot
    store.append(b"z" * 100, progress(9))
    store.close()
    return found


def stand(*failures):
    def save(path):
        file = StandingsFile(path / "standings", Telemetry(make_table()))
        file.load()
        for count in failures:
            key = ModuleKey(pipeline=1, name="module", version="1")
            file.save([StandingRow(key=key, failures=count, is_out=count > 2)])

    return save


def read_standings(path):
    telemetry = Telemetry(table := make_table())
    found = StandingsFile(path / "standings", telemetry).load()
    assert not table["storage_errors"].get()
    stand(9)(path)
    assert StandingsFile(path / "standings", telemetry).load()[0].failures == 9
    return tuple(row.failures for row in found)


ONE, TWO, THREE = (byte * 400 for byte in (b"1", b"2", b"3"))


def uplink(*contents):
    def upload(path):
        store = FileStore(path / "modules", limits=FileLimits(reserve_bytes=0))
        for content in contents:
            offer = Offer(
                name="cloud.py", form=Form.PLAIN, content_size=len(content),
                content_crc=crc32c(content), content_sha256=sha256(content).digest(),
                wire_size=len(content), wire_digest=sha256(content).digest()[:DIGEST_BYTES],
            )  # fmt: skip
            stage = store.begin(offer)
            # Where an upload was interrupted it goes on.
            while stage.received < len(content):
                stage.append(content[stage.received : stage.received + 200])
            for _ in stage.finish():
                continue

    return upload


def read_files(path):
    """Return the versions after a restart: active and previous, each whole."""
    store = FileStore(path / "modules")
    entry = store.entry("cloud.py")
    found = {version.kind: version.sha256 for version in entry.versions}
    names = {sha256(content).digest(): content[:1] for content in (ONE, TWO)}
    for folder in ("active", "previous"):
        file = path / "modules" / folder / "cloud.py"
        assert not file.exists() or file.read_bytes() in (ONE, TWO)
    uplink(THREE)(path)
    assert (path / "modules" / "active" / "cloud.py").read_bytes() == THREE
    return tuple(names[found[kind]] for kind in sorted(found))


STORES = {
    "parameters": Store(write_area(b"a"), write_area(b"b"), read_area, (b"a" * SIZE, b"b" * SIZE)),
    "procedures": Store(
        save_procedures(30), save_procedures(30, 31), read_procedures, ((30,), (30, 31))
    ),
    # The second append wraps around the end and evicts: room may have been made already.
    "ring": Store(
        append_elements(b"a", b"b", b"c"), append_elements(b"d", b"e", b"f"), read_ring,
        ((b"a", b"b", b"c"), (b"c",), (b"b", b"c"), (b"b", b"c", b"d", b"e", b"f")),
    ),
    "journal": Store(
        append_records(1, 2, 3), append_records(4), read_journal, ((3, 3), (4, 3), (4, 4))
    ),
    # A full disk: the oldest goes.
    "quarantine": Store(keep(1), keep(2), read_quarantine, ((1,), (2,), (1, 2))),
    "standings": Store(stand(1), stand(3), read_standings, ((1,), (3,))),
    "uplinked files": Store(uplink(ONE), uplink(TWO), read_files, ((b"1",), (b"2", b"1"))),
    "observations": Store(observe(1, b"a"), observe(2, b"b"), read_observations, ((1, 1), (2, 2))),
}  # fmt: skip


@pytest.mark.parametrize(
    "decision", [KILL, errno.ENOSPC, errno.ENOMEM], ids=["killed", "ENOSPC", "ENOMEM"]
)
@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_store_struck_at_any_call_is_old_or_new_and_goes_on(store, decision, tmp_path):
    runs, seen = 0, set()

    def prepare():
        nonlocal runs
        runs += 1
        place = tmp_path / f"{runs}"
        place.mkdir()
        store.fill(place)
        return lambda: store.change(place)

    watched = {*CHANGES, "mmap"} if decision == errno.ENOMEM else CHANGES
    for ending in every_call(prepare, watched, decision):
        what = f"{ending.struck}"
        assert ending.status != BROKEN, what
        if ending.struck is None:
            assert ending.status == 0
        elif decision == KILL:
            assert ending.was_killed, what
        found = store.read(tmp_path / f"{runs}")
        assert found in store.allowed, what
        seen.add(found)
    assert found == store.allowed[-1]
    assert runs > 5
    assert len(seen) > 1


class Plans:
    """A DISH node in this process, for a watched fork: pushes and runs between on and off."""

    def __init__(self, directory, switch):
        self.directory, self.switch = directory, switch

    def site(self, case):
        return Site(case, self.directory / "state")

    def case(self):
        return Case(random=Random(1), directory=self.directory)

    def prepare(self):
        case = self.case()
        with case.cleanup:
            site = self.site(case)
            for slot in site.do(site.proc.slots(DISH)):
                site.do(site.proc.delete(DISH, slot))
            site.do(site.proc.push(DISH, 30, assemble_one("set p_uint32[0] 5")))

    def operation(self, *, goes_on=True):
        case = self.case()
        with case.cleanup:
            site = self.site(case)
            site.until(lambda: site.dish.runs.has_standby, "a forge stands by")
            self.switch.set(True)
            for request in (
                site.proc.run(DISH, 30),
                site.proc.push(DISH, 31, assemble_one("noop")),
                site.proc.delete(DISH, 31),
                site.proc.push(DISH, 32, assemble_one("noop")),
            ):
                # Whatever was struck: refused with a reason, or done.
                with contextlib.suppress(Refused, NoResponse):
                    site.do(request)
            site.until(lambda: len(site.dish.runs) == 0, "the run ends")
            self.switch.set(False)
            if goes_on:
                site.still_works()

    def check(self, what):
        case = self.case()
        with case.cleanup:
            site = self.site(case)
            slots = site.do(site.proc.slots(DISH))
            assert [slot for slot in slots if slot != 49] in ([30], [30, 31], [30, 32]), what
            site.still_works()
            site.do(site.proc.delete(DISH, 49))


def numbers(count):
    """Return up to MOST of the calls 1 to `count`, evenly."""
    most = min(count, MOST)
    return [1 + index * (count - 1) // (most - 1) for index in range(most)]


def counted(plans, watch):
    rule = Strike(0, KILL, when=plans.switch)
    plans.prepare()
    ending = run_sabotaged(plans.operation, watch, rule)
    assert ending.status == 0
    assert rule.seen > 3
    return rule.seen


def test_a_node_of_plans_killed_at_a_call_has_all_its_procedures(tmp_path):
    plans = Plans(tmp_path, Switch())
    for number in numbers(counted(plans, CHANGES)):
        plans.prepare()
        plans.switch.set(False)
        rule = Strike(number, KILL, when=plans.switch)
        ending = run_sabotaged(lambda: plans.operation(goes_on=False), CHANGES, rule)
        assert ending.status != BROKEN, ending
        plans.check(f"{ending.struck}")


@pytest.mark.parametrize("watch", [CHANGES, RESOURCES], ids=["changes", "resources"])
def test_a_node_of_plans_goes_on_after_a_call_that_failed(watch, tmp_path):
    plans = Plans(tmp_path, Switch())
    for number in numbers(counted(plans, watch)):
        plans.prepare()
        plans.switch.set(False)
        code = (errno.EMFILE, errno.ENOSPC, errno.EAGAIN)[number % 3]
        ending = run_sabotaged(plans.operation, watch, Strike(number, code, when=plans.switch))
        assert ending.status == 0, (errno.errorcode[code], ending)
        plans.check(f"{ending.struck}")
