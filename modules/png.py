"""Encode as PNG: lossless, readable everywhere, three to ten times larger than JPEG XL."""

from __future__ import annotations

import cv2
import numpy as np

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "png",
    "1.0",
    "encode as PNG (lossless)",
    params=(Param("level", "int", 3, "zlib level: 0 fast and large, 9 slow and small", 0, 9),),
    adds=(
        ("enc", "string", "png"),
        ("raw_size", "int", "bytes of the picture before encoding"),
    ),
    errors={
        1: "image is already encoded",
        2: "PNG holds 8 or 16 bits and 1, 3 or 4 channels",
        3: "the encoder failed",
    },
)


def run(batch: Batch, params: Params) -> Batch:
    """Replace the pixels of every image by a PNG file."""
    cv2.setNumThreads(1)
    level = params.get_int("level")
    for image in batch:
        batch.replace(image, _encode(image, level))
    return batch


def rehearse(params: Params) -> None:
    """Encode a tiny picture, so that the first real one finds the encoder warm."""
    cv2.setNumThreads(1)
    cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))


def _encode(image: Image, level: int) -> Image:
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    pixels = image.pixels
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype == np.float32 or channels not in (1, 3, 4):
        fail(2, f"{pixels.dtype} with {channels} channels")
    if channels == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    elif channels == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        fail(3, f"{pixels.shape} {pixels.dtype}")
    result = image.derive(data=data.tobytes(), encoding="png")
    result.add_item("raw_size", len(image.data))
    return result
