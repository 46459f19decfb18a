"""The cameras of the satellite: what each delivers for one shot, with its metadata.

VMB is the colour camera (12-bit GR mosaic through the sensor model). IR is a 640 x 512
microbolometer that delivers hundredths of a kelvin; as the scenes have no thermal band, its
temperatures are derived from their brightness (dark ground 293 K, bright cloud 75 K colder) and are
no measurement. TEST is a fixed pattern without noise: eight colour bars over a ramp of all words.
EMUS delivers swaths of Mars, see emus.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dipp.metadata import Metadata
from sim.camera.capture import CameraError, CameraType, CaptureRequest, RequestError
from sim.camera.emus import Planes, SwathStore
from sim.camera.exposure import find_exposure
from sim.camera.sensor import BAYER_GR, WORD_MAX, Floats, Sensor, SensorFigures, Words
from sim.camera.view import Pointing, Scene
from sim.scenes import EMUS_FOLDER, SCENES, SceneInfo

Frame: TypeAlias = Words | Planes

IR_WIDTH, IR_HEIGHT, IR_BITS = 640, 512, 16
TEST_WIDTH, TEST_HEIGHT = 2592, 1944
RAW_BITS = 12
# What `camera` says in the metadata if the request names no model.
_DEFAULT_NAMES = {CameraType.VMB: "rgb", CameraType.IR: "ir", CameraType.TEST: "test"}
# Every 8th cell is seen by a test shot of the automatic exposure: enough for a histogram.
_TEST_SHOT_STEP = 8
_IR_GROUND_CK, _IR_CLOUD_DROP_CK, _IR_CLOUD_REFLECTANCE = 29300.0, 7500.0, 0.40
_IR_NOISE_CK = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One image of a capture: where the camera looks, when, and how long it exposes."""

    request: CaptureRequest
    pointing: Pointing
    index: int
    obid: int
    timestamp: int
    exposure_us: int
    scene: int = 0
    illumination: float = 1.0


class FrameMaker:
    """All cameras of one satellite. Sensors and scenes are made when first needed, then kept.

    A frame is a pure function of the shot and of `serial`.
    """

    def __init__(
        self,
        serial: int = 1,
        scenes: Sequence[SceneInfo] = SCENES,
        figures: SensorFigures | None = None,
    ) -> None:
        self.serial = serial
        self._figures = figures or SensorFigures()
        self._infos = tuple(scenes)
        self._scenes: dict[str, Scene] = {}
        self._sensor: Sensor | None = None
        self._swaths = SwathStore(EMUS_FOLDER)

    @property
    def sensor(self) -> Sensor:
        """The colour camera's sensor; half a second of work on first use."""
        if self._sensor is None:
            self._sensor = Sensor(self._figures, self.serial)
        return self._sensor

    def warm(self) -> None:
        """Make the sensor and load the scenes, so that the first capture need not."""
        for number in range(1, len(self._infos) + 1):
            self.scene(number, 0)
        _ = self.sensor

    def scene(self, number: int, obid: int) -> Scene:
        """Return scene 1..n; 0 goes through all of them with the observation id."""
        if number > len(self._infos):
            raise RequestError(CameraError.CAPTURE, f"there is no scene {number}")
        info = self._infos[(number or obid) % len(self._infos) - 1]
        if info.name not in self._scenes:
            self._scenes[info.name] = Scene(info)
        return self._scenes[info.name]

    def automatic_exposure(self, shot: Shot) -> int:
        """Return the exposure of the request, or what test shots of the ground suggest."""
        request = shot.request
        if request.exposure_us or request.camera_type is not CameraType.VMB:
            return request.exposure_us
        scene, figures = self.scene(shot.scene, shot.obid), self.sensor.figures
        view = scene.view(shot.pointing, figures.width, figures.height)
        mosaic = scene.mosaic(view, figures.width, figures.height, _TEST_SHOT_STEP)
        return find_exposure(
            lambda exposure_us: self.sensor.expose(
                mosaic,
                exposure_us=exposure_us,
                gain_db=request.gain_db,
                illumination=shot.illumination,
                seed=_seed(self.serial, shot.obid, exposure_us),
                step=_TEST_SHOT_STEP,
            )
        )

    def take(self, shot: Shot) -> tuple[Metadata, Frame]:
        """Return one image: its metadata and its samples. Raises RequestError (200)."""
        kind = shot.request.camera_type
        if kind is CameraType.EMUS:
            return self._swaths.take(
                shot.scene, shot.index, obid=shot.obid, timestamp=shot.timestamp
            )
        if kind is CameraType.TEST:
            return self._describe(shot, _TEST_PATTERN.copy(), RAW_BITS, "test pattern")
        scene = self.scene(shot.scene, shot.obid)
        seed = _seed(self.serial, shot.obid, shot.index)
        if kind is CameraType.IR:
            view = scene.view(shot.pointing, IR_WIDTH, IR_HEIGHT)
            words = _thermal(scene.brightness(view, IR_WIDTH, IR_HEIGHT), seed)
            return self._describe(shot, words, IR_BITS, scene.info.name)
        figures = self.sensor.figures
        view = scene.view(shot.pointing, figures.width, figures.height)
        words = self.sensor.expose(
            scene.mosaic(view, figures.width, figures.height),
            exposure_us=shot.exposure_us,
            gain_db=shot.request.gain_db,
            illumination=shot.illumination,
            seed=seed,
        )
        return self._describe(shot, words, RAW_BITS, scene.info.name)

    def _describe(self, shot: Shot, words: Words, bits: int, scene: str) -> tuple[Metadata, Words]:
        request = shot.request
        metadata = Metadata(
            size=words.nbytes,
            height=words.shape[0],
            width=words.shape[1],
            channels=1,
            timestamp=shot.timestamp,
            bits_pixel=bits,
            obid=shot.obid,
            camera=request.camera_id or _DEFAULT_NAMES[request.camera_type],
            items=(
                ("exposure_us", shot.exposure_us),
                ("gain_db", request.gain_db),
                ("scene", scene),
            ),
        )
        return metadata, words


def _seed(serial: int, obid: int, index: int) -> int:
    return (serial * 1_000_003 + obid) * 1_000_003 + index


def _thermal(reflectance: Floats, seed: int) -> Words:
    """Return hundredths of a kelvin, from brightness: a stand-in for a thermal band."""
    noise = np.random.default_rng(seed).standard_normal(reflectance.shape, dtype=np.float32)
    cold = np.minimum(reflectance / _IR_CLOUD_REFLECTANCE, 1.0) * _IR_CLOUD_DROP_CK
    return np.rint(_IR_GROUND_CK - cold + noise * _IR_NOISE_CK).astype("<u2")


def _test_pattern() -> Words:
    pattern = np.empty((TEST_HEIGHT, TEST_WIDTH), dtype="<u2")
    bar = np.arange(TEST_WIDTH) * 8 // TEST_WIDTH
    # White, yellow, cyan, green, magenta, red, blue, black: bit clear = colour on.
    bars = [np.where(bar >> bit & 1, 0, WORD_MAX) for bit in (1, 2, 0)]
    for row in (0, 1):
        for column in (0, 1):
            pattern[row::2, column::2] = bars[BAYER_GR[row][column]][column::2]
    pattern[TEST_HEIGHT * 3 // 4 :] = np.arange(TEST_WIDTH) * (WORD_MAX + 1) // TEST_WIDTH
    pattern.setflags(write=False)
    return pattern


_TEST_PATTERN = _test_pattern()
