"""The committed protobuf code is what proto/ says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_generated_files_are_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    runpy.run_path(str(ROOT / "tools" / "make_proto.py"))["generate"](tmp_path)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {name: (ROOT / "dipp" / "pb" / name).read_text() for name in fresh}
    assert fresh == kept
