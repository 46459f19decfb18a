"""Turn an image of a batch into an array or a picture file that people can look at. Driver.

Raw Bayer frames are shown as the grey mosaic they are. Used on the ground: by the shell, the
command `dipp run`, and the demo's report.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipp.errors import Code, ContentError, DippError
from dipp.metadata import Metadata

Pixels = npt.NDArray[Any]

# Of 255 that file systems take.
_NAME_LIMIT = 64
_SUFFIXES = {"jxl": ".jxl", "png": ".png", "jpeg": ".jpg"}


def decode_pixels(metadata: Metadata, data: bytes | memoryview) -> Pixels:
    """Return samples as (h, w) or (h, w, c), RGB order, uint8, uint16 or float32.

    Raises ContentError (305) if the bytes are not what the metadata says.
    """
    encoding = metadata.item("enc")
    if encoding:
        return _decode_file(str(encoding), bytes(data))
    dtype = {8: np.uint8, 16: np.uint16, 32: np.float32}.get(_sample_bits(metadata.bits_pixel))
    shape: tuple[int, ...] = (metadata.height, metadata.width)
    if metadata.channels > 1:
        shape = (*shape, metadata.channels)
    if dtype is None or int(np.prod(shape)) * np.dtype(dtype).itemsize != len(data):
        raise ContentError(
            f"{len(data)} bytes are not {shape} of {metadata.bits_pixel} bits", Code.BATCH_INVALID
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _sample_bits(bits_pixel: int) -> int:
    return 8 if bits_pixel <= 8 else 16 if bits_pixel <= 16 else bits_pixel


def _decode_file(encoding: str, data: bytes) -> Pixels:
    import imagecodecs

    decoders = {
        "jxl": imagecodecs.jpegxl_decode,
        "png": imagecodecs.png_decode,
        "jpeg": imagecodecs.jpeg_decode,
    }
    decoder = decoders.get(encoding)
    if decoder is None:
        raise ContentError(f"no decoder for {encoding!r} here", Code.BATCH_INVALID)
    try:
        pixels: Pixels = decoder(data)
    except (RuntimeError, ValueError) as error:
        raise ContentError(f"damaged {encoding} picture: {error}", Code.BATCH_INVALID) from error
    return pixels


def to_eight_bits(pixels: Pixels, bits_pixel: int = 16) -> npt.NDArray[np.uint8]:
    """Scale samples to 0..255 for looking at: by the bit depth, floats by their range."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> max(0, min(bits_pixel, 16) - 8)).clip(0, 255).astype(np.uint8)
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(pixels, nan=low) - low) * (255.0 / max(high - low, 1e-12))
    result: npt.NDArray[np.uint8] = scaled.clip(0, 255).astype(np.uint8)
    return result


def encode_png(pixels: Pixels) -> bytes:
    """Return 8- or 16-bit samples in RGB order as a PNG file."""
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


def file_part(text: str) -> str:
    """Return text from a satellite as part of a file name: no separators, nothing unprintable."""
    kept = (char if char.isprintable() and char not in "/\\" else "_" for char in text)
    return "".join(kept)[:_NAME_LIMIT]


def save_metadata(metadata: Metadata, path: Path) -> Path:
    """Write what is known about an image as JSON beside its picture. Returns the path."""
    fields = asdict(metadata)
    fields["items"] = dict(metadata.items)
    path = path.with_suffix(".json")
    path.write_text(json.dumps(fields, indent=1) + "\n")
    return path


def load_metadata(path: Path) -> Metadata:
    """Read what `save_metadata` wrote. Raises OSError, ContentError (305)."""
    try:
        fields = json.loads(path.read_text("utf-8"))
        return Metadata(**{**fields, "items": tuple(fields["items"].items())})
    except (ValueError, TypeError, KeyError, DippError) as error:
        raise ContentError(f"{path} is not the metadata of an image: {error}") from error


def save_picture(metadata: Metadata, data: bytes | memoryview, path: Path, *, raw: bool) -> Path:
    """Write a PNG, or with `raw` the bytes as they are with a fitting suffix. Returns the path."""
    if raw:
        path = path.with_suffix(_SUFFIXES.get(str(metadata.item("enc")), ".raw"))
        path.write_bytes(data)
        return path
    pixels = decode_pixels(metadata, data)
    if pixels.dtype == np.float32:
        pixels = to_eight_bits(pixels)
    path = path.with_suffix(".png")
    path.write_bytes(encode_png(pixels))
    return path
