"""The camera node: commands in, batches for DIPP out. Composition root of the camera process.

Theory of operation: one capture at a time runs as a coroutine that gives the node a turn between
any two images. A request that arrives meanwhile waits; of several only the last is kept, as flown.
A request is read when it is written, so a bad one is reported at once and leaves the waiting one
alone. The observation id is stored before it is used: ids increase across restarts and kills.
Driver. Source: dipp.md 7, 8, 16.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

from csp.loop import Loop
from csp.node import CspNode
from csp.param.table import Parameter
from csp.sched import Scheduler
from csp.services import Identity
from csp.vmem.area import Area, RamArea, StoreError
from dipp.metadata import Metadata
from sim.camera.capture import (
    INT32_MAX,
    CameraError,
    CameraType,
    CaptureRequest,
    RequestError,
    format_capture,
    parse_capture,
)
from sim.camera.figures import CameraFigures
from sim.camera.frames import Frame, FrameMaker, Shot
from sim.camera.params import (
    AREA,
    AREA_SIZE,
    CAMERA_TYPES,
    configured_request,
    make_table,
)
from sim.camera.segments import BatchQueue, SegmentWriter
from sim.camera.view import Pointing
from sim.clock import MissionClock
from sim.errors import SimError
from sim.simnode import MODEL, REVISION, MissionWall, reboot_of, scheduler_of

_LOG = logging.getLogger(__name__)


Watch = Callable[[Metadata, Frame], None]


class CameraNode:
    """The camera controller on the network.

    `pointing` says where the camera looks at a mission time (None: over the scene, a different part
    for each observation). `area` keeps the settings and the observation id; without one they are
    forgotten at the end. `watch` is shown every frame (metadata, raw bytes) as the sensor gave it.
    """

    def __init__(
        self,
        loop: Loop | Scheduler,
        *,
        address: int,
        figures: CameraFigures | None = None,
        clock: MissionClock | None = None,
        pointing: Callable[[float], Pointing] | None = None,
        area: Area | None = None,
        version: int = 2,
        seed: int | None = None,
        maker: FrameMaker | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.figures = figures or CameraFigures()
        self.table = make_table(self.figures.serial)
        # Before the area is bound: what it remembers of an earlier run wins over the figures.
        self.table["scene"].set(self.figures.scene)
        self.table["illumination"].set(self.figures.illumination)
        self._wall = MissionWall(clock or MissionClock(epoch_unix=0.0), scheduler_of(loop))
        self.csp = CspNode(
            loop,
            address=address,
            identity=Identity(hostname="CAMERA", model=MODEL, revision=REVISION, date="", time=""),
            table=self.table,
            wall=self._wall,
            areas=[area or RamArea(AREA, AREA_SIZE)],
            reboot=reboot_of(loop),
            version=version,
            seed=seed,
        )
        self.maker = maker or FrameMaker(self.figures.serial)
        self._watch = watch
        self._pointing = pointing
        self._queue = BatchQueue(self.figures.queue)
        self._waiting: CaptureRequest | None = None
        self.table.on_write("capture_param", self._on_capture_param)
        self.table.on_write("capture_image", self._on_capture_image)

    @property
    def is_busy(self) -> bool:
        """Whether a capture runs or waits."""
        return bool(self.table["busy"].get())

    def close(self) -> None:
        """Leave the network."""
        self.csp.close()

    # -- requests

    def _on_capture_param(self, parameter: Parameter, index: int) -> None:
        with self._failures():
            self._accept(parse_capture(str(parameter.get())))

    def _on_capture_image(self, parameter: Parameter, index: int) -> None:
        if not parameter.get():
            return
        with self._failures():
            if int(self.table["camera_type"].get()) >= len(CAMERA_TYPES):
                allowed = f"0..{len(CAMERA_TYPES) - 1}"
                raise RequestError(CameraError.CAMERA_TYPE, f"camera_type is not {allowed}")
            # Through the parser, so that the settings obey the same limits as a capture string.
            self._accept(parse_capture(format_capture(configured_request(self.table))))

    def _accept(self, request: CaptureRequest) -> None:
        has_models = request.camera_type in (CameraType.VMB, CameraType.IR)
        if request.camera_id and has_models and request.camera_id not in self.figures.models:
            raise RequestError(CameraError.NOT_FOUND, repr(request.camera_id))
        self._waiting = request
        if not self.is_busy:
            self.table["busy"].set(1)
            self.csp.scheduler.spawn_background(self._work(), "camera")

    async def _work(self) -> None:
        try:
            while self._waiting is not None:
                request, self._waiting = self._waiting, None
                with self._failures():
                    await self._capture(request)
                    self.table["error_log"].set(int(CameraError.OK))
        finally:
            self.table["busy"].set(0)

    @contextmanager
    def _failures(self) -> Generator[None]:
        """Turn what goes wrong with a request into `error_log`."""
        code = CameraError.OK
        try:
            yield
        except RequestError as error:
            code, reason = error.code, str(error)
        except (SimError, StoreError, MemoryError) as error:
            code, reason = CameraError.CAPTURE, str(error)
        if code is not CameraError.OK:
            _LOG.warning("capture: %s", reason)
            self.table["error_log"].set(int(code))
            self._count("captures_failed")

    # -- one capture

    async def _capture(self, request: CaptureRequest) -> None:
        shot = self._first_shot(request)
        segment = SegmentWriter(shot.obid)
        is_announced = False
        try:
            await self._fill(segment, shot)
            await self._announce(segment, request.pipeline_id)
            is_announced = True
        finally:
            # Also when the task is cancelled: nobody else would ever remove the segment.
            segment.release() if is_announced else segment.discard()

    def _first_shot(self, request: CaptureRequest) -> Shot:
        obid = self._allocate_obid(request.obid)
        unix = self._wall.now()
        scene = int(self.table["scene"].get())
        shot = Shot(
            request=request,
            pointing=self._pointing(unix) if self._pointing else self._wander(scene, obid),
            index=0,
            obid=obid,
            timestamp=int(unix),
            exposure_us=0,
            scene=scene,
            illumination=self._illumination(),
        )
        shot = replace(shot, exposure_us=self.maker.automatic_exposure(shot))
        self.table["last_obid"].set(obid)
        self.table["last_exposure"].set(shot.exposure_us)
        return shot

    async def _fill(self, segment: SegmentWriter, first: Shot) -> None:
        between_s = (first.request.interval_us + first.exposure_us) * 1e-6
        start, start_unix = first.pointing, first.timestamp
        for index in range(first.request.num_images):
            # Also before the first image: the acknowledgement of the request goes out at once.
            await self.csp.scheduler.sleep(between_s if index else 0.0)
            elapsed_s = index * between_s
            shot = replace(
                first,
                index=index,
                pointing=start.after(elapsed_s),
                timestamp=start_unix + int(elapsed_s),
            )
            began = time.monotonic()
            metadata, pixels = self.maker.take(shot)
            segment.append(metadata, pixels)
            if self._watch is not None:
                self._watch(metadata, pixels)
            self.table["frame_time"].set(int((time.monotonic() - began) * 1e6))
            self._count("images_total")

    async def _announce(self, segment: SegmentWriter, pipeline_id: int) -> None:
        message = segment.publish(pipeline_id)
        for attempt in range(self.figures.retries + 1):
            if attempt:
                await self.csp.scheduler.sleep(self.figures.retry_s)
            if self._queue.try_send(message):
                self._count("batches_sent")
                self.table["last_bytes"].set(segment.size_bytes)
                _LOG.info("batch obid %d: %d images", message.obid, message.num_images)
                return
            self._count("queue_full")
        raise RequestError(CameraError.QUEUE, f"{self._queue.name} stayed full")

    def _illumination(self) -> float:
        value = float(self.table["illumination"].get())
        # Anything may have been pushed, also infinities; what is no light is darkness.
        return value if 0.0 <= value < 1e6 else 0.0

    def _wander(self, scene: int, obid: int) -> Pointing:
        """Return a place over the scene, different for every observation but never random."""
        info = self.maker.scene(scene, obid).info
        # Multiples of the two numbers of the plastic ratio fill a square evenly.
        north, east = (0.7548776662 * obid) % 1.0 - 0.5, (0.5698402910 * obid) % 1.0 - 0.5
        span_deg = info.gsd_m * 1000 / 111_320.0
        return Pointing(
            lat_deg=info.lat_deg + north * span_deg,
            lon_deg=info.lon_deg + east * span_deg,
            course_deg=8.0,
        )

    # -- observation ids

    def _allocate_obid(self, wanted: int) -> int:
        """Return the id of this capture, with the next one already stored. Raises StoreError."""
        parameter = self.table["next_obid"]
        stored = int(parameter.get())
        following = stored if 0 < stored <= INT32_MAX else 1
        obid = wanted or following
        following = max(following, obid + 1)
        parameter.set(following if following <= INT32_MAX else 1)
        self.csp.binding.flush()
        return obid

    def _count(self, name: str) -> None:
        parameter = self.table[name]
        parameter.set((int(parameter.get()) + 1) & 0xFFFFFFFF)
