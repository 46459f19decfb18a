"""The formats of the chain: planes of swath, disc and night images, and the geometry of the disc.

A swath (`S9`) is what the instrument scanned, a disc (`D6`) the same resampled to a picture with
Mars in a fixed place, a night image (`N6`) the inner part of the disc at half resolution, which the
detectors work on. Source: aurora.md 1.3 and 2; `N6` is ours, so that no module does a thing twice.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]
Array = npt.NDArray[Any]

MARS_RADIUS_KM: Final = 3396.2
# Height of the layer that emits at 130.4 nm; the disc of this chain is the disc of that shell.
SHELL_RADIUS_KM: Final = MARS_RADIUS_KM + 130.0

DISC_WIDTH: Final = 640
DISC_HEIGHT: Final = 480
CENTRE_X: Final = 320
CENTRE_Y: Final = 230
RADIUS_PX: Final = 170
PIXEL_KM: Final = SHELL_RADIUS_KM / RADIUS_PX

# The crop around the disc that is averaged 2 x 2 to a night image.
CROP_TOP: Final = 38
CROP_LEFT: Final = 128
CELLS: Final = 192
CELL_CENTRE: Final = (CELLS - 1) / 2
CELL_RADIUS: Final = RADIUS_PX / 2

SWATH_FORMAT: Final = "S9"
DISC_FORMAT: Final = "D6"
NIGHT_FORMAT: Final = "N6"
MASK_FORMAT: Final = "M1"


class Swath(IntEnum):
    """Planes of a swath image."""

    RADIANCE = 0
    ERROR = 1
    LATITUDE = 2
    LONGITUDE = 3
    SOLAR_ZENITH = 4
    EMISSION = 5
    HEIGHT = 6
    SKY_X = 7
    SKY_Y = 8


SWATH_PLANES: Final = len(Swath)


class Disc(IntEnum):
    """Planes of a disc image."""

    RADIANCE = 0
    ERROR = 1
    SOLAR_ZENITH = 2
    EMISSION = 3
    LATITUDE = 4
    LONGITUDE = 5


DISC_PLANES: Final = len(Disc)


class Night(IntEnum):
    """Planes of a night image; the first four are those of a disc. NaN: no data."""

    RADIANCE = 0
    ERROR = 1
    SOLAR_ZENITH = 2
    EMISSION = 3
    SNR = 4
    EXCESS = 5


NIGHT_PLANES: Final = len(Night)


def cell_grid() -> tuple[Floats, Floats]:
    """Return x to the right and y upwards of the cells of a night image, disc radius 1."""
    axis = (np.arange(CELLS, dtype=np.float32) - CELL_CENTRE) / CELL_RADIUS
    x, y = np.meshgrid(axis, -axis)
    return x.astype(np.float32), y.astype(np.float32)


def disc_grid() -> Floats:
    """Return the distance of every pixel of a disc image from the disc's centre, radius 1."""
    columns = (np.arange(DISC_WIDTH, dtype=np.float32) - CENTRE_X) / RADIUS_PX
    rows = (np.arange(DISC_HEIGHT, dtype=np.float32) - CENTRE_Y) / RADIUS_PX
    return np.hypot(columns[None, :], rows[:, None]).astype(np.float32)


GRID_X, GRID_Y = cell_grid()
ON_DISC_CELLS: Final[Bools] = np.hypot(GRID_X, GRID_Y) < 1
ON_DISC_PIXELS: Final[Bools] = disc_grid() < 1
