"""Scenes as the detectors get them, with the truth on the same grid."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from modules.aurora.planes import (
    CELLS,
    CROP_LEFT,
    CROP_TOP,
    DISC_HEIGHT,
    DISC_WIDTH,
    ON_DISC_CELLS,
    Bools,
    Floats,
)
from modules.aurora.raster import (
    DISC_ORDER,
    Frame,
    clean_slit,
    despike,
    rasterise,
    resample,
)
from modules.aurora.snr import Cells, crop_cells
from modules.aurora.unet import OUTPUT_CELLS
from tools.aurora_scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The aurora on the grid of the night image: light in R, and which cells count."""

    light: Floats
    present: Bools
    unsure: Bools


def make_disc(scene: Scene) -> Floats:
    """Return the disc image (480, 640, 6) as the module emus_disc makes it."""
    swaths = [clean_slit(swath.planes.copy()) for swath in scene.swaths]
    for swath in swaths:
        despike(swath)
    return rasterise(swaths, Frame(), empty_disc(len(DISC_ORDER)))


def empty_disc(planes: int) -> Floats:
    """Return memory for a disc image."""
    return np.empty((DISC_HEIGHT, DISC_WIDTH, planes), np.float32)


def make_truth(scene: Scene, cells: Cells) -> Truth:
    """Resample the aurora without noise in the same way."""
    swaths, values = [], []
    for swath in scene.swaths:
        seen = np.isfinite(swath.planes[..., 7]).any(axis=0)
        swaths.append(swath.planes[:, seen])
        values.append(swath.aurora[:, seen, None])
    disc = resample(swaths, values, Frame(), empty_disc(1), averaged=1)[..., 0]
    side = 2 * CELLS
    part = np.nan_to_num(disc[CROP_TOP : CROP_TOP + side, CROP_LEFT : CROP_LEFT + side])
    light = np.asarray(cv2.resize(part, (CELLS, CELLS), interpolation=cv2.INTER_AREA), np.float32)
    with np.errstate(invalid="ignore"):
        dark = cells.known & ON_DISC_CELLS & (cells.solar_zenith > 95)
        present = dark & (light > np.maximum(1, 0.7 * cells.error))
    return Truth(light=light, present=present, unsure=(light > 0.3) & ~present)


def make_case(scene: Scene) -> tuple[Floats, Cells, Truth]:
    """Return disc image, cells and truth of a scene."""
    disc = make_disc(scene)
    cells = crop_cells(disc)
    return disc, cells, make_truth(scene, cells)


def training_target(cells: Cells, truth: Truth) -> npt.NDArray[np.uint8]:
    """Return uint8 (96, 96): 1 aurora, 0 none, 255 not counted."""
    blind = (truth.unsure | ~ON_DISC_CELLS).astype(np.uint8)
    half = (OUTPUT_CELLS, 2, OUTPUT_CELLS, 2)
    present = truth.present.reshape(half).any(axis=(1, 3))
    # A half-resolution cell counts unless all that is not aurora in it is uncertain.
    uncertain = blind.reshape(half).mean(axis=(1, 3)) > 0.5
    target: npt.NDArray[np.uint8] = present.astype(np.uint8)
    target[uncertain & ~present] = 255
    return target
