"""Copy every image to local memory and back: two copies, the identity of the published figures."""

from __future__ import annotations

import numpy as np

from dipp.sdk import Batch, Manifest, Params

MANIFEST = Manifest("identity_copy", "1.0", "copy every image to local memory and back")


def run(batch: Batch, params: Params) -> None:
    """Copy."""
    for image in batch:
        local = image.copy()
        result = batch.allocate(local.shape, local.dtype, zeroed=False)
        np.copyto(result, local)
        batch.replace(image, image.derive(result))
