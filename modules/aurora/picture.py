"""Pictures for people: heat maps of the disc, outlines and boxes of detections. Colours are BGR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from modules.aurora.planes import CELLS, CROP_LEFT, CROP_TOP, Array, Floats

Pixels = npt.NDArray[np.uint8]
HEAT_FORMAT: Final = "H3"
ALPHA_FORMAT: Final = "A4"
# Item `algo` of a picture whose only geometry is what was seen in it.
IMAGE_ONLY: Final = "image-only"
_LEAST_RAYLEIGH: Final = 0.1
_NO_DATA: Final = 255
_OUTLINE: Final = (60, 60, 255)
_BOX: Final = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How brightness becomes colour: over the image's own range, or between fixed limits in R."""

    is_fixed: bool = False
    low_r: float = 0.5
    high_r: float = 800.0


def heat_map(radiance: Floats, scale: Scale) -> Pixels:
    """Colour the logarithm of brightness; white where there are no data."""
    known = np.isfinite(radiance)
    levels = np.full(radiance.shape, np.float32(_LEAST_RAYLEIGH))
    np.maximum(radiance, levels, out=levels, where=known)
    value = np.log10(levels)
    if scale.is_fixed:
        low, high = np.log10(scale.low_r), np.log10(scale.high_r)
    elif known.any():
        low, high = float(value[known].min()), float(value[known].max())
    else:
        low, high = 0.0, 1.0
    grey = np.clip((value - low) * (255 / max(high - low, 1e-6)) + 0.5, 0, 255).astype(np.uint8)
    picture: Pixels = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)
    picture[~known] = _NO_DATA
    return picture


def draw_detections(
    picture: Pixels, numbers: Array | None, boxes: Sequence[tuple[int, int, int, int]]
) -> Pixels:
    """Draw the outlines of a mask (192, 192) and numbered boxes into a copy of a heat map."""
    drawn = picture.copy()
    if numbers is not None:
        mask = np.zeros(picture.shape[:2], np.uint8)
        fine = np.repeat(np.repeat((numbers > 0).astype(np.uint8), 2, axis=0), 2, axis=1)
        mask[CROP_TOP : CROP_TOP + 2 * CELLS, CROP_LEFT : CROP_LEFT + 2 * CELLS] = fine
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, _OUTLINE, 2, cv2.LINE_AA)
    for number, (x, y, width, height) in enumerate(boxes):
        cv2.rectangle(drawn, (x - 4, y - 4), (x + width + 3, y + height + 3), _BOX, 1)
        place = (x, max(14, y - 8))
        cv2.putText(drawn, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _BOX, 1, cv2.LINE_AA)
    return drawn
