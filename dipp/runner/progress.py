"""Which module of a chain runs now, on a page that host and node share.

Driver. A frame per module would wake the node as often, which costs more than a small module. The
host writes, the node reads when it wants to know; what stands there is a claim like any other.
"""

from __future__ import annotations

import mmap
import os

from dipp.runner.arena import create_arena


class ProgressPage:
    """One byte of shared memory. `close` gives back mapping and descriptor."""

    def __init__(self, fd: int | None = None) -> None:
        """Make a page, or take over the descriptor of one. Raises OSError, ValueError."""
        self.fd = create_arena(mmap.PAGESIZE) if fd is None else fd
        try:
            self._page = mmap.mmap(self.fd, mmap.PAGESIZE)
        except (OSError, ValueError):
            os.close(self.fd)
            raise

    def show(self, position: int) -> None:
        """Say that the module at that position, counted from 1, runs; 0 for none."""
        self._page[0] = position

    @property
    def position(self) -> int:
        """What was shown last."""
        return self._page[0]

    def close(self) -> None:
        """Forget it."""
        self._page.close()
        os.close(self.fd)
