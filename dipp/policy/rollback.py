"""Keep the trials of uplinked files on disk and put the version before back if one fails.

Driver of `dipp.policy.trials`. The record is written before anything is rolled back, so a node that
is killed in between finishes it at its next start. What counts is the file that a batch began with:
a batch gets tickets when it starts, and they say nothing about a version that came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from csp.files.disk import StoreOps, SystemStoreOps, sync_folder, write_file
from csp.files.status import FilesError
from csp.files.store import FileStore
from csp.files.wire import VersionKind
from dipp.errors import ContentError
from dipp.params import Telemetry
from dipp.policy.settings import TRIALS, Settings
from dipp.policy.trials import Trials, Trust, Version
from dipp.results import Note
from dipp.runner.values import Chain, ModuleStep, clip

_TEXT_BYTES = 179
_RECORD_LIMIT_BYTES = 1 << 20

# Per position, the versions on trial that the step there uses.
Tickets = Mapping[int, Sequence[Version]]
NO_TICKETS: Final[Tickets] = {}


class Trialist:
    """The trials of the files in a store."""

    def __init__(
        self,
        path: Path,
        active: Path,
        settings: Settings,
        *,
        telemetry: Telemetry,
        note: Note,
        ops: StoreOps | None = None,
    ) -> None:
        """`path` is the record, `active` the folder of the versions in use. Never raises."""
        self._path = str(path)
        self._folder = str(path.parent)
        self._active = active
        self._settings = settings
        self._telemetry = telemetry
        self._note = note
        self._ops: StoreOps = ops if ops is not None else SystemStoreOps()
        self._store: FileStore | None = None
        self._is_first, self._trials = self._load()

    def _load(self) -> tuple[bool, Trials]:
        try:
            state = self._ops.state(self._path)
            if state is None:
                return True, Trials()
            return False, Trials.decode(self._ops.read(self._path, _RECORD_LIMIT_BYTES))
        except (OSError, ContentError):
            self._telemetry.count("storage_errors")
            return True, Trials()

    def attach(self, store: FileStore) -> None:
        """Take over the files of a store: find what was installed or had failed before a kill."""
        self._store = store
        before = self._trials.encode()
        for name in store.names():
            version = self._active_version(name)
            if version is None:
                continue
            known = self._trials.get(name, version)
            if self._is_first:
                # No record yet: what is there was there before, and nothing speaks against it.
                self._trials.trust(name, version)
            elif known is None:
                self._trials.activated(name, version)
            elif known.trust is Trust.FAILED:
                self._roll_back(known, 0)
        if self._is_first or self._trials.encode() != before:
            self._save()
        self.publish()

    def changed(self, name: str) -> None:
        """Hear that another version of a file became active, or none."""
        version = self._active_version(name)
        if version is not None and self._trials.activated(name, version):
            self._note("trial", file=name, sha256=version[:16])
            self._save()
        self.publish()

    # -- batches

    def tickets(self, chain: Chain) -> Tickets:
        """Return which files on trial a batch that starts now uses, and where."""
        active = {
            each.name: each
            for each in self._trials.on_trial()
            if self._active_version(each.name) == each.sha256
        }
        if not active:
            return NO_TICKETS
        return {
            step.index: [active[name] for name in self._files(step) if name in active]
            for step in chain.steps
        }

    def _files(self, step: ModuleStep) -> set[str]:
        """Return the names of the files a step uses: its module, and what its settings name."""
        names = {Path(value).name for _, value in step.params if isinstance(value, str)}
        path = Path(step.path)
        return names | {path.name} if path.parent == self._active else names

    def succeeded(self, tickets: Sequence[Version]) -> None:
        """Count a success of these files."""
        passed = [each for each in tickets if self._trials.succeeded(each.name, each.sha256)]
        if passed:
            for each in passed:
                self._note("trial_passed", file=each.name, sha256=each.sha256[:16])
            self._save()
            self.publish()

    def failed(self, tickets: Sequence[Version], code: int) -> None:
        """Count a failed batch of these files; those that have failed their trial go."""
        limit = self._settings.trial_batches
        over = [each for each in tickets if self._trials.failed(each.name, each.sha256, limit)]
        if not tickets:
            return
        self._save()
        for each in over:
            self._roll_back(each, code)
        self.publish()

    # -- the store

    def _active_version(self, name: str) -> str | None:
        return self._versions(name).get(VersionKind.ACTIVE)

    def _versions(self, name: str) -> dict[VersionKind, str]:
        try:
            entry = self._store.entry(name) if self._store is not None else None
        except (FilesError, OSError):
            return {}
        return {each.kind: each.sha256.hex() for each in entry.versions} if entry else {}

    def _roll_back(self, version: Version, code: int) -> None:
        """Replace a version that has failed by the one before it, else by the shipped one."""
        name, store, found = version.name, self._store, self._versions(version.name)
        if store is None or found.get(VersionKind.ACTIVE) != version.sha256:
            return
        previous = found.get(VersionKind.PREVIOUS)
        known = self._trials.get(name, previous) if previous else None
        try:
            if previous and not (known and known.trust is Trust.FAILED):
                store.rollback(name, bytes.fromhex(previous))
            elif VersionKind.SHIPPED in found:
                previous = None
                store.retire(name)
            else:
                self._note("rollback_impossible", file=name, sha256=version.sha256[:16], code=code)
                return
        except (FilesError, OSError):
            # The record says that it has failed: the next start tries again.
            self._telemetry.count("storage_errors")
            return
        self._telemetry.count("rollbacks")
        target = previous[:16] if previous else "shipped"
        self._note("rollback", file=name, sha256=version.sha256[:16], to=target, code=code)

    # -- the record

    def _save(self) -> None:
        new = f"{self._path}.new"
        try:
            write_file(self._ops, new, self._trials.encode())
            self._ops.rename(new, self._path)
            sync_folder(self._ops, self._folder)
        except OSError:
            # Forgotten at the next start only; the trial goes on until then.
            self._telemetry.count("storage_errors")

    def publish(self) -> None:
        """Show what is on trial."""
        limit = self._settings.trial_batches
        texts = [
            f"{each.name} {each.failures}/{limit}"
            for each in self._trials.on_trial()
            if self._active_version(each.name) == each.sha256
        ]
        self._telemetry.put_text(TRIALS, clip("; ".join(texts), _TEXT_BYTES))
