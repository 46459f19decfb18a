"""Encode as JPEG XL, the format for the downlink.

`distance` is libjxl's Butteraugli distance: 0.5 very good, 1.0 not to be told from the original by
eye, 2 to 4 small. Only the decoded picture is defined: other versions of the library give other
bytes for the same picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# By name: imagecodecs loads a codec on first mention, and here that is once, in the host.
from imagecodecs import JpegxlError, jpegxl_encode

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "jxl",
    "1.0",
    "encode as JPEG XL",
    params=(
        Param("distance", "float", 1.0, "0.1 nearly lossless, 1.0 visually lossless", 0.05, 15.0),
        Param("effort", "int", 4, "1 fast and larger, 9 slow and smaller", 1, 9),
        Param("lossless", "bool", False, "keep every bit; distance does not count then"),
    ),
    adds=(
        ("enc", "string", "jxl"),
        ("raw_size", "int", "bytes of the picture before encoding"),
    ),
    errors={
        1: "image is already encoded",
        2: "a raw Bayer frame can only be encoded lossless: demosaic it first",
        3: "JPEG XL here holds 8 or 16 bits and 1, 3 or 4 channels",
        4: "the encoder failed",
    },
)


def run(batch: Batch, params: Params) -> Batch:
    """Replace the pixels of every image by a JPEG XL codestream."""
    for image in batch:
        batch.replace(image, _encode(image, params))
    return batch


def rehearse(params: Params) -> None:
    """Encode a tiny picture, so that the first real one finds the encoder warm."""
    _compress(np.zeros((8, 8, 3), np.uint8), params)


def _encode(image: Image, params: Params) -> Image:
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    pixels = image.pixels
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype == np.float32 or channels not in (1, 3, 4):
        fail(3, f"{pixels.dtype} with {channels} channels")
    is_mosaic = channels == 1 and image.metadata.bits_pixel == 12
    if is_mosaic and not params.get_bool("lossless"):
        fail(2, "12 bits in one channel is the colour mosaic of the camera")
    data = _compress(pixels, params)
    result = image.derive(data=data, encoding="jxl")
    result.add_item("raw_size", len(image.data))
    return result


def _compress(pixels: npt.NDArray[Any], params: Params) -> bytes:
    lossless = params.get_bool("lossless")
    try:
        data = jpegxl_encode(
            pixels,
            effort=params.get_int("effort"),
            distance=None if lossless else params.get_float("distance"),
            lossless=lossless,
            numthreads=1,
        )
    except (JpegxlError, ValueError, MemoryError) as error:
        fail(4, f"{pixels.shape} {pixels.dtype}: {error}")
    return bytes(data)
