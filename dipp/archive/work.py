"""What a runner does with one unit: find it, run the chain, write the result. Driver.

The chain runs in the flight process tree: modules run in one-shot children of hosts. Whatever goes
wrong on the way is a report.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dipp.archive.chains import Context
from dipp.archive.keys import (
    RECORD_NAME,
    Input,
    record_place,
    result_key,
    result_place,
    safe_stem,
)
from dipp.archive.places import SourceError, Store, StoreError, fetch
from dipp.archive.plan import accept_record
from dipp.archive.preview import UNDRAWABLE, shrink, thumbnail
from dipp.archive.records import Crash, Hashed, Order, Output, Record, Report, Stage, State
from dipp.batch import Buffer
from dipp.errors import Code, ContentError, DippError, is_retryable
from dipp.inputs import load_images, source_of
from dipp.metadata import Metadata
from dipp.runfiles import FileRunner, write_images
from dipp.runner.executor import Completed, Failed, Outcome, StageStats

_LOG_CHARS = 2000


class _ChangedError(DippError):
    """An input is not what it was a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The files of a unit on this machine, hashed."""

    key: str
    files: tuple[Path, ...]
    hashed: tuple[Hashed, ...]


class Work:
    """Turns orders into reports. Raises Cancelled if the line is hung up meanwhile."""

    def __init__(self, context: Context, runner: FileRunner, store: Store) -> None:
        self._context = context
        self._runner = runner
        self._store = store
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def do(self, order: Order) -> Report:
        """Work on one unit; every failure is a report."""
        try:
            with self._store.workroom() as room:
                try:
                    found = self._find(order, room)
                except (SourceError, _ChangedError) as error:
                    return Report(state=State.UNREADABLE, reason=str(error))
                except OSError as error:
                    return Report(state=State.UNREADABLE, reason=_reason(error))
                return self._known(found, order) or self._make(found, order, room)
        except StoreError as error:
            return Report(state=State.STORE, reason=str(error), code=error.code)

    def _find(self, order: Order, room: Path) -> _Found:
        """Bring the files here and hash them. Raises OSError, SourceError."""
        files = tuple(fetch(each, room) for each in order.unit.inputs)
        hashed = tuple(_hash(*pair) for pair in zip(order.unit.inputs, files, strict=True))
        names = [(each.listed.name, each.sha256) for each in hashed]
        key = result_key(self._context.fingerprint, self._context.shape_text, names)
        return _Found(key=key, files=files, hashed=hashed)

    def _known(self, found: _Found, order: Order) -> Report | None:
        """Return what is there already; clear away what is damaged or shall not count."""
        data = self._store.read(record_place(found.key))
        if data is None:
            return None
        place = result_place(found.key)
        record = accept_record(data, self._context.fingerprint, self._store.names(place))
        if record is not None and not (record.state is State.FAILED and order.redo):
            return Report(state=record.state, record=record)
        self._store.remove(place)
        return None

    def _make(self, found: _Found, order: Order, room: Path) -> Report:
        out = room / "out"
        with _StoreWrites(room):
            out.mkdir()
        started = time.monotonic()
        if order.bury is not None:
            return self._commit(self._record(found, started, crash=order.bury), out)
        images: list[tuple[Metadata, bytes]] = []
        try:
            for file in found.files:
                images += load_images(file, self._context.shape)
            _check_unchanged(found)
            outcome, attempts = self._run(images)
        except ContentError as error:
            crash = Crash(code=error.code, last_log=str(error))
            return self._commit(self._record(found, started, crash=crash), out)
        except _ChangedError as error:
            return Report(state=State.UNREADABLE, reason=str(error))
        except OSError as error:
            return Report(state=State.UNREADABLE, reason=_reason(error))
        if isinstance(outcome, Failed):
            return self._failed(found, outcome, images, out, started, attempts)
        try:
            record = self._write(found, outcome, out, started, attempts)
        finally:
            outcome.close()
        return self._commit(record, out)

    def _run(self, images: Sequence[tuple[Metadata, bytes]]) -> tuple[Outcome, int]:
        """Run the chain; once more after a timeout or where a resource was short."""
        outcome = self._runner.run(self._context.chain, images)
        if isinstance(outcome, Completed) or outcome.code == Code.HOST_DIED:
            return outcome, 1
        if not is_retryable(outcome.code):
            return outcome, 1
        return self._runner.run(self._context.chain, images), 2

    def _failed(
        self,
        found: _Found,
        outcome: Failed,
        images: Sequence[tuple[Metadata, Buffer]],
        out: Path,
        started: float,
        attempts: int,
    ) -> Report:
        crash = outcome.crash
        where = f"module {crash.module} {crash.name}: {crash.last_log}"
        # A host that could still say which module it is about was not killed by somebody else.
        was_told = crash.last_log.startswith(f"{crash.name}: ")
        died = outcome.code in (Code.HOST_DIED, Code.LOAD_KILLED)
        if died or (outcome.code == Code.LOAD_CRASHED and not was_told):
            return Report(state=State.DIED, reason=where, code=outcome.code)
        if outcome.module_index and not outcome.stages:
            # No module has run: the host refused the chain, as it would for every file.
            return Report(state=State.CHAIN, reason=f"{outcome.code} {where}", code=outcome.code)
        record = self._record(
            found,
            started,
            crash=Crash(
                code=outcome.code,
                module=outcome.module_index,
                name=crash.name,
                signal=crash.signal,
                exit_status=crash.exit_status,
                exception=crash.exception,
                line=crash.line,
                last_log=crash.last_log,
                log=outcome.log[-_LOG_CHARS:],
            ),
            stages=_stages(outcome.stages),
            attempts=attempts,
            # What the module saw says more than an empty place.
            thumbnail=self._thumbnail(images),
        )
        return self._commit(record, out)

    def _write(
        self, found: _Found, outcome: Completed, out: Path, started: float, attempts: int
    ) -> Record:
        with _StoreWrites(out):
            written = write_images(outcome, out, safe_stem(found.files[0].name))
        small = self._drawn(found.files, written)
        pairs = zip(written, outcome.images, strict=True)
        return self._record(
            found,
            started,
            outputs=tuple(_output(path, metadata) for path, (metadata, _) in pairs),
            stages=_stages(outcome.stages),
            attempts=attempts,
            thumbnail=small or self._thumbnail(outcome.images),
        )

    def _drawn(self, files: Sequence[Path], written: Sequence[Path]) -> str:
        """Return what the reader of a format draws for people, empty if there is none."""
        source = source_of(files[0])
        if source is None or not written or not self._context.thumbnail_px:
            return ""
        try:
            return shrink(source.preview(files, written), self._context.thumbnail_px)
        except UNDRAWABLE:
            return ""

    def _thumbnail(self, images: Sequence[tuple[Metadata, Buffer]]) -> str:
        if not self._context.thumbnail_px:
            return ""
        return thumbnail(images, self._context.thumbnail_px)

    def _record(
        self,
        found: _Found,
        started: float,
        *,
        crash: Crash | None = None,
        outputs: tuple[Output, ...] = (),
        stages: tuple[Stage, ...] = (),
        attempts: int = 1,
        thumbnail: str = "",
    ) -> Record:
        return Record(
            key=found.key,
            chain=self._context.fingerprint,
            state=State.FAILED if crash else State.DONE,
            inputs=found.hashed,
            outputs=outputs,
            stages=stages,
            crash=crash,
            wall_s=round(time.monotonic() - started, 6),
            attempts=attempts,
            worker=self._worker,
            finished_unix=int(time.time()),
            thumbnail=thumbnail,
        )

    def _commit(self, record: Record, out: Path) -> Report:
        with _StoreWrites(out):
            (out / RECORD_NAME).write_bytes(record.encode())
        is_new = self._store.commit(out, result_place(record.key))
        return Report(state=record.state, record=record, is_new=is_new)


class _StoreWrites:
    """Turn errors of files that are prepared for the store into errors of the store."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            text = f"{self._place} cannot be written: {error.strerror}; make room and run again"
            raise StoreError(text) from error


def _hash(entry: Input, file: Path) -> Hashed:
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Hashed(uri=entry.uri, size_bytes=size, stamp=entry.stamp, sha256=digest)


def _check_unchanged(found: _Found) -> None:
    """Make sure that what was loaded is what was hashed. Raises _ChangedError, OSError."""
    for file, each in zip(found.files, found.hashed, strict=True):
        status = file.stat()
        if status.st_size != each.size_bytes or (
            each.stamp.isdigit() and str(status.st_mtime_ns) != each.stamp
        ):
            raise _ChangedError(f"{each.uri} has changed since it was listed; run again")


def _reason(error: OSError) -> str:
    return f"{error.filename or 'file'}: {error.strerror or error}"


def _stages(stages: Sequence[StageStats]) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            name=stage.name,
            wall_s=round(stage.wall_s, 6),
            cpu_s=round(stage.cpu_s, 6),
            peak_rss_kb=stage.peak_rss_kb,
        )
        for stage in stages
    )


def _output(path: Path, metadata: Metadata) -> Output:
    return Output(
        name=path.name,
        size_bytes=path.stat().st_size,
        width=metadata.width,
        height=metadata.height,
        channels=metadata.channels,
        items=dict(metadata.items),
    )
