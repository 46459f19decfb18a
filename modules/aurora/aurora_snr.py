"""Find aurora by what stands out of the glow of the night side: the physical detector.

Every disc image gets the detections as items and is followed by a night image, which later modules
read instead of doing it again, and by a mask with the numbers of the detections. Other images pass
unchanged.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from dipp.sdk import Batch, Image, Manifest, Param, Params
from modules.aurora.detections import Summary, measure, number_by_rank
from modules.aurora.exchange import (
    SUMMARY_ITEMS,
    attach,
    disc_pixels,
    image_of_mask,
    image_of_night,
    scenery_of,
)
from modules.aurora.outline import bright_cells, trim
from modules.aurora.planes import CELLS, DISC_FORMAT, Array, Floats
from modules.aurora.snr import Cells, SnrResult, SnrSettings, crop_cells, detect

MANIFEST = Manifest(
    "aurora_snr",
    "1.1",
    "find aurora that stands out of the night side's background",
    params=(
        Param("sza_min", "float", 100.0, "least solar zenith angle of the night, deg", 90, 130),
        Param("ea_max", "float", 75.0, "largest emission angle, deg", 30, 89),
        Param("min_px", "int", 150, "fewer night cells than this say nothing", 20),
        Param("lo", "float", 4.0, "signal-to-noise ratio of the edge of a detection", 1.0, 100.0),
        Param("hi", "float", 6.5, "signal-to-noise ratio that its peak must reach", 1.0, 1000.0),
        Param("amin", "int", 6, "least cells of a detection", 1),
        Param("bg_err", "float", 0.2, "how wrong the background may be, as a share of it", 0, 10),
        Param("edge_r", "float", 1.0, "R of the edge of an outline; 0: as wide as detected", 0.0),
        Param("diffuse_r", "float", 4.0, "R of the deep night that is diffuse aurora", 0.1),
    ),
    adds=SUMMARY_ITEMS,
    errors={1: "a disc image has not six planes of 32 bits in the shipped geometry"},
)
ALGORITHM = f"snr/{MANIFEST.version}/-"


def run(batch: Batch, params: Params) -> Batch:
    """Add detections, night image and mask to every disc image."""
    cv2.setNumThreads(1)
    settings = _settings(params)
    for image in batch:
        if image.items.get("fmt") != DISC_FORMAT:
            continue
        disc = disc_pixels(image)
        cells = crop_cells(disc)
        result = detect(cells, settings)
        numbers, summary = _summarise(image, disc, cells, result, params.get_float("edge_r"))
        night, mask = image_of_night(image, cells, result), image_of_mask(image, numbers, "snr")
        for each in (image, mask):
            attach(each, summary)
        if summary.state in ("no_night", "bad_data"):
            batch.log(f"observation {image.items.get('obs')}: {summary.state}")
        batch.replace(image, image, night, mask)
    return batch


def rehearse(params: Params) -> None:
    """Look at an even night, so that the first real one finds everything warm."""
    cv2.setNumThreads(1)
    plane = np.ones((CELLS, CELLS), np.float32)
    cells = Cells(
        radiance=plane + np.arange(CELLS, dtype=np.float32),
        error=plane,
        solar_zenith=120 * plane,
        emission=30 * plane,
        known=plane > 0,
    )
    detect(cells, _settings(params))


def _settings(params: Params) -> SnrSettings:
    return SnrSettings(
        solar_zenith_min=params.get_float("sza_min"),
        emission_max=params.get_float("ea_max"),
        least_cells=params.get_int("min_px"),
        low=params.get_float("lo"),
        high=params.get_float("hi"),
        least_area=params.get_int("amin"),
        diffuse_rayleigh=params.get_float("diffuse_r"),
        background_error=params.get_float("bg_err"),
    )


def _summarise(
    image: Image, disc: Floats, cells: Cells, result: SnrResult, edge_r: float
) -> tuple[Array, Summary]:
    if not cells.known.any():
        return result.labels, Summary(state="bad_data", algorithm=ALGORITHM)
    if not result.has_night:
        return result.labels, Summary(state="no_night", algorithm=ALGORITHM)
    scenery = scenery_of(image, disc, cells, result.excess, result.mask, result.background)
    if result.is_diffuse:
        # It is its own background, so its brightness is that of the night as it is.
        whole = measure(result.mask, replace(scenery, light=cells.radiance))
        whole = replace(whole, kind="diffuse", snr=float(result.snr.max()))
        pairs = [(result.mask, whole)]
    else:
        bright = bright_cells(scenery.light, cells.error, edge_r)
        regions = (
            (trim(result.labels == label, bright) if edge_r else result.labels == label, peak)
            for label, peak in result.peaks.items()
        )
        pairs = [(region, replace(measure(region, scenery), snr=peak)) for region, peak in regions]
    numbers, found = number_by_rank(pairs, result.mask.shape)
    return numbers, Summary(
        state="aurora" if found else "none",
        algorithm=ALGORITHM,
        detections=found,
        background_r=result.background,
        noise_r=result.noise,
    )
