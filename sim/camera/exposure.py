"""Automatic exposure: find the exposure whose picture carries most information.

The measure is the entropy of the histogram of pixel values, as the flown controller uses. It rises
while the picture spreads over the range and falls when it saturates. The search climbs from the
start in steps of a factor, then closes in between the neighbours of the best; no more than eight
test shots are taken. Source: dipp.md 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sim.camera.sensor import WORD_MAX, Words

START_US = 5_000
LIMIT_US = 150_000
LOWEST_US = 20
MAX_SHOTS = 8
_FACTOR = 3.0
# 256 levels: finer ones would measure the noise instead of the picture.
_LEVEL_SHIFT = 4


def entropy_bits(frame: Words) -> float:
    """Return the Shannon entropy of the 256-level histogram of a 12-bit frame, 0..8 bits."""
    counts = np.bincount(
        (frame.reshape(-1) >> _LEVEL_SHIFT).astype(np.intp), minlength=(WORD_MAX >> 4) + 1
    )
    share = counts[counts > 0] / frame.size
    return float(-(share * np.log2(share)).sum())


def find_exposure(shoot: Callable[[int], Words]) -> int:
    """Return an exposure in us. `shoot` takes a test frame and is called at most 8 times."""
    tried: dict[int, float] = {}

    def measure(exposure_us: float) -> float:
        clamped = round(min(max(exposure_us, LOWEST_US), LIMIT_US))
        if clamped not in tried and len(tried) < MAX_SHOTS:
            tried[clamped] = entropy_bits(shoot(clamped))
        return tried.get(clamped, -math.inf)

    best: float = START_US
    measure(best)
    for factor in (_FACTOR, 1 / _FACTOR):
        while LOWEST_US < best < LIMIT_US and measure(best * factor) > measure(best):
            best = min(max(best * factor, LOWEST_US), LIMIT_US)
        if best != START_US:
            break
    factor = math.sqrt(_FACTOR)
    while len(tried) < MAX_SHOTS and factor > 1.02:
        candidates = [min(best * factor, LIMIT_US), best / factor]
        best = max([best, *candidates], key=measure)
        factor = math.sqrt(factor)
    return max(tried, key=lambda exposure: tried[exposure])
