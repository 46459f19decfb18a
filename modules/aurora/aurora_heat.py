"""Colour the brightness of disc images for people: the logarithm, in viridis, no data in white."""

from __future__ import annotations

import cv2
import numpy as np

from dipp.sdk import Batch, Manifest, Param, Params, fail
from modules.aurora.picture import HEAT_FORMAT, Scale, heat_map
from modules.aurora.planes import DISC_FORMAT, DISC_HEIGHT, DISC_WIDTH

MANIFEST = Manifest(
    "aurora_heat",
    "1.0",
    "disc images to colour heat maps, BGR; 8-bit images pass unchanged",
    params=(
        Param("scale", "string", "auto", "auto: the range of the image; fixed: lo_r to hi_r"),
        Param("lo_r", "float", 0.5, "R of the darkest colour", 0.01, 10000.0),
        Param("hi_r", "float", 800.0, "R of the brightest colour", 0.02, 100000.0),
    ),
    adds=(("fmt", "string", "H3"),),
    errors={1: "scale is neither auto nor fixed", 2: "lo_r is not below hi_r"},
)


def run(batch: Batch, params: Params) -> Batch:
    """Replace every disc image by its heat map, 640 x 480."""
    cv2.setNumThreads(1)
    scale = _scale(params)
    for image in batch:
        if image.items.get("fmt") != DISC_FORMAT:
            continue
        pixels = image.pixels
        radiance = np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 else pixels)
        if radiance.shape != (DISC_HEIGHT, DISC_WIDTH):
            shrinks = radiance.size > DISC_HEIGHT * DISC_WIDTH
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            radiance = cv2.resize(radiance, (DISC_WIDTH, DISC_HEIGHT), interpolation=how)
        picture = image.derive(heat_map(radiance, scale))
        picture.set_item("fmt", HEAT_FORMAT)
        batch.replace(image, picture)
    return batch


def rehearse(params: Params) -> None:
    """Colour a tiny picture, so that the first real one finds everything warm."""
    cv2.setNumThreads(1)
    heat_map(np.ones((4, 4), np.float32), _scale(params))


def _scale(params: Params) -> Scale:
    if params["scale"] not in ("auto", "fixed"):
        fail(1, f"scale is {params['scale']!r}")
    low, high = params.get_float("lo_r"), params.get_float("hi_r")
    if low >= high:
        fail(2, f"{low} .. {high}")
    return Scale(is_fixed=params["scale"] == "fixed", low_r=low, high_r=high)
