"""Wait for some milliseconds without using the processor, as hardware would."""

from __future__ import annotations

import time

from dipp.sdk import Batch, Manifest, Param, Params

MANIFEST = Manifest(
    "sleeper",
    "1.0",
    "wait",
    params=(Param("seconds", "float", 0.02, "how long per image", 0.0, 10.0),),
)


def run(batch: Batch, params: Params) -> None:
    """Wait."""
    for _ in batch:
        time.sleep(params.get_float("seconds"))
