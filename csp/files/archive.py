"""Remember on the ground what was uploaded, so that the next upload can be a delta. Driver.

Contents lie in one folder under their SHA-256. A missing or damaged one only costs a bigger upload.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from csp.files.disk import StoreOps, SystemStoreOps, remove_file, write_file

# Some versions of each of some modules; the oldest go first.
_MAX_CONTENTS = 64
# A bigger file cannot be a version of anything that was uploaded.
_MAX_BYTES = 64 << 20


class Archive:
    """The contents in one folder, made when the first one is kept."""

    def __init__(self, folder: Path | str, ops: StoreOps | None = None) -> None:
        self._folder = str(folder)
        self._ops: StoreOps = ops if ops is not None else SystemStoreOps()

    def keep(self, content: bytes) -> None:
        """Remember a content and forget the oldest beyond the limit. Raises OSError."""
        ops = self._ops
        ops.make_folder(self._folder)
        path = f"{self._folder}/{hashlib.sha256(content).hexdigest()}"
        write_file(ops, f"{path}.new", content)
        ops.rename(f"{path}.new", path)
        aged = []
        for name in ops.list_files(self._folder):
            state = ops.state(f"{self._folder}/{name}")
            if state is not None:
                aged.append((state.modified_ns, name))
        for _, name in sorted(aged)[:-_MAX_CONTENTS]:
            remove_file(ops, f"{self._folder}/{name}")

    def find(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return those of the contents that are here and intact, by SHA-256."""
        found = {}
        for sha256 in digests:
            try:
                content = self._ops.read(f"{self._folder}/{sha256.hex()}", _MAX_BYTES)
            except OSError:
                continue
            if hashlib.sha256(content).digest() == sha256:
                found[sha256] = content
        return found


def default_archive() -> Archive:
    """Return the archive of this user's ground station. Source: design.md 9."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Archive(Path(state).expanduser() / "payload" / "ground" / "uploaded")


def read_bases(path: Path) -> dict[bytes, bytes]:
    """Return the content of a file, or of each file in a folder, by SHA-256. Raises OSError."""
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file())
    contents = [each.read_bytes() for each in files if each.stat().st_size <= _MAX_BYTES]
    return {hashlib.sha256(content).digest(): content for content in contents}
