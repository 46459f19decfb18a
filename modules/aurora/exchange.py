"""How the modules of the chain hand things to each other: images by format, items by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from dipp.sdk import Batch, Image, fail
from modules.aurora.detections import MAX_LISTED, Scenery, Summary
from modules.aurora.planes import (
    CELLS,
    DISC_FORMAT,
    DISC_HEIGHT,
    DISC_PLANES,
    DISC_WIDTH,
    MASK_FORMAT,
    NIGHT_FORMAT,
    NIGHT_PLANES,
    PIXEL_KM,
    Array,
    Bools,
    Floats,
    Night,
)
from modules.aurora.snr import Cells, SnrResult

SUMMARY_ITEMS: Final = (
    ("aurora_n", "int", "number of detections"),
    ("aurora_state", "string", "aurora, none, no_night or bad_data"),
    ("aurora_score", "float", "the largest score of a detection"),
    ("aurora_0", "string", "detections by falling score as JSON, aurora_0 to aurora_15"),
    ("aurora_more", "int", "detections that are not listed"),
    ("bg_r", "float", "median background of the night side in R"),
    ("noise_r", "float", "its robust standard deviation per cell in R"),
    ("algo", "string", "name/version/first digits of the model's SHA-256"),
    ("by", "string", "on a mask: the detector it is from"),
)
NOT_A_DISC: Final = 1


@dataclass(slots=True, kw_only=True)
class Observation:
    """What belongs to one disc image in a batch: the night image and the masks by detector."""

    disc: Image
    night: Image | None = None
    masks: dict[str, Image] = field(default_factory=dict)


def observations(batch: Batch) -> list[Observation]:
    """Gather the images of every observation; a disc image comes before what belongs to it."""
    found: list[Observation] = []
    for image in batch:
        kind = image.items.get("fmt")
        if kind == DISC_FORMAT:
            found.append(Observation(disc=image))
        elif found and kind == NIGHT_FORMAT:
            found[-1].night = image
        elif found and kind == MASK_FORMAT:
            found[-1].masks[str(image.items.get("by"))] = image
    return found


def disc_pixels(image: Image) -> Floats:
    """Return the planes of a disc image. Ends the module with 1 if it is none."""
    pixels: Floats = image.pixels
    if pixels.shape != (DISC_HEIGHT, DISC_WIDTH, DISC_PLANES) or pixels.dtype != np.float32:
        fail(NOT_A_DISC, f"{pixels.shape} of {pixels.dtype}")
    size = image.items.get("px_km", PIXEL_KM)
    if not isinstance(size, float) or abs(size / PIXEL_KM - 1) > 0.01:
        fail(NOT_A_DISC, f"px_km is {size}: the detectors want r_px 170")
    return pixels


def image_of_night(image: Image, cells: Cells, result: SnrResult) -> Image:
    """Return the night image that goes with a disc image."""
    planes = {
        Night.RADIANCE: cells.radiance,
        Night.ERROR: cells.error,
        Night.SOLAR_ZENITH: cells.solar_zenith,
        Night.EMISSION: cells.emission,
        Night.SNR: result.snr,
        Night.EXCESS: np.where(result.mask, result.excess, np.float32(np.nan)),
    }
    night = image.derive(np.asarray(cv2.merge([planes[plane] for plane in Night]), np.float32))
    night.set_item("fmt", NIGHT_FORMAT)
    return night


def cells_of_night(night: Image) -> tuple[Cells, Floats, Floats]:
    """Return cells, map of the signal-to-noise ratio and excess of a night image."""
    planes: Floats = night.pixels
    if planes.shape != (CELLS, CELLS, NIGHT_PLANES) or planes.dtype != np.float32:
        fail(NOT_A_DISC, f"a night image is {planes.shape} of {planes.dtype}")
    part = [np.asarray(plane, np.float32) for plane in cv2.split(planes)]
    cells = Cells(
        radiance=part[Night.RADIANCE],
        error=part[Night.ERROR],
        solar_zenith=part[Night.SOLAR_ZENITH],
        emission=part[Night.EMISSION],
        known=np.isfinite(part[Night.RADIANCE]),
    )
    return cells, part[Night.SNR], part[Night.EXCESS]


def image_of_mask(image: Image, numbers: Array, detector: str) -> Image:
    """Return the mask that goes with a disc image; beyond 255 the numbers stay at 255."""
    mask = image.derive(np.minimum(numbers, 255).astype(np.uint8))
    mask.set_items({"fmt": MASK_FORMAT, "by": detector})
    return mask


def scenery_of(
    image: Image,
    disc: Floats,
    cells: Cells,
    excess: Floats,
    mask: Bools,
    background_r: float,
) -> Scenery:
    """Return what detections are measured on; outside the mask the background is its median."""
    longitude = image.items.get("ss_lon")
    return Scenery(
        light=np.where(mask, excess, cells.radiance - np.float32(background_r)),
        emission=cells.emission,
        solar_zenith=cells.solar_zenith,
        disc=disc,
        total=cells.radiance,
        subsolar_longitude=longitude if isinstance(longitude, float) else None,
    )


def attach(image: Image, summary: Summary) -> None:
    """Write a summary into the items of an image, in place of an earlier one."""
    stale = {"aurora_more", *(f"aurora_{number}" for number in range(MAX_LISTED))}
    if not stale.isdisjoint(image.items):
        image.update(items=tuple(item for item in image.metadata.items if item[0] not in stale))
    image.set_items(summary.items())
