"""The files of a node and the uploads under way, through crashes at any system call.

Theory of operation: below the store's folder, `active/` holds the files in use, `previous/` the
version before each (see `csp.files.versions`), and `staged/` what is not yet a file, among it
`NAME~stage`, the upload under way (see `csp.files.stagelog`). Nothing becomes a file before length,
CRC32C and SHA-256 of its whole content are right, and, if the node trusts keys, one of them signed
it (`csp.files.signatures`, folder `signed/`). One process owns the folder.
Source: dipp.md 12 and 14.5, design.md 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csp.crc import crc32c
from csp.errors import DecodeError
from csp.files.disk import (
    StoreOps,
    SystemStoreOps,
    append_file,
    remove_file,
    sync_file,
    sync_folder,
    write_file,
)
from csp.files.forms import Form, decode_form
from csp.files.signatures import Signatures
from csp.files.stagelog import PIECE_MIN_BYTES, Scan, encode_header, encode_piece, file_limit, scan
from csp.files.status import FilesError, Status
from csp.files.versions import Versions
from csp.files.wire import DIGEST_BYTES, Entry, Offer, Part, StageState, check_name
from csp.ledger import Ledger
from csp.signing import Trust

_STAGE, _STAGE_NEW = "~stage", "~stage~part"
# At 9.6 kbit/s a power cut then costs at most some ten seconds of uplink.
_SYNC_EVERY_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the store accepts: bytes of one file, number of names, bytes left free on the disk."""

    content_bytes: int = 32 << 20
    files: int = 256
    reserve_bytes: int = 4 << 20


def _ignore(name: str) -> None:
    """Do nothing: for a store whose files nobody keeps loaded."""


class Stage:
    """An upload under way, as one connection sees it. Made by `FileStore.begin`.

    It is dead once it is installed, another upload or a delete took its place, or writing failed.
    """

    def __init__(self, store: FileStore, offer: Offer, received: int) -> None:
        self._store = store
        self.offer = offer
        self.received = received
        self.dead = False
        self._unsynced = 0

    @property
    def complete(self) -> bool:
        """Whether the whole stream is on board."""
        return self.received == self.offer.wire_size

    def append(self, data: bytes) -> None:
        """Store the next bytes of the stream. Raises FilesError, OSError.

        After an OSError the stage is dead; `FileStore.begin` finds what reached the disk.
        """
        self._check_alive()
        whole = self.received + len(data)
        too_small = len(data) < PIECE_MIN_BYTES and whole != self.offer.wire_size
        if whole > self.offer.wire_size or too_small:
            raise FilesError(Status.BAD_REQUEST, f"{len(data)} bytes at {self.received}")
        try:
            self._store.append_stage(self.offer.name, encode_piece(data))
        except OSError:
            self.dead = True
            raise
        self.received = whole
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_EVERY_BYTES:
            self.sync()

    def sync(self) -> None:
        """Make what was received durable. Raises OSError. Harmless on a dead stage."""
        if self._unsynced and not self.dead:
            self._store.sync_stage(self.offer.name)
            self._unsynced = 0

    def finish(self) -> Iterator[None]:
        """Verify and install, in steps between which the caller may do other things.

        If the disk lost something, `received` falls back and the upload goes on from there. Raises
        FilesError (after bad content the stage is gone), OSError (the stage stays).
        """
        self._check_alive()
        store, name = self._store, self.offer.name
        found = store.read_stage(name)
        self.received = len(found.stream)
        if not self.complete:
            return
        content = bytearray()
        try:
            for piece in self._content(found.stream):
                content += piece
                yield
                self._check_alive()
            if crc32c(content) != self.offer.content_crc:
                raise FilesError(Status.WRONG_CONTENT, name)
        except DecodeError as error:
            store.drop_stage(name)
            raise FilesError(Status.BAD_STREAM, str(error)) from error
        except FilesError as error:
            if error.status is Status.WRONG_CONTENT:
                store.drop_stage(name)
            raise
        store.install(name, bytes(content))

    def _content(self, stream: bytes) -> Iterator[bytes]:
        offer = self.offer
        if hashlib.sha256(stream).digest()[:DIGEST_BYTES] != offer.wire_digest:
            raise FilesError(Status.WRONG_CONTENT, offer.name)
        digest = hashlib.sha256()
        base = self._store.base(offer)
        for piece in decode_form(offer.form, stream, base, offer.content_size):
            digest.update(piece)
            yield piece
        if digest.digest() != offer.content_sha256:
            raise FilesError(Status.WRONG_CONTENT, offer.name)

    def _check_alive(self) -> None:
        if self.dead:
            raise FilesError(Status.REPLACED, self.offer.name)


