"""Pass images on, but die of a null pointer at one whose camera is named "poison"."""

from __future__ import annotations

import ctypes

from dipp.sdk import Batch, Manifest, Params

MANIFEST = Manifest("crasher", "1.0", "die at an image of the camera `poison`")


def run(batch: Batch, params: Params) -> None:
    """Die if told to."""
    if any(image.metadata.camera == "poison" for image in batch):
        ctypes.string_at(0)
