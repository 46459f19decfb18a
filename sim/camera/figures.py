"""The camera's section of the payload configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sim.errors import ConfigError
from sim.scenes import SCENES
from sim.section import Section

DEFAULT_QUEUE = "/dipp_batches"
IN_TURN = "in turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFigures:
    """What the configuration says about the camera.

    `models` are the CAMERA_IDs that are connected; an empty id means any. `scene` is 1.. or 0 for
    all in turn. With `follows_orbit` the place below the satellite decides which part of a scene
    is seen, else the observation id. A full queue is tried again every `retry_s` seconds,
    `retries` times.
    """

    serial: int = 2040
    models: tuple[str, ...] = ("1800 U-2040c", "1800 U-507c", "rgb", "ir")
    queue: str = DEFAULT_QUEUE
    scene: int = 0
    illumination: float = 1.0
    follows_orbit: bool = True
    retries: int = 8
    retry_s: float = 0.25


def read_figures(raw: Mapping[str, object]) -> CameraFigures:
    """Read section `camera` of the payload configuration. Raises ConfigError."""
    default = CameraFigures()
    names = [info.name for info in SCENES]
    with Section(raw, "camera") as section:
        scene = section.text("scene", IN_TURN, of=(IN_TURN, *names))
        figures = CameraFigures(
            serial=section.integer("serial", default.serial, low=1, high=2**31 - 1),
            models=section.texts("models", default.models),
            queue=section.text("queue", default.queue),
            scene=0 if scene == IN_TURN else names.index(scene) + 1,
            illumination=section.number("illumination", default.illumination, low=0, high=100),
            follows_orbit=section.boolean("follows_orbit", default.follows_orbit),
            retries=section.integer("retries", default.retries, low=0, high=1000),
            retry_s=section.number("retry_s", default.retry_s, low=0.001, high=60),
        )
    if not figures.queue.startswith("/") or "/" in figures.queue[1:] or len(figures.queue) < 2:
        raise ConfigError(f"camera.queue must be a name like {DEFAULT_QUEUE}, not {figures.queue}")
    return figures
