"""The state directory of a node: where everything lies, and the lock that keeps it single.

Source: design.md 9, fault 70.
"""

from __future__ import annotations

import os
from pathlib import Path

from csp.statelock import StateLock


def default_state_dir(node: str) -> Path:
    """Return the state directory of a node if none is given."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "payload" / node


class StateDir:
    """A locked state directory."""

    def __init__(self, path: Path) -> None:
        """Create what is missing and take the lock.

        Raises StateInUse if another node uses the directory, OSError.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.storage = path / "storage.vmem"
        self.images = path / "images.vmem"
        self.journal = path / "journal"
        self.landing = path / "intake"
        self.quarantine = path / "quarantine"
        self.modules = path / "modules"
        self.log = path / "log"
        self.ledger = path / "ledger"
        self.active_modules = self.modules / "active"
        # One by one: a mode does not hold for the parents that mkdir makes.
        for folder in ("", "staged", "active", "previous"):
            (self.modules / folder).mkdir(mode=0o700, exist_ok=True)
        self._lock = StateLock(path)

    def close(self) -> None:
        """Give the lock back."""
        self._lock.close()
