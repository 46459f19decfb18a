"""The published classifier: adaptive threshold, erosion, connected components. aurora.md 3.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from modules.aurora.planes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What the paper leaves open, with our defaults."""

    background: int = 0
    is_gaussian: bool = False
    block: int = 11
    offset: float = 2.0
    kernel: int = 4
    least_area: int = 20
    is_black: bool = True


def count_objects(pixels: npt.NDArray[np.uint8], settings: GateSettings) -> int:
    """Count objects in a grey, BGR or BGRA picture; only where alpha is set, if there is one."""
    grey, inside = _composite(pixels, settings.background)
    method = cv2.ADAPTIVE_THRESH_GAUSSIAN_C if settings.is_gaussian else cv2.ADAPTIVE_THRESH_MEAN_C
    binary: Array = cv2.adaptiveThreshold(
        grey, 255, method, cv2.THRESH_BINARY, settings.block, settings.offset
    )
    if settings.is_black:
        binary = cv2.bitwise_not(binary)
    # Eroding the inverse of the inverse: objects are white here and shrink.
    kernel = np.ones((settings.kernel, settings.kernel), np.uint8)
    objects = cv2.bitwise_and(cv2.erode(binary, kernel), inside)
    _, _, stats, _ = cv2.connectedComponentsWithStats(objects, connectivity=8)
    return int((stats[1:, cv2.CC_STAT_AREA] >= settings.least_area).sum())


def _composite(pixels: npt.NDArray[np.uint8], background: int) -> tuple[Any, Any]:
    """Return grey over the background colour, and where the picture is, as uint8."""
    everywhere = np.full(pixels.shape[:2], 255, np.uint8)
    if pixels.ndim == 2:
        return pixels, everywhere
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), everywhere
    alpha = np.ascontiguousarray(pixels[..., 3])
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGRA2GRAY)
    if alpha.min() == 255:
        return grey, alpha
    share = alpha.astype(np.uint16)
    mixed = (grey * share + background * (255 - share) + 127) // 255
    return mixed.astype(np.uint8), ((alpha > 0) * np.uint8(255))
