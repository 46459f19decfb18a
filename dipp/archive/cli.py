"""The command `dipp archive`: options, progress, and the report at the end. Driver."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dipp.archive.chains import Context, describe_chain, make_context
from dipp.archive.cluster import ClusterEngine
from dipp.archive.dispatch import Dispatcher, Finished
from dipp.archive.keys import Unit, record_place
from dipp.archive.local import LocalEngine
from dipp.archive.patterns import MARKER
from dipp.archive.places import Store, StoreError, join_uri, list_inputs, make_units, open_store
from dipp.archive.plan import INDEX_NAME, Ledger, accept_record, whole_results
from dipp.archive.progress import Progress, show_progress
from dipp.archive.records import Record, Report, State
from dipp.archive.summary import Totals, write_reports
from dipp.errors import ContentError
from dipp.inputs import FrameShape
from dipp.runfiles import add_chain_options, chain_of

_THUMBNAIL_PX = 112
# The index only saves reading; so often is enough.
_INDEX_PERIOD_S = 30.0


class Engine(Protocol):
    """What runs units."""

    def run(self, dispatcher: Dispatcher) -> Iterator[Finished]:
        """Work until the dispatcher is done; give what is finished."""


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dipp archive`."""
    parser.description = (
        "Run a pipeline over thousands of files in the process tree that flies. Run the same "
        "command again to go on after an interruption: what has a result is left alone."
    )
    parser.epilog = (
        "Reads .png .jpg .tif .raw .batch .fits .fits.gz. Addresses s3://bucket/prefix take "
        "credentials and endpoint from the usual AWS variables. Exit status: 0 every file has a "
        "result, 1 some have none (see quarantine.csv), 2 wrong use. Details: docs/archive.md."
    )
    parser.add_argument("pipeline", help="pipeline file, or the name of a shipped one: aurora, ...")
    parser.add_argument("sources", nargs="+", metavar="SOURCE",
                        help="directory, file, quoted glob, or s3://bucket/prefix")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DEST",
                        help="directory or s3://bucket/prefix; every chain gets a directory of "
                        "its own in it")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, metavar="N",
                        help="runner processes, default: one per core")  # fmt: skip
    parser.add_argument("--engine", choices=("local", "dask"), default="local",
                        help="where the runners are, default %(default)s")  # fmt: skip
    parser.add_argument("--scheduler", default="", metavar="ADDRESS",
                        help="Dask scheduler, e.g. tcp://host:8786; default: a cluster of its own "
                        "on this machine")  # fmt: skip
    parser.add_argument("--retry-failed", action="store_true",
                        help="run what is in quarantine again")  # fmt: skip
    parser.add_argument("--thumbnail", type=int, default=_THUMBNAIL_PX, metavar="PX",
                        help="longest side on the page, 0: none; default %(default)s")  # fmt: skip
    add_chain_options(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(usage=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if any file has no result. Raises DippError, OSError."""
    _check_usage(arguments)
    shape = FrameShape.parse(arguments.size, arguments.bits)
    pipeline = Path(arguments.pipeline).stem
    context = make_context(pipeline, chain_of(arguments), shape, arguments.thumbnail)
    context = replace(context, store=join_uri(arguments.out, context.folder))
    store = open_store(context.store)
    context = replace(context, store=store.uri)
    with _interruptible(), store.lock(), show_progress(is_quiet=arguments.json) as progress:
        progress.say("listing")
        units = make_units(each for source in arguments.sources for each in list_inputs(source))
        text = json.dumps(describe_chain(context), indent=1)
        store.write(MARKER, text.encode("utf-8", "backslashreplace") + b"\n")
        ledger = _load_ledger(store, context, progress)
        totals = _work(arguments, context, store, ledger, units, progress)
        progress.say("writing the tables")
        summary = write_reports(store, context, ledger, units, totals)
    print(summary.as_json() if arguments.json else summary.as_text())
    if summary.problem:
        print(f"dipp archive: {summary.problem}", file=sys.stderr)
    return 0 if summary.is_complete else 1


def _check_usage(arguments: argparse.Namespace) -> None:
    """End with status 2 if the options make no sense."""
    if arguments.workers < 0:
        arguments.usage(f"--workers {arguments.workers}: wanted 1 or more")
    if arguments.scheduler and arguments.engine != "dask":
        arguments.usage("--scheduler needs --engine dask")
    if not 0 <= arguments.thumbnail <= 256:
        arguments.usage(f"--thumbnail {arguments.thumbnail}: wanted 0 to 256")
    if not arguments.timeout > 0:
        arguments.usage(f"--timeout {arguments.timeout:g}: wanted more than 0")


def _load_ledger(store: Store, context: Context, progress: Progress) -> Ledger:
    sizes = store.names()
    names = whole_results(sizes)
    progress.begin("reading results", len(names))
    records: list[Record] = []
    for _, data in store.read_many(names):
        progress.advance()
        record = accept_record(data, context.fingerprint, sizes)
        if record is not None:
            records.append(record)
    return Ledger(context.fingerprint, context.shape_text, records, store.read(INDEX_NAME))


def _work(
    arguments: argparse.Namespace,
    context: Context,
    store: Store,
    ledger: Ledger,
    units: list[Unit],
    progress: Progress,
) -> Totals:
    """Do what is left; an interruption or a store that fails ends it early."""
    left = ledger.left(units, redo_failed=arguments.retry_failed)
    totals, started = Totals(left=len(left)), time.monotonic()
    progress.begin(context.pipeline, len(units), len(units) - len(left))
    if not left:
        return totals
    redo = {unit.uris for unit in left} if arguments.retry_failed else ()
    dispatcher = Dispatcher(left, redo)
    saved = started
    try:
        with _engine(arguments, context, len(left)) as engine:
            for finished in engine.run(dispatcher):
                report = _whole(finished.report, store)
                ledger.note(finished.unit, report)
                totals.count(report)
                progress.advance(failed=report.state is not State.DONE)
                if time.monotonic() - saved > _INDEX_PERIOD_S:
                    store.write(INDEX_NAME, ledger.encode())
                    saved = time.monotonic()
        totals.problem = dispatcher.problem
    except KeyboardInterrupt:
        totals.problem = "interrupted; the same command goes on where this one stopped"
    except StoreError as error:
        totals.problem = str(error)
    totals.wall_s = time.monotonic() - started
    return totals


@contextlib.contextmanager
def _engine(arguments: argparse.Namespace, context: Context, units: int) -> Iterator[Engine]:
    workers = min(arguments.workers or len(os.sched_getaffinity(0)), units)
    if arguments.engine == "dask":
        with ClusterEngine(context, workers, arguments.scheduler) as cluster:
            yield cluster
    else:
        with LocalEngine(context, workers) as local:
            yield local


def _whole(report: Report, store: Store) -> Report:
    """Fetch a record that was too long for a message. Raises StoreError."""
    if report.record is not None or report.state not in (State.DONE, State.FAILED):
        return report
    try:
        return replace(report, record=Record.decode(store.read(record_place(report.reason)) or b""))
    except ContentError as error:
        raise StoreError(f"{store.uri}: result {report.reason}: {error}") from error


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
