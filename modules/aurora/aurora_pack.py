"""Make what goes down: the mask as a small PNG with all items, optionally pictures beside it.

The disc and night images are left out: 7 MB that the ground can make from the swaths. `thumb` adds
chips around the detections, `draw` the heat map with outlines. Pictures with a circular mask (of
aurora_mask) become PNG files.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail
from modules.aurora.detections import listed
from modules.aurora.exchange import Observation, disc_pixels, observations
from modules.aurora.picture import (
    ALPHA_FORMAT,
    HEAT_FORMAT,
    Scale,
    draw_detections,
    heat_map,
)
from modules.aurora.planes import DISC_FORMAT, DISC_HEIGHT, DISC_WIDTH, MASK_FORMAT, NIGHT_FORMAT

MANIFEST = Manifest(
    "aurora_pack",
    "1.0",
    "masks, chips and pictures for the downlink",
    params=(
        Param("png", "bool", True, "encode as PNG, lossless; otherwise raw"),
        Param("draw", "bool", False, "add the heat map with outlines and boxes"),
        Param("thumb", "int", 0, "side of a chip around every detection; 0: no chips", 0, 256),
    ),
    adds=(
        ("enc", "string", "png"),
        ("pack_bytes", "int", "bytes of pixels of this image"),
        ("chip", "int", "on a chip: the number of its detection"),
        ("chip_x", "int", "on a chip: its left column in the disc image"),
        ("chip_y", "int", "on a chip: its top row in the disc image"),
    ),
    errors={1: "a disc image has not six planes of 32 bits", 2: "the encoder failed"},
)
# Chips of one image are comparable with each other, and with those of another one.
_CHIP_SCALE = Scale(is_fixed=True)


def run(batch: Batch, params: Params) -> Batch:
    """Replace every observation by its product."""
    cv2.setNumThreads(1)
    for observation in observations(batch):
        _pack(batch, observation, params)
    for image in batch:
        kind = image.items.get("fmt")
        if image.is_encoded or kind in (DISC_FORMAT, NIGHT_FORMAT, MASK_FORMAT):
            continue
        pixels = image.pixels
        if pixels.dtype == np.uint8:
            if kind not in (HEAT_FORMAT, ALPHA_FORMAT) and pixels.ndim == 3:
                pixels = _swapped(pixels)
            batch.replace(image, _encode(image, pixels, params))
    return batch


def rehearse(params: Params) -> None:
    """Encode a tiny picture, so that the first real one finds everything warm."""
    cv2.imencode(".png", np.zeros((4, 4), np.uint8))


def _pack(batch: Batch, observation: Observation, params: Params) -> None:
    disc = observation.disc
    mask = list(observation.masks.values())[-1] if observation.masks else None
    source = mask or disc
    product = []
    if mask is not None:
        product.append(_encode(mask, mask.pixels, params))
    found = listed(source.items)
    planes = disc_pixels(disc) if params.get_bool("draw") or params.get_int("thumb") else None
    if planes is not None and params.get_bool("draw"):
        picture = heat_map(np.ascontiguousarray(planes[..., 0]), Scale())
        numbers = mask.pixels if mask is not None else None
        drawn = draw_detections(picture, numbers, [detection.box for detection in found])
        image = _encode(source, drawn, params)
        image.set_item("fmt", HEAT_FORMAT)
        product.append(image)
    if planes is not None and params.get_int("thumb"):
        side = params.get_int("thumb")
        light = np.ascontiguousarray(planes[..., 0])
        for number, detection in enumerate(found):
            product.append(_chip(source, light, detection.box, number, side, params))
    batch.replace(disc, *product)
    for other in (observation.night, *observation.masks.values()):
        if other is not None:
            batch.replace(other)


def _swapped(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return RGB or RGBA, as pictures from elsewhere are, as BGR or BGRA, and vice versa."""
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _chip(
    source: Image,
    light: npt.NDArray[np.float32],
    box: tuple[int, int, int, int],
    number: int,
    side: int,
    params: Params,
) -> Image:
    x, y, width, height = box
    left = int(np.clip(x + width // 2 - side // 2, 0, DISC_WIDTH - side))
    top = int(np.clip(y + height // 2 - side // 2, 0, DISC_HEIGHT - side))
    part = np.ascontiguousarray(light[top : top + side, left : left + side])
    chip = _encode(source, heat_map(part, _CHIP_SCALE), params)
    chip.set_item("fmt", HEAT_FORMAT)
    for key, value in (("chip", number), ("chip_x", left), ("chip_y", top)):
        chip.set_item(key, value)
    return chip


def _encode(source: Image, pixels: npt.NDArray[Any], params: Params) -> Image:
    """Return the pixels as an image of the product, PNG unless told otherwise."""
    raw = source.derive(np.ascontiguousarray(pixels))
    if not params.get_bool("png"):
        raw.set_item("pack_bytes", pixels.nbytes)
        return raw
    done, data = cv2.imencode(".png", pixels)
    if not done:
        fail(2, f"{pixels.shape} of {pixels.dtype}")
    result = raw.derive(data=data.tobytes(), encoding="png")
    result.set_item("pack_bytes", len(data))
    return result
