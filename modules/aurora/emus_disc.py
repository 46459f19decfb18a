"""Make one picture of the disc of Mars from the swaths of an observation.

Swaths of one orbit and mode belong together; a swath number that comes again begins a new
observation. Images that are no swaths pass unchanged.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail
from modules.aurora.planes import (
    DISC_FORMAT,
    DISC_HEIGHT,
    DISC_PLANES,
    DISC_WIDTH,
    SHELL_RADIUS_KM,
    SWATH_FORMAT,
    SWATH_PLANES,
    Bools,
    Disc,
    Floats,
)
from modules.aurora.raster import Frame, clean_slit, despike, rasterise

MANIFEST = Manifest(
    "emus_disc",
    "1.0",
    "swaths of EMUS to one disc image per observation",
    params=(
        Param("r_px", "int", 170, "radius of the disc in pixels", 40, 230),
        Param("cx", "int", 320, "column of the centre of the disc", 0, DISC_WIDTH - 1),
        Param("cy", "int", 230, "row of the centre of the disc", 0, DISC_HEIGHT - 1),
        Param("despike", "bool", True, "replace hits of particles by the local median"),
    ),
    adds=(
        ("fmt", "string", "D6"),
        ("px_km", "float", "size of a pixel at the centre of the disc"),
        ("cover", "float", "share of the disc with data"),
        ("spikes", "int", "pixels replaced as hits of particles"),
        ("night_frac", "float", "share of the known disc with a solar zenith angle above 100"),
    ),
    errors={
        1: "a swath has not nine planes of 32 bits",
        2: "the swaths of an observation have more rows or columns than any scan",
    },
)
_NIGHT_DEG = 100


def run(batch: Batch, params: Params) -> Batch:
    """Replace the swaths of every observation by its disc image."""
    cv2.setNumThreads(1)
    frame = Frame(
        centre_x=params.get_int("cx"), centre_y=params.get_int("cy"), radius=params.get_int("r_px")
    )
    for group in _observations(batch):
        disc = _make_disc(batch, group, frame, params.get_bool("despike"))
        batch.replace(group[0], disc)
        for other in group[1:]:
            batch.replace(other)
    return batch


def rehearse(params: Params) -> None:
    """Resample a tiny swath, so that the first real one finds everything warm."""
    cv2.setNumThreads(1)
    planes = np.zeros((6, 6, SWATH_PLANES), np.float32)
    planes[..., 7], planes[..., 8] = np.meshgrid(np.linspace(0, 0.1, 6), np.linspace(0, 0.1, 6))
    despike(planes)
    rasterise([planes], Frame(), np.empty((DISC_HEIGHT, DISC_WIDTH, DISC_PLANES), np.float32))


def _observations(batch: Batch) -> list[list[Image]]:
    """Group the swaths of the batch, in their order."""
    groups: list[tuple[tuple[object, ...], set[object], list[Image]]] = []
    for image in batch:
        items = image.items
        if items.get("fmt") != SWATH_FORMAT:
            continue
        key = (image.metadata.obid, items.get("mode"), items.get("swaths"))
        number = items.get("swath")
        for known, numbers, members in groups:
            if known == key and number is not None and number not in numbers:
                numbers.add(number)
                members.append(image)
                break
        else:
            groups.append((key, {number}, [image]))
    return [members for _, _, members in groups]


def _make_disc(batch: Batch, group: list[Image], frame: Frame, clean: bool) -> Image:
    swaths: list[Floats] = []
    spikes = 0
    for image in group:
        pixels = image.pixels
        if pixels.ndim != 3 or pixels.shape[2] != SWATH_PLANES or pixels.dtype != np.float32:
            fail(1, f"{pixels.shape} of {pixels.dtype}, {image.items.get('obs')}")
        planes = clean_slit(pixels)
        if clean:
            planes = planes.copy()
            spikes += despike(planes)
        swaths.append(planes)
    out = batch.allocate((DISC_HEIGHT, DISC_WIDTH, DISC_PLANES), np.float32, zeroed=False)
    try:
        rasterise(swaths, frame, out, batch.scratch)
    except ValueError as error:
        fail(2, f"{error}, {group[0].items.get('obs')}")
    # The earliest swath names the observation.
    first = min(group, key=lambda image: (image.metadata.timestamp, str(image.items.get("obs"))))
    disc = first.derive(out)
    box, on_disc = _on_disc(frame)
    known = np.isfinite(cv2.extractChannel(out[box], Disc.RADIANCE)) & on_disc
    night = known & (cv2.extractChannel(out[box], Disc.SOLAR_ZENITH) > _NIGHT_DEG)
    count = int(known.sum())
    if count == 0:
        batch.log(f"observation {first.items.get('obs')} has no data on the disc")
    disc.set_items(
        {
            "fmt": DISC_FORMAT,
            "px_km": SHELL_RADIUS_KM / frame.radius,
            "cover": count / int(on_disc.sum()),
            "spikes": spikes,
            "night_frac": int(night.sum()) / count if count else 0.0,
        }
    )
    return disc


@lru_cache(maxsize=4)
def _on_disc(frame: Frame) -> tuple[tuple[slice, slice], Bools]:
    """Return the part of the picture around the disc, and which of its pixels are on the disc."""
    box = (
        slice(max(frame.centre_y - frame.radius, 0), frame.centre_y + frame.radius + 1),
        slice(max(frame.centre_x - frame.radius, 0), frame.centre_x + frame.radius + 1),
    )
    rows = np.arange(frame.height)[box[0]] - frame.centre_y
    columns = np.arange(frame.width)[box[1]] - frame.centre_x
    inside: Bools = np.hypot(columns[None, :], rows[:, None]) < frame.radius
    return box, inside
