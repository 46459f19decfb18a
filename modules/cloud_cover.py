"""Estimate how much of a picture is cloud, from brightness, whiteness and texture.

The picture is averaged over cells of `cell` pixels. A cell counts as cloud if it is bright, nearly
colourless and not rough (a town is bright and grey too, but rough). Saturated cells are cloud.

On a raw mosaic brightness is absolute: with the items `exposure_us` and `gain_db` of the camera it
is related to `reference_us`, the exposure at which a thick cloud saturates, so the threshold means
the same in every light. This is the place to use it: first in the chain, so that a picture of
clouds costs nothing further. On an RGB picture brightness is 0..1 of the picture's own range.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "cloud_cover",
    "1.0",
    "estimate the share of clouds; optionally drop cloudy pictures",
    params=(
        Param("brightness", "float", 0.25, "cloud if brighter, 1 = saturated", 0.0, 2.0),
        Param(
            "whiteness", "float", 0.40, "cloud if (max - min) / mean of R, G, B is less", 0.0, 3.0
        ),
        Param("texture", "float", 0.45, "cloud if deviation / mean over 3 x 3 cells is less", 0.0),
        Param("drop_above", "float", 1.0, "drop a picture with a greater share of cloud", 0.0, 1.0),
        Param("cell", "int", 8, "pixels per side of a cell", 2, 64),
        Param("pattern", "string", "GR", "first two filters of a raw mosaic: GR, RG, BG or GB"),
        Param("black", "int", 60, "raw: word of a dark pixel", 0, 65534),
        Param("white_red", "float", 1.61, "raw: gain of red that makes a cloud white", 0.1, 10.0),
        Param("white_blue", "float", 1.39, "raw: gain of blue that makes a cloud white", 0.1, 10.0),
        Param("reference_us", "int", 55000, "raw: exposure that brightness refers to", 1),
    ),
    adds=(
        ("cloud_frac", "float", "share of the picture that is cloud, 0..1"),
        ("brightness", "float", "mean brightness in the sense of the parameter"),
    ),
    errors={
        1: "image is encoded: place this module before the encoder",
        2: "pattern is not GR, RG, BG or GB",
        3: "picture is smaller than three cells",
        4: "one or three channels are needed",
    },
)

_PATTERNS = {"GR": (1, 0, 2, 1), "RG": (0, 1, 1, 2), "BG": (2, 1, 1, 0), "GB": (1, 2, 0, 1)}
# Above this share of full scale a colour may be cut off, and whiteness means nothing.
_SATURATED = 0.97
_TINY = 1e-6

Floats = npt.NDArray[np.float32]


def run(batch: Batch, params: Params) -> Batch:
    """Add `cloud_frac` to every image; drop those above `drop_above`."""
    cv2.setNumThreads(1)
    if params["pattern"] not in _PATTERNS:
        fail(2, f"pattern {params['pattern']!r}")
    limit = params.get_float("drop_above")
    for image in batch:
        colours, saturated = _cells(image, params)
        share, brightness = _judge(colours, saturated, params)
        if share > limit:
            batch.drop(image, f"cloud cover {share:.2f} is above {limit:.2f}")
            continue
        image.set_item("cloud_frac", share)
        image.set_item("brightness", brightness)
    return batch


def rehearse(params: Params) -> None:
    """Judge a tiny picture, so that the first real one finds OpenCV warm."""
    cv2.setNumThreads(1)
    _judge(np.full((4, 4, 3), 0.5, np.float32), np.zeros((4, 4), bool), params)


def _judge(
    colours: Floats, saturated: npt.NDArray[np.bool_], params: Params
) -> tuple[float, float]:
    """Return the share of cloud and the mean brightness of (rows, columns, 3) cells."""
    light = colours.mean(axis=2)
    whiteness = (colours.max(axis=2) - colours.min(axis=2)) / (light + _TINY)
    mean = cv2.blur(light, (3, 3))
    variance = cv2.blur(light * light, (3, 3)) - mean * mean
    texture = np.sqrt(np.maximum(variance, 0)) / (mean + _TINY)
    cloud = (light > params.get_float("brightness")) & (whiteness < params.get_float("whiteness"))
    cloud &= texture < params.get_float("texture")
    return float((cloud | saturated).mean()), float(light.mean())


def _cells(image: Image, params: Params) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the mean R, G, B of every cell, 1 = full scale, and where it is saturated."""
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    meta, cell = image.metadata, params.get_int("cell")
    rows, columns = meta.height // cell, meta.width // cell
    if min(rows, columns) < 3:
        fail(3, f"{meta.width} x {meta.height} with cells of {cell}")
    if meta.channels == 3:
        pixels = image.pixels
        top = 1.0 if pixels.dtype == np.float32 else float((1 << meta.bits_pixel) - 1)
        small = _shrink(pixels, columns, rows) / np.float32(top)
        if pixels.dtype == np.float32:
            # Samples that are no light (NaN, infinite, negative) count as dark or as saturated.
            small = np.clip(np.nan_to_num(small, nan=0.0), 0.0, 1.0)
        return small, (small > _SATURATED).all(axis=2)
    if meta.channels != 1:
        fail(4, f"{meta.channels} channels")
    return _raw_cells(image, params, columns, rows)


def _raw_cells(
    image: Image, params: Params, columns: int, rows: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    words, black = image.pixels, params.get_int("black")
    full = (1 << image.metadata.bits_pixel) - 1
    planes: list[list[Floats]] = [[], [], []]
    for place, colour in enumerate(_PATTERNS[params.get_string("pattern")]):
        plane = np.ascontiguousarray(words[place // 2 :: 2, place % 2 :: 2])
        planes[colour].append(_shrink(plane, columns, rows))
    means = np.dstack([np.mean(same, axis=0) for same in planes])
    saturated = means[..., 1] > _SATURATED * full
    scale = _light_per_word(image, params) / (full - black)
    gains = np.array([params.get_float("white_red"), 1.0, params.get_float("white_blue")])
    light = np.maximum(means - black, 0) * (gains * scale)
    return light.astype(np.float32), saturated


def _light_per_word(image: Image, params: Params) -> float:
    """Return what one unit of signal means in light, 1 at the reference exposure and no gain."""
    exposure, gain_db = image.items.get("exposure_us"), image.items.get("gain_db", 0.0)
    if not isinstance(exposure, int) or exposure <= 0 or not isinstance(gain_db, int | float):
        return 1.0
    return float(params.get_int("reference_us") / exposure / 10 ** (gain_db / 20))


def _shrink(pixels: npt.NDArray[Any], columns: int, rows: int) -> Floats:
    small = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32)