class FileStore:
    """The files below one folder. Opening it settles what a crash left. Raises OSError.

    `installed` is called with the name whenever another version has become active, also by
    rollback or delete. `shipped` are existing folders with versions that came with the software;
    they are listed and serve as bases of deltas, and are never written. With `trust`, which needs
    a `ledger`, no content becomes active that was not signed.
    """

    def __init__(
        self,
        folder: Path | str,
        installed: Callable[[str], None] = _ignore,
        *,
        limits: Limits | None = None,
        shipped: Sequence[Path | str] = (),
        ops: StoreOps | None = None,
        trust: Trust | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.limits = limits if limits is not None else Limits()
        self._ops: StoreOps = ops if ops is not None else SystemStoreOps()
        self._folder = str(folder)
        self._staged = f"{self._folder}/staged"
        self._stages: dict[str, Stage] = {}
        self._ops.make_folder(self._staged)
        self.signatures = Signatures(f"{self._folder}/signed", self._ops, trust, ledger)
        self._versions = Versions(
            self._folder, self._staged, [str(each) for each in shipped], installed, self._ops
        )
        self._versions.recover()
        for name in self._ops.list_files(self._staged):
            if name.endswith(_STAGE) and self._scan(name.removesuffix(_STAGE)) is None:
                remove_file(self._ops, f"{self._staged}/{name}")

    # -- asking

    def names(self) -> list[str]:
        """Return all names under which there is something, sorted."""
        staged = (
            name.removesuffix(_STAGE)
            for name in self._ops.list_files(self._staged)
            if name.endswith(_STAGE)
        )
        return sorted(filter(_is_name, self._versions.names().union(staged)))

    def entry(self, name: str) -> Entry | None:
        """Return what there is under a name, None if nothing. Raises FilesError, OSError."""
        check_name(name)
        versions = tuple(self._versions.of(name))
        stage = self._stage_state(name)
        if not versions and stage is None:
            return None
        return Entry(name=name, versions=versions, stage=stage)

    def free_bytes(self) -> int:
        """Return how many bytes uploads may still use."""
        return max(0, self._ops.free_bytes(self._folder) - self.limits.reserve_bytes)

    def base(self, offer: Offer) -> bytes | None:
        """Return the content a delta starts from, None if it is no delta. Raises FilesError."""
        if offer.base_sha256 is None:
            return None
        content = self._versions.content(offer.name, offer.base_sha256)
        if content is None:
            raise FilesError(Status.NO_BASE, offer.name)
        return content

    def _stage_state(self, name: str) -> StageState | None:
        stage = self._stages.get(name)
        if stage is not None and not stage.dead:
            offer, received = stage.offer, stage.received
        else:
            found = self._scan(name)
            if found is None:
                return None
            offer, received = found.offer, len(found.stream)
        return StageState(
            form=offer.form,
            content_sha256=offer.content_sha256,
            wire_size=offer.wire_size,
            received=received,
            wire_digest=offer.wire_digest,
        )

    # -- uploading

    def begin(self, offer: Offer) -> Stage | None:
        """Start or continue an upload; None if its content is active already.

        A stage of another offer is dropped, and a connection that used this one before loses it.
        Raises FilesError, OSError.
        """
        name = check_name(offer.name)
        if self._versions.active_sha256(name) == offer.content_sha256:
            self.drop_stage(name)
            return None
        limit = self.limits.content_bytes
        if offer.content_size > limit or offer.wire_size > limit:
            raise FilesError(Status.TOO_LARGE, f"{offer.content_size} bytes, {limit} allowed")
        if offer.form is Form.PLAIN and offer.wire_size != offer.content_size:
            raise FilesError(Status.BAD_REQUEST, "plain content of two sizes")
        # Now and not only at the end: the uplink is too slow for what will be refused.
        self.signatures.check_new(name, offer.content_sha256)
        self.base(offer)
        self._retire(name)
        found = self._scan(name)
        if found is not None and found.offer == offer:
            self._ops.truncate(self._stage_path(name), found.intact_bytes)
            received = len(found.stream)
        else:
            self._create_stage(offer)
            received = 0
        stage = self._stages[name] = Stage(self, offer, received)
        return stage

    def _create_stage(self, offer: Offer) -> None:
        name = offer.name
        self.drop_stage(name)
        names = self.names()
        if name not in names and len(names) >= self.limits.files:
            raise FilesError(Status.TOO_MANY, f"{len(names)} files")
        needed = file_limit(offer.wire_size) + offer.content_size + self._versions.active_size(name)
        if self.free_bytes() < needed:
            raise FilesError(Status.DISK_FULL, f"{needed} bytes needed")
        part = f"{self._staged}/{name}{_STAGE_NEW}"
        write_file(self._ops, part, encode_header(offer))
        self._ops.rename(part, self._stage_path(name))
        sync_folder(self._ops, self._staged)

    def append_stage(self, name: str, data: bytes) -> None:
        """Append to a staged file. Raises OSError; part of the data may then be there."""
        append_file(self._ops, self._stage_path(name), data)

    def sync_stage(self, name: str) -> None:
        """Make a staged file durable. Raises OSError."""
        sync_file(self._ops, self._stage_path(name))

    def read_stage(self, name: str) -> Scan:
        """Return what a staged file holds. Raises FilesError if it is gone or unreadable."""
        found = self._scan(name)
        if found is None:
            raise FilesError(Status.REPLACED, name)
        self._ops.truncate(self._stage_path(name), found.intact_bytes)
        return found

    def install(self, name: str, content: bytes) -> None:
        """Make verified content the active version and end its upload.

        Raises FilesError if nobody may use it, OSError.
        """
        self.signatures.check_new(name, hashlib.sha256(content).digest())
        self._versions.install(name, content)
        self.drop_stage(name)

    def drop_stage(self, name: str) -> bool:
        """Forget an upload under way; return whether there was one. Raises OSError."""
        self._retire(name)
        return remove_file(self._ops, self._stage_path(name))

    def _retire(self, name: str) -> None:
        stage = self._stages.pop(name, None)
        if stage is not None:
            stage.dead = True

    def _stage_path(self, name: str) -> str:
        return f"{self._staged}/{name}{_STAGE}"

    def _scan(self, name: str) -> Scan | None:
        path = self._stage_path(name)
        state = self._ops.state(path)
        if state is None:
            return None
        try:
            return scan(self._ops.read(path, state.size))
        except DecodeError:
            return None

    # -- versions

    def rollback(self, name: str, sha256: bytes) -> bool:
        """Exchange active and previous version if the previous one has this hash.

        Returns False if it is active already. Raises FilesError (NOT_FOUND, UNSIGNED,
        BAD_SIGNATURE), OSError.
        """
        self.signatures.check(check_name(name), sha256)
        return self._versions.rollback(name, sha256)

    def sign(self, name: str, sha256: bytes, seal: bytes) -> bool:
        """Keep the signature of a content that is here or will come.

        Returns False if none is needed. Raises FilesError (BAD_SIGNATURE, OLD_SIGNATURE),
        OSError, MisuseError if the ledger fails.
        """
        check_name(name)
        if not self.signatures.accept(name, sha256, seal):
            return False
        kept = {each.sha256 for each in self._versions.of(name)}
        self.signatures.forget(name, {sha256, *kept})
        return True

    def retire(self, name: str) -> bool:
        """Make the active version the previous one, so that the shipped one is in use.

        Returns False if there is no active one. Raises FilesError, OSError.
        """
        return self._versions.retire(check_name(name))

    def delete(self, name: str, parts: Part) -> None:
        """Remove parts of what is there under a name. Raises FilesError if nothing was, OSError."""
        check_name(name)
        found = [
            Part.STAGE in parts and self.drop_stage(name),
            Part.PREVIOUS in parts and self._versions.delete_previous(name),
            Part.ACTIVE in parts and self._versions.delete_active(name),
        ]
        if not any(found):
            raise FilesError(Status.NOT_FOUND, name)


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except FilesError:
        return False
    return True
