"""Fail on purpose, in a chosen way on a chosen observation: for rehearsals and demonstrations.

Put it anywhere in a chain to see what the payload does when the module there misbehaves.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping

from dipp.sdk import Batch, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "chaos",
    "1.0",
    "forwards images untouched, but misbehaves on one observation",
    params=(
        Param("obid", "int", 0, "observation to misbehave on; 0 = on every one", low=0),
        Param("how", "string", "segv", "segv, abort, raise, exit, hang or error"),
    ),
    errors={1: "asked to report an error", 2: "parameter how names no known misbehaviour"},
)


def _segv() -> None:
    ctypes.string_at(0)


def _raise() -> None:
    raise RuntimeError("chaos was asked to raise")


def _exit() -> None:
    os._exit(0)


def _hang() -> None:
    while True:
        pass


def _error() -> None:
    fail(1, "chaos was asked to report an error")


_WAYS: Mapping[str, Callable[[], None]] = {
    "segv": _segv,
    "abort": os.abort,
    "raise": _raise,
    "exit": _exit,
    "hang": _hang,
    "error": _error,
}


def run(batch: Batch, params: Params) -> None:
    """Misbehave if the batch holds the chosen observation. Source: dipp.md 13."""
    way = _WAYS.get(params.get_string("how"))
    if way is None:
        fail(2, f"how is one of {', '.join(_WAYS)}")
    wanted = params.get_int("obid")
    if any(wanted in (0, image.metadata.obid) for image in batch.images):
        batch.log(f"misbehaving on purpose: {params.get_string('how')}")
        way()
