"""A bound on what all modules together may write: a small file system of the forge's own.

Driver; the forge calls `bound_scratch` before it forks anything. A limit per file bounds nothing,
since a module may write many. Mounting needs CAP_SYS_ADMIN, also that of a user namespace; without
it scratch directories lie on the disk, as before, and the rung `scratch` is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 1 << 1, 1 << 2, 1 << 14, 1 << 19
_MNT_DETACH = 2
# Two files of the largest size a module may write (`Policy.file_bytes`), in memory.
SCRATCH_BYTES = 128 << 20
# Each takes a kilobyte of the kernel beside its content.
SCRATCH_FILES = 16_384


def bound_scratch(path: str) -> bool:
    """Put a file system of `SCRATCH_BYTES` at the path, for this process and its descendants.

    Returns False if that is not allowed here: scratch is then where it was.
    """
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        return False
    options = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=0711"
    flags = _MS_NOSUID | _MS_NODEV
    # Ours must not appear outside; what is mounted outside later may appear here.
    if _LIBC.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        return False
    place = os.fsencode(path)
    if _LIBC.mount(b"scratch", place, b"tmpfs", flags, options.encode()) != 0:
        return False
    try:
        # Where not all user numbers are mapped it can be mounted, and then nothing can be made.
        os.rmdir(tempfile.mkdtemp(dir=path))
    except OSError:
        release_scratch(path)
        return False
    return True


def release_scratch(path: str) -> None:
    """Take the file system away again, so that the directory can be removed."""
    with contextlib.suppress(OSError):
        require_bound(path)
        _LIBC.umount2(os.fsencode(path), _MNT_DETACH)


def require_bound(path: str) -> None:
    """Raise OSError unless a directory lies on a file system that is as small as it should be."""
    space = os.statvfs(path)
    if space.f_blocks * space.f_frsize > SCRATCH_BYTES:
        raise OSError(errno.EPERM, "no file system of its own can be mounted")
