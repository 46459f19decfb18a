"""Make `archivekit` importable: pytest imports tests by file, not by folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture
def folder(tmp_path):
    """Give a directory with a chain of one module that crashes on pictures that say so."""
    import archivekit

    archivekit.write_chain(tmp_path / "chain")
    return tmp_path
