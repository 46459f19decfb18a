"""What goes into the segmentation network and how its answer is read.

Pure: the network itself runs elsewhere. Source: aurora.md 3.6 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from modules.aurora.planes import CELLS, ON_DISC_CELLS, Array, Bools, Floats
from modules.aurora.snr import Cells

OUTPUT_CELLS: Final = CELLS // 2
SOLAR_ZENITH_MIN: Final = 93.0
_LEAST_AREA: Final = 4
# What the network sees in channel 0 where there is nothing to see.
_NOTHING: Final = np.float32(-0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Connected regions of the network's answer, numbered from 1, with their scores."""

    labels: Array
    scores: dict[int, float]

    @property
    def best(self) -> float:
        """The score of the image."""
        return max(self.scores.values(), default=0.0)


def network_input(cells: Cells, snr: Floats, channels: int) -> Floats:
    """Return the input tensor, float32 (192, 192, channels); `channels` is 3 or 4."""
    seen = np.flatnonzero(cells.known & ON_DISC_CELLS)
    values = [
        np.clip(np.arcsinh(np.clip(np.take(cells.radiance, seen), -3, 2000)) / 6, -0.3, 1.3),
        np.take(cells.solar_zenith, seen) / 180,
        np.cos(np.radians(np.take(cells.emission, seen))),
    ]
    if channels > 3:
        values.append(np.clip(np.arcsinh(np.take(snr, seen)) / 4, -0.5, 1.3))
    planes = np.zeros((channels, CELLS, CELLS), np.float32)
    planes[0] = _NOTHING
    for plane, value in zip(planes, values, strict=True):
        plane.reshape(-1)[seen] = value
    return np.asarray(cv2.merge(list(planes)), np.float32)


def trusted(cells: Cells) -> Bools:
    """Return the cells on which the network was trained to answer."""
    with np.errstate(invalid="ignore"):
        dark: Bools = cells.solar_zenith > SOLAR_ZENITH_MIN
    return cells.known & ON_DISC_CELLS & dark


def segments(probability: Floats, cells: Cells) -> Segments:
    """Find the regions above one half in the network's answer, float32 (96, 96)."""
    fine = cv2.resize(probability, (CELLS, CELLS), interpolation=cv2.INTER_LINEAR)
    np.copyto(fine, 0, where=~trusted(cells))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (fine > 0.5).astype(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    inside = np.flatnonzero(labels)
    weights = np.take(fine, inside) - np.float32(0.5)
    sums = 2 * np.bincount(np.take(labels, inside), weights=weights, minlength=count)
    kept = np.zeros(count, np.int32)
    scores: dict[int, float] = {}
    for label in range(1, count):
        if areas[label] >= _LEAST_AREA:
            kept[label] = len(scores) + 1
            scores[len(scores) + 1] = float(sums[label])
    return Segments(labels=kept[labels], scores=scores)
