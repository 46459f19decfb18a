"""Run the camera node as a process: `python -m sim.camera`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from csp.errors import CspError
from csp.links.options import add_link_options, open_link
from csp.loop import Loop
from csp.vmem.file import FileArea
from dipp.metadata import Metadata
from sim import config
from sim.camera.figures import read_figures
from sim.camera.frames import Frame
from sim.camera.node import CameraNode
from sim.camera.params import AREA, AREA_SIZE
from sim.camera.segments import sweep
from sim.camera.view import Pointing
from sim.errors import SimError
from sim.figures import NodeNumbers, PayloadConfig
from sim.orbit import Orbit

# A native pixel of a swath is that many pixels wide and high in its preview.
_SWATH_ZOOM = 4
# R of the darkest and the brightest colour of a swath.
_SWATH_RANGE_R = (0.5, 800.0)
# Whole Bayer cells are averaged: single samples would show the mosaic as a moiré.
_PREVIEW_STEP = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns 0, or 1 with a reason on stderr."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="camera: %(message)s", stream=sys.stderr)
    cv2.setNumThreads(1)
    try:
        settings = config.load(options.config)
        settings = settings.with_mission(rate=options.rate, epoch_unix=options.epoch)
        if options.address == NodeNumbers().camera:
            options.address = settings.nodes.camera
        return _run(options, settings)
    except (SimError, CspError, OSError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim.camera",
        description="The emulated camera controller: takes pictures of shipped satellite scenes, "
        "and swaths of Mars, "
        "and hands them to DIPP over shared memory and a POSIX message queue.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="payload configuration")
    parser.add_argument("--queue", metavar="NAME", help="queue of DIPP (default: configured)")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where config.vmem lies (default: per user)"
    )
    parser.add_argument(
        "--start-monotonic", type=float, metavar="S",
        help="monotonic clock at the start of the mission (default: now)",
    )  # fmt: skip
    parser.add_argument(
        "--epoch", type=float, metavar="UNIX", help="mission time at the start, overriding the file"
    )
    parser.add_argument(
        "--previews", type=Path, metavar="DIR",
        help="also save every raw frame there, small, as OBID_INDEX.png, for people to compare",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, metavar="X", help="mission seconds per second, overriding the file"
    )
    add_link_options(parser, address=NodeNumbers().camera)
    return parser


def _run(options: argparse.Namespace, settings: PayloadConfig) -> int:
    figures = read_figures(settings.camera)
    if options.queue:
        figures = replace(figures, queue=options.queue)
    state = options.state or _default_state()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = time.monotonic() if options.start_monotonic is None else options.start_monotonic
    sweep()
    loop = Loop()
    loop.install_signals()
    camera = CameraNode(
        loop,
        address=options.address,
        figures=figures,
        clock=settings.clock(start),
        pointing=pointing_from(settings.orbit()) if figures.follows_orbit else None,
        area=FileArea(AREA, state / "config.vmem", AREA_SIZE),
        version=options.csp_version,
        watch=None if options.previews is None else preview_saver(options.previews),
    )
    try:
        camera.csp.attach(open_link(options), netmask=options.netmask, default=True)
        loop.scheduler.call_soon(camera.maker.warm)
        loop.run()
    finally:
        camera.close()
        loop.close()
    return loop.exit_status


def pointing_from(orbit: Orbit) -> Callable[[float], Pointing]:
    """Return where a camera that looks straight down sees at a mission time."""

    def pointing(unix: float) -> Pointing:
        state = orbit.state(unix)
        return Pointing(
            lat_deg=state.place.lat_deg,
            lon_deg=state.place.lon_deg,
            course_deg=state.course_deg,
            ground_speed_m_s=state.ground_speed_m_s,
        )

    return pointing


def preview_saver(folder: Path) -> Callable[[Metadata, Frame], None]:
    """Return what saves a frame as a small picture `OBID_INDEX.png` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[int, int] = {}

    def save(metadata: Metadata, frame: Frame) -> None:
        index = counts.get(metadata.obid, 0)
        counts[metadata.obid] = index + 1
        small = _swath_view(frame) if frame.dtype == np.float32 else _grey_view(frame, metadata)
        cv2.imwrite(str(folder / f"{metadata.obid}_{index}.png"), small)

    return save


def _grey_view(frame: Frame, metadata: Metadata) -> npt.NDArray[np.uint8]:
    shift = max(0, metadata.bits_pixel - 8)
    bits = frame.reshape(metadata.height, metadata.width).astype(np.uint16)
    size = (metadata.width // _PREVIEW_STEP, metadata.height // _PREVIEW_STEP)
    grey = (bits >> shift).astype(np.uint8)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _swath_view(planes: Frame) -> npt.NDArray[np.uint8]:
    """Return the brightness as scanned, in colours of its logarithm; white where unknown."""
    light = planes[..., 0]
    low, high = np.log10(_SWATH_RANGE_R)
    level = (np.log10(np.fmax(light, _SWATH_RANGE_R[0])) - low) / (high - low)
    colour = cv2.applyColorMap((level.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    colour[np.isnan(light)] = 255
    size = (light.shape[1] * _SWATH_ZOOM, light.shape[0] * _SWATH_ZOOM)
    return np.asarray(cv2.resize(colour, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "payload" / "camera"
