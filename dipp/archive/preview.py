"""Small pictures of results, and the contrast that makes masks visible.

A thumbnail is for people who look for the odd one out, so one plane is stretched over its range.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

import cv2
import numpy as np

from dipp.batch import Buffer
from dipp.errors import DippError
from dipp.metadata import Metadata
from dipp.pictures import Pixels, decode_pixels, to_eight_bits

_QUALITY = 72
# Keeps a page with thousands of them small; one beyond it is left out.
THUMBNAIL_LIMIT_BYTES = 12 << 10
# What a family of readers may raise on what a module made.
UNDRAWABLE = (DippError, ValueError, TypeError, KeyError, OSError, cv2.error)


def thumbnail(images: Iterable[tuple[Metadata, Buffer]], side_px: int) -> str:
    """Return the first image that can be drawn as a JPEG in base64, empty if there is none."""
    for metadata, data in images:
        try:
            pixels = decode_pixels(metadata, bytes(data))
            text = shrink(to_eight_bits(_plane(pixels), metadata.bits_pixel), side_px)
        except UNDRAWABLE:
            continue
        if text:
            return text
    return ""


def shrink(pixels: Pixels, side_px: int) -> str:
    """Return 8-bit RGB or grey samples as a small JPEG in base64, empty if it is too large.

    Raises ValueError, cv2.error.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, side_px / max(height, width, 1))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        low, high = int(small.min()), int(small.max())
        small = ((small.astype(np.float32) - low) * (255.0 / max(high - low, 1))).astype(np.uint8)
    else:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done or len(data) > THUMBNAIL_LIMIT_BYTES:
        return ""
    return base64.b64encode(data.tobytes()).decode("ascii")


def _plane(pixels: Pixels) -> Pixels:
    """Return three planes of a colour picture, of anything else the first."""
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype != np.float32:
        return pixels[..., :3]
    return pixels[..., 0] if pixels.ndim == 3 else pixels
