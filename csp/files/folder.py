"""Serve a folder of the disk through `csp.ftp`: nothing outside it can be reached. Driver."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from csp.ftp import FILE_LIMIT_BYTES, FtpError

# Files that were being written when the process was killed; removed at the next start.
_UNFINISHED = ".ftp-"


class FtpFolder:
    """The files below `root`, which is made if it is not there. Raises OSError then."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root.resolve()
        for left in self._root.rglob(f"{_UNFINISHED}*"):
            left.unlink(missing_ok=True)

    def _path(self, path: str) -> Path:
        """Return where a client's path lies. Raises FtpError if that is not below the root."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path or any(p.startswith(_UNFINISHED) for p in parts):
            raise FtpError(f"{path!r} is not a path in here")
        found = self._root
        for part in parts:
            found /= part
            # Only an operator of this machine can make one; it may lead anywhere.
            if found.is_symlink():
                raise FtpError(f"{path!r} has a symbolic link in it")
        return found

    def _entry(self, path: str) -> Path:
        found = self._path(path)
        if found == self._root:
            raise FtpError("that is the folder itself")
        return found

    def read(self, path: str) -> bytes:
        """Return the content of a regular file."""
        found = self._path(path)
        try:
            if not found.is_file() or found.stat().st_size > FILE_LIMIT_BYTES:
                raise FtpError(f"{path} is not a file of at most {FILE_LIMIT_BYTES} bytes")
            return found.read_bytes()
        except OSError as error:
            raise FtpError(f"{path}: {error.strerror}") from error

    def check_writable(self, path: str) -> None:
        """Raise FtpError if there is a folder of that name, or a file on the way."""
        found = self._entry(path)
        try:
            found.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FtpError(f"{path}: {error.strerror}") from error
        if found.is_dir():
            raise FtpError(f"{path} is a folder")

    def write(self, path: str, data: bytes) -> None:
        """Put a file there: under another name first, so that a part of it is never seen."""
        self.check_writable(path)
        found = self._entry(path)
        fresh = found.with_name(_UNFINISHED + secrets.token_hex(8))
        try:
            with fresh.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(found)
            _sync_folder(found.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise FtpError(f"{path}: {error.strerror}") from error

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted."""
        try:
            names = os.listdir(self._path(path))
        except OSError as error:
            raise FtpError(f"{path}: {error.strerror}") from error
        return sorted(name for name in names if not name.startswith(_UNFINISHED))

    def move(self, path: str, target: str) -> None:
        """Rename; what was at the target goes, if it is a file."""
        source = self._entry(path)
        self.check_writable(target)
        try:
            source.replace(self._entry(target))
        except OSError as error:
            raise FtpError(f"{path}: {error.strerror}") from error

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        found = self._entry(path)
        try:
            shutil.rmtree(found) if found.is_dir() else found.unlink()
        except OSError as error:
            raise FtpError(f"{path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
