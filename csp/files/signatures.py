"""The signatures of a node's files: which content may become active under which name.

Theory of operation: a seal comes ahead of the content and is kept as `signed/NAME~HASH`, found by
what it is for; so versions may be exchanged, rolled back or sent again, and each has its own seal
beside it. A seal is checked when it comes (with its counter, which must be the newest of the name),
before content is taken, before it becomes active, and whenever somebody is about to use the file
(without the counter: the previous version is older and still good). Without keys nothing is asked.
"""

from __future__ import annotations

from collections.abc import Collection

from csp.errors import DecodeError, MisuseError
from csp.files.disk import StoreOps, remove_file, sync_folder, write_file
from csp.files.status import FilesError, Status
from csp.ledger import Ledger
from csp.signing import SEAL_BYTES, Seal, Trust, decode_seal, file_statement

_NEW = "~new"
# Enough of the hash to tell the versions of one file apart; the seal itself covers all of it.
_HASH_DIGITS = 32


class Signatures:
    """The seals in one folder. `trust` None asks for nothing. One process owns the folder."""

    def __init__(
        self, folder: str, ops: StoreOps, trust: Trust | None = None, ledger: Ledger | None = None
    ) -> None:
        """Raises OSError, MisuseError for trust without a ledger."""
        if trust is not None and ledger is None:
            raise MisuseError("signatures need a ledger of counters")
        self._folder = folder
        self._ops = ops
        self._trust = trust
        self._ledger = ledger
        if trust is not None:
            ops.make_folder(folder)
            for name in ops.list_files(folder):
                if name.endswith(_NEW):
                    remove_file(ops, f"{folder}/{name}")

    @property
    def are_required(self) -> bool:
        """Whether content without a signature is refused."""
        return self._trust is not None

    def accept(self, name: str, sha256: bytes, data: bytes) -> bool:
        """Keep the seal of a content. Returns False if signatures are not asked for here.

        Raises FilesError (BAD_SIGNATURE, OLD_SIGNATURE), OSError, MisuseError if the ledger fails.
        """
        if self._trust is None or self._ledger is None:
            return False
        seal = self._decode(name, data)
        if not self._is_good(name, sha256, seal):
            raise FilesError(Status.BAD_SIGNATURE, name)
        subject = f"file {name}"
        if not self._ledger.allows(subject, seal.counter, sha256):
            raise FilesError(Status.OLD_SIGNATURE, name)
        self._ledger.record(subject, seal.counter, sha256)
        path = self._path(name, sha256)
        write_file(self._ops, f"{path}{_NEW}", seal.encode())
        self._ops.rename(f"{path}{_NEW}", path)
        sync_folder(self._ops, self._folder)
        return True

    def check_new(self, name: str, sha256: bytes) -> None:
        """Pass if a content may become active: its seal is the newest. Raises FilesError, OSError.

        The seal of an older version may still be here; that must not bring the version back.
        """
        seal = self.check(name, sha256)
        if seal is None or self._ledger is None:
            return
        if not self._ledger.allows(f"file {name}", seal.counter, sha256):
            raise FilesError(Status.OLD_SIGNATURE, name)

    def check(self, name: str, sha256: bytes) -> Seal | None:
        """Return the seal of a content that may be used under a name, None if none is asked for.

        Raises FilesError, OSError.
        """
        if self._trust is None:
            return None
        try:
            data = self._ops.read(self._path(name, sha256), SEAL_BYTES + 1)
        except FileNotFoundError:
            raise FilesError(Status.UNSIGNED, name) from None
        seal = self._decode(name, data)
        if not self._is_good(name, sha256, seal):
            raise FilesError(Status.BAD_SIGNATURE, name)
        return seal

    def forget(self, name: str, kept: Collection[bytes]) -> None:
        """Remove the seals of a name but those of these contents. Raises OSError."""
        if self._trust is None:
            return
        wanted = {self._path(name, sha256) for sha256 in kept}
        for each in self._ops.list_files(self._folder):
            path = f"{self._folder}/{each}"
            if each.rpartition("~")[0] == name and path not in wanted:
                remove_file(self._ops, path)

    def _path(self, name: str, sha256: bytes) -> str:
        return f"{self._folder}/{name}~{sha256.hex()[:_HASH_DIGITS]}"

    def _decode(self, name: str, data: bytes) -> Seal:
        try:
            return decode_seal(data)
        except DecodeError as error:
            raise FilesError(Status.BAD_SIGNATURE, name) from error

    def _is_good(self, name: str, sha256: bytes, seal: Seal) -> bool:
        statement = file_statement(name, sha256, seal.counter)
        return self._trust is not None and self._trust.is_signed(statement, seal.signature)
