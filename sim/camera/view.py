"""What the camera sees of a scene: a rectangle of ground, laid on the colour filter of a sensor.

Theory of operation: a `View` is an affine map from sensor pixels to scene pixels. For each of the
four places in a Bayer cell the scene's plane of that colour is resampled onto every second pixel,
so a frame costs one plane's worth of samples and there is never a full-colour picture in between.
The motion over the ground is real, the place is not: the few shipped scenes do not lie under the
orbit, so the sub-satellite point is folded into the scene like light between two mirrors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sim.camera.sensor import BAYER_GR, Floats
from sim.errors import ContentError
from sim.scenes import SceneInfo

EARTH_METRES_PER_DEGREE = 111_320.0
_PLANE_MAX = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointing:
    """Where the camera looks: the place below, and the way the satellite flies over it."""

    lat_deg: float
    lon_deg: float
    course_deg: float = 0.0
    ground_speed_m_s: float = 7000.0

    def after(self, seconds: float) -> Pointing:
        """Return the pointing some seconds later, along a straight course."""
        metres = self.ground_speed_m_s * seconds
        course = math.radians(self.course_deg)
        east = metres * math.sin(course) / math.cos(math.radians(min(abs(self.lat_deg), 89.0)))
        return Pointing(
            lat_deg=self.lat_deg + metres * math.cos(course) / EARTH_METRES_PER_DEGREE,
            lon_deg=self.lon_deg + east / EARTH_METRES_PER_DEGREE,
            course_deg=self.course_deg,
            ground_speed_m_s=self.ground_speed_m_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Scene pixel of the frame's centre, scene pixels per sensor pixel, and turn clockwise."""

    centre_x: float
    centre_y: float
    scale: float
    turn_deg: float = 0.0


class Scene:
    """A scene in memory: three planes of linear reflectance, 2 bytes per sample.

    Raises ContentError if the file is missing or no picture.
    """

    def __init__(self, info: SceneInfo) -> None:
        picture = cv2.imread(str(info.path), cv2.IMREAD_COLOR)
        if picture is None:
            raise ContentError(f"scene {info.path} cannot be read")
        linear = np.rint((np.arange(256) / 255) ** 2 * _PLANE_MAX).astype(np.uint16)
        # Red, green, blue; OpenCV reads blue first.
        self.planes = tuple(np.ascontiguousarray(linear[picture[..., 2 - c]]) for c in range(3))
        self.info = info
        self.height, self.width = picture.shape[:2]

    def view(self, pointing: Pointing, frame_width: int, frame_height: int) -> View:
        """Return the part of the scene for a pointing; it never reaches beyond the edges.

        Above 45 degrees of turn the corners of the frame may see mirrored ground.
        """
        info = self.info
        scale = info.coverage * min(self.width / frame_width, self.height / frame_height)
        turn = turn_of(pointing.course_deg)
        sine, cosine = abs(math.sin(math.radians(turn))), math.cos(math.radians(turn))
        half_x = scale * (frame_width * cosine + frame_height * sine) / 2
        half_y = scale * (frame_width * sine + frame_height * cosine) / 2
        north = (pointing.lat_deg - info.lat_deg) * EARTH_METRES_PER_DEGREE
        east = (pointing.lon_deg - info.lon_deg) * EARTH_METRES_PER_DEGREE
        east *= math.cos(math.radians(info.lat_deg))
        return View(
            centre_x=_fold(self.width / 2 + east / info.gsd_m, half_x, self.width - half_x),
            centre_y=_fold(self.height / 2 - north / info.gsd_m, half_y, self.height - half_y),
            scale=scale,
            turn_deg=turn,
        )

    def mosaic(self, view: View, width: int, height: int, step: int = 1) -> Floats:
        """Return the reflectance behind the GR filter, (height, width); see `Sensor.expose`."""
        rows, columns = -(-(height // 2) // step), -(-(width // 2) // step)
        cells = np.empty((rows, 2, columns, 2), dtype=np.float32)
        for row in (0, 1):
            for column in (0, 1):
                matrix = _matrix(view, width, height, 2 * step, column, row)
                plane = self._resample(BAYER_GR[row][column], matrix, columns, rows)
                np.multiply(
                    plane, self.info.full_scale / _PLANE_MAX, out=cells[:, row, :, column],
                    casting="same_kind", dtype=np.float32,
                )  # fmt: skip
        return cells.reshape(rows * 2, columns * 2)

    def brightness(self, view: View, width: int, height: int) -> Floats:
        """Return the reflectance in green as another camera sees it, (height, width)."""
        plane = self._resample(1, _matrix(view, width, height, 1, 0, 0), width, height)
        return plane.astype(np.float32) * np.float32(self.info.full_scale / _PLANE_MAX)

    def _resample(
        self, colour: int, matrix: npt.NDArray[np.float64], width: int, height: int
    ) -> npt.NDArray[np.uint16]:
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        plane = cv2.warpAffine(
            self.planes[colour], matrix, (width, height), flags=flags,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        return plane.astype(np.uint16, copy=False)


def turn_of(course_deg: float) -> float:
    """Return how far the picture is turned against north, -90..90.

    The satellite yaws half a turn on southbound legs, so "up" in a picture is never south.
    """
    return (course_deg + 90.0) % 180.0 - 90.0


def _matrix(
    view: View, width: int, height: int, step: int, first_x: int, first_y: int
) -> npt.NDArray[np.float64]:
    """Map (column, row) of the sampled grid to scene pixels: sensor pixel = first + step * i."""
    turn = math.radians(view.turn_deg)
    across = np.array([math.cos(turn), math.sin(turn)]) * view.scale
    down = np.array([-math.sin(turn), math.cos(turn)]) * view.scale
    origin = np.array([view.centre_x, view.centre_y]) - 0.5
    origin += across * (first_x - (width - 1) / 2) + down * (first_y - (height - 1) / 2)
    return np.column_stack([across * step, down * step, origin])


def _fold(value: float, low: float, high: float) -> float:
    """Reflect a value between two mirrors until it lies within."""
    span = high - low
    if span <= 0:
        return (low + high) / 2
    folded = (value - low) % (2 * span)
    return low + (folded if folded <= span else 2 * span - folded)
