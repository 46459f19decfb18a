"""Root of a user namespace only, as in a rootless container: everything works, less is held."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from csp.faultrow import NotInjected
from dipp.faults.smalldisk import in_fork
from dipp.testing import IDENTITY, Harness, make_chain

NEW_USERS = 0x10000000


def test_modules_run_where_there_is_no_way_back_into_the_own_namespace(tmp_path):
    path = tmp_path / "identity.py"
    path.write_text(IDENTITY)

    def inside():
        if ctypes.CDLL(None, use_errno=True).unshare(NEW_USERS) != 0:
            raise NotInjected("no user namespaces here")
        Path("/proc/self/uid_map").write_text("0 0 1")
        with Harness() as harness:
            for generation in (1, 2):
                harness.run_images(make_chain(path, generation=generation))
            return " ".join(harness.executor.stats.missing_rungs)

    try:
        assert "namespaces" in in_fork(inside)
    except NotInjected as reason:
        pytest.skip(str(reason))
