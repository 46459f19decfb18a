"""Pass every image on unchanged: the smallest module, and a way to test a pipeline."""

from __future__ import annotations

from dipp.sdk import Batch, Manifest, Params

MANIFEST = Manifest("identity", "1.0", "pass every image on unchanged")


def run(batch: Batch, params: Params) -> Batch:
    """Return the batch as it is; the images travel by reference."""
    return batch
