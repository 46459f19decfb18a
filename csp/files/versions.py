"""Keep the active and the previous version of each file, through crashes at any system call.

Theory of operation: a file becomes active by one rename of a complete, synced file. Before that, a
copy of the active version is made as `staged/NAME~old`; after it, that copy becomes
`previous/NAME`. The rule that undoes or completes an interrupted replacement needs no journal:
`NAME~old` is the previous version if and only if the active one differs from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from csp.files.disk import FileState, StoreOps, remove_file, sync_folder, write_file
from csp.files.status import FilesError, Status
from csp.files.wire import Version, VersionKind

_NEW, _OLD, _PART = "~new", "~old", "~part"
# `size` of a version is 32 bits on the wire; a bigger file can only have come from elsewhere.
_SIZE_MAX = 0xFFFFFFFF


class Versions:
    """The versions of the files below one folder. One process owns the folder.

    `installed` is called with the name after another version became active, or none.
    """

    def __init__(
        self,
        folder: str,
        staged: str,
        shipped: Sequence[str],
        installed: Callable[[str], None],
        ops: StoreOps,
    ) -> None:
        self._active = f"{folder}/active"
        self._previous = f"{folder}/previous"
        self._staged = staged
        self._shipped = tuple(shipped)
        self._installed = installed
        self._ops = ops
        self._digests: dict[str, tuple[FileState, bytes]] = {}

    def recover(self) -> None:
        """Settle what a crash left. Raises OSError."""
        for folder in (self._active, self._previous):
            self._ops.make_folder(folder)
        for name in self._ops.list_files(self._staged):
            if name.endswith(_OLD):
                self._settle(name.removesuffix(_OLD))
            elif name.endswith((_NEW, _PART)):
                remove_file(self._ops, f"{self._staged}/{name}")

    # -- asking

    def names(self) -> set[str]:
        """Return the names of all files, of any version."""
        folders = (self._active, self._previous, *self._shipped)
        return {name for folder in folders for name in self._ops.list_files(folder)}

    def of(self, name: str) -> Iterator[Version]:
        """Yield the versions of a file, at most one of each kind."""
        seen = set()
        for kind, path in self._paths(name):
            state = self._ops.state(path)
            if state is not None and kind not in seen:
                seen.add(kind)
                sha256 = self._digest(path, state)
                yield Version(kind=kind, size=min(state.size, _SIZE_MAX), sha256=sha256)

    def active_sha256(self, name: str) -> bytes | None:
        """Return the hash of the active version, None if there is none."""
        return self._sha256(f"{self._active}/{name}")

    def active_size(self, name: str) -> int:
        """Return the size of the active version, 0 if there is none."""
        state = self._ops.state(f"{self._active}/{name}")
        return 0 if state is None else state.size

    def content(self, name: str, sha256: bytes) -> bytes | None:
        """Return the version with this hash, None if it is not on board."""
        for _, path in self._paths(name):
            state = self._ops.state(path)
            if state is not None and self._digest(path, state) == sha256:
                return self._ops.read(path, state.size)
        return None

    def _paths(self, name: str) -> Iterator[tuple[VersionKind, str]]:
        yield VersionKind.ACTIVE, f"{self._active}/{name}"
        yield VersionKind.PREVIOUS, f"{self._previous}/{name}"
        for folder in self._shipped:
            yield VersionKind.SHIPPED, f"{folder}/{name}"

    def _sha256(self, path: str) -> bytes | None:
        state = self._ops.state(path)
        return None if state is None else self._digest(path, state)

    def _digest(self, path: str, state: FileState) -> bytes:
        known = self._digests.get(path)
        if known is not None and known[0] == state:
            return known[1]
        digest = hashlib.sha256(self._ops.read(path, state.size)).digest()
        self._digests[path] = state, digest
        return digest

    # -- changing

    def install(self, name: str, content: bytes) -> None:
        """Make content the active version and the active one the previous. Raises OSError."""
        new = f"{self._staged}/{name}{_NEW}"
        write_file(self._ops, new, content)
        self._switch(name, new)

    def rollback(self, name: str, sha256: bytes) -> bool:
        """Exchange active and previous version if the previous one has this hash.

        Returns False if it is active already. Raises FilesError (NOT_FOUND), OSError.
        """
        if self.active_sha256(name) == sha256:
            return False
        self._settle(name)
        previous = f"{self._previous}/{name}"
        if self._sha256(previous) != sha256:
            raise FilesError(Status.NOT_FOUND, name)
        self._switch(name, previous)
        return True

    def retire(self, name: str) -> bool:
        """Make the active version the previous one, so that the shipped one is in use.

        Returns False if there is no active one. Raises OSError.
        """
        self._settle(name)
        self._digests.clear()
        active = f"{self._active}/{name}"
        if self._ops.state(active) is None:
            return False
        self._ops.rename(active, f"{self._previous}/{name}")
        try:
            sync_folder(self._ops, self._previous)
            sync_folder(self._ops, self._active)
        finally:
            self._installed(name)
        return True

    def delete_previous(self, name: str) -> bool:
        """Remove the previous version; return whether there was one. Raises OSError."""
        self._digests.clear()
        remove_file(self._ops, f"{self._staged}/{name}{_OLD}")
        found = remove_file(self._ops, f"{self._previous}/{name}")
        sync_folder(self._ops, self._previous)
        return found

    def delete_active(self, name: str) -> bool:
        """Remove the active version; return whether there was one. Raises OSError."""
        # Else the copy of an interrupted replacement would later pass for the previous version.
        self._settle(name)
        self._digests.clear()
        if not remove_file(self._ops, f"{self._active}/{name}"):
            return False
        try:
            sync_folder(self._ops, self._active)
        finally:
            self._installed(name)
        return True

    def _switch(self, name: str, source: str) -> None:
        """Make a complete, synced file the active version."""
        ops = self._ops
        active, old = f"{self._active}/{name}", f"{self._staged}/{name}{_OLD}"
        self._digests.clear()
        state = ops.state(active)
        if state is not None:
            # A copy, not a link: damage to the one must not reach the other.
            part = f"{self._staged}/{name}{_PART}"
            write_file(ops, part, ops.read(active, state.size))
            ops.rename(part, old)
            sync_folder(ops, self._staged)
        ops.rename(source, active)
        try:
            sync_folder(ops, self._active)
            if state is not None:
                self._keep_as_previous(name, old)
        finally:
            # Whatever failed after the rename, the new version is the active one.
            self._installed(name)

    def _settle(self, name: str) -> None:
        """Complete or undo a replacement that was interrupted."""
        old = f"{self._staged}/{name}{_OLD}"
        before = self._sha256(old)
        if before is None:
            return
        if self.active_sha256(name) == before:
            remove_file(self._ops, old)
        else:
            self._keep_as_previous(name, old)

    def _keep_as_previous(self, name: str, old: str) -> None:
        self._digests.clear()
        self._ops.rename(old, f"{self._previous}/{name}")
        sync_folder(self._ops, self._previous)
