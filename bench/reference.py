"""The reference pipeline of the paper in both forms: five modules, or one that does it all."""

from __future__ import annotations

from dipp.runfiles import find_pipeline, load_chain
from dipp.runner.executor import Chain

# A first inference on a busy machine may take long.
_TIMEOUT_S = 120.0


def decomposed() -> Chain:
    """Return demosaic, patches, land cover, selection, JPEG XL as a module each."""
    return load_chain(find_pipeline("landcover"), timeout_s=_TIMEOUT_S)


def merged() -> Chain:
    """Return the same as one module."""
    return load_chain(find_pipeline("landcover_merged"), timeout_s=_TIMEOUT_S)
