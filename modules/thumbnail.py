"""Make small pictures: area averaging to a largest side, aspect kept.

A raw Bayer frame comes out as a grey picture, because averaging over whole colour cells gives
brightness. With `keep` the thumbnail travels in front of the full picture, so that the ground has
something to look at before the rest is down.
"""

from __future__ import annotations

import cv2
import numpy as np

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "thumbnail",
    "1.1",
    "shrink to a largest side, aspect kept",
    params=(
        Param("max_size", "int", 256, "longer side of the result in pixels", 8, 4096),
        Param("keep", "bool", False, "pass the full picture on as well, after the thumbnail"),
        Param("eight_bit", "bool", False, "scale the samples of the thumbnail to bytes"),
    ),
    adds=(
        ("thumb", "bool", "this is a thumbnail"),
        ("full_width", "int", "width of the full picture"),
        ("full_height", "int", "height of the full picture"),
    ),
    errors={1: "image is encoded: place this module before the encoder"},
)


def run(batch: Batch, params: Params) -> Batch:
    """Replace each image by its thumbnail; one that is small enough keeps its size."""
    cv2.setNumThreads(1)
    longest, keep = params.get_int("max_size"), params.get_bool("keep")
    for image in batch:
        thumbnail = _shrink(image, longest)
        if params.get_bool("eight_bit"):
            thumbnail = _to_eight_bits(thumbnail)
        batch.replace(image, *((thumbnail, image) if keep else (thumbnail,)))
    return batch


def _to_eight_bits(image: Image) -> Image:
    """Scale samples to bytes: words by their bit depth, floats by their range."""
    pixels = image.pixels
    if pixels.dtype == np.uint8:
        return image
    if pixels.dtype == np.float32:
        low, high = np.nanmin(pixels, initial=0), np.nanmax(pixels, initial=1)
        scaled = (np.nan_to_num(pixels, nan=low) - low) * (255 / max(high - low, 1e-12))
    else:
        scaled = pixels >> max(0, image.metadata.bits_pixel - 8)
    return image.derive(scaled.clip(0, 255).astype(np.uint8))


def _shrink(image: Image, longest: int) -> Image:
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    pixels = image.pixels
    height, width = pixels.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if factor < 1 else None
    result = image.derive(small)
    result.add_item("thumb", True)
    result.add_item("full_width", width)
    result.add_item("full_height", height)
    return result
