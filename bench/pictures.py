"""The frames that the pipelines are measured with: real scenes as the emulated camera sees them."""

from __future__ import annotations

import functools

from dipp.metadata import Metadata
from sim.camera.sensor import Sensor
from sim.camera.view import Pointing, Scene
from sim.scenes import SCENES

_EXPOSURE_US = 55_000
_RAW_BITS = 12


@functools.cache
def earth_frame(number: int = 0, part: int = 1) -> tuple[Metadata, bytes]:
    """Return a raw colour frame of 2464 x 2056 words of 12 bits, one scene after the other.

    With `part` n only its upper left corner, an n-th of it in both directions.
    """
    info = SCENES[number % len(SCENES)]
    sensor, scene = _sensor(), Scene(info)
    figures = sensor.figures
    pointing = Pointing(lat_deg=info.lat_deg, lon_deg=info.lon_deg, course_deg=8.0)
    view = scene.view(pointing, figures.width, figures.height)
    words = sensor.expose(
        scene.mosaic(view, figures.width, figures.height),
        exposure_us=_EXPOSURE_US,
        seed=number,
    )
    # Whole cells of the colour filter.
    height, width = (size // part // 2 * 2 for size in words.shape)
    words = words[:height, :width].copy()
    metadata = Metadata(
        size=words.nbytes,
        width=width,
        height=height,
        channels=1,
        bits_pixel=_RAW_BITS,
        obid=number + 1,
        camera="bench",
        items=(("exposure_us", _EXPOSURE_US), ("scene", info.name)),
    )
    return metadata, words.tobytes()


@functools.cache
def _sensor() -> Sensor:
    return Sensor(serial=1)
