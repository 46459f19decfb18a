"""Fixtures of several files about modules."""

from __future__ import annotations

import pytest


@pytest.fixture
def module(tmp_path):
    """Return a function that writes a module file and gives its path."""

    def write(source, name="module"):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return path

    return write
