"""A model of an image sensor: reflectance falling on the pixels in, 12-bit Bayer words out.

Theory of operation. The figures are those of a Sony IMX264/265-class global-shutter sensor
(2464 x 2056 pixels of 3.45 um, colour filter GRBG). For pixel (y, x) of colour c, exposure t:

    rate(y, x)    = response[c] * cos(theta)**4 * (1 + prnu(y, x))       electrons / s / reflectance
    mean(y, x)    = rate * reflectance * illumination * t + dark(y, x) * t         electrons
    electrons     = min(mean + sqrt(mean + read_noise**2) * N(0, 1), full_well)
    word          = clip(round(black_level + electrons * gain / electrons_per_word), 0, 4095)

Shot noise (Poisson) is drawn as a normal distribution of the same mean and variance, together with
the read noise: above some ten electrons the difference cannot be seen, and it is four times
faster. `prnu` and the dark current are fixed patterns of one sensor (`serial` seeds them); the
noise of a frame is fixed by the frame's seed. theta is the angle off the optical axis:
tan(theta) = distance from the centre * pitch / focal length.

`response` contains lens, filters, quantum efficiency and sunlight of each colour. It is scaled so
that a white cloud (reflectance 0.35) just saturates green in 55 ms, the exposure that is used in
the paper's captures; the ratios R : G : B = 0.62 : 1 : 0.72 are typical of a silicon sensor behind
such a filter in sunlight and make white balance in the pipeline necessary. These two are chosen,
not measured. Not modelled: blur by lens and motion, column noise, hot pixels, crosstalk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint16]
Floats: TypeAlias = npt.NDArray[np.float32]

# Position in the 2 x 2 cell -> plane of an RGB picture. GR: the first row is green, red.
BAYER_GR: tuple[tuple[int, int], tuple[int, int]] = ((1, 0), (2, 1))
WORD_MAX = 4095
_STRIP_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFigures:
    """What a sensor is. Sizes in pixels, charges in electrons, times in seconds."""

    width: int = 2464
    height: int = 2056
    pitch_um: float = 3.45
    focal_mm: float = 25.0
    full_well_e: float = 10500.0
    read_noise_e: float = 2.3
    dark_e_per_s: float = 4.0
    dark_spread: float = 0.25
    prnu: float = 0.008
    electrons_per_word: float = 2.6
    black_level: int = 60
    response: tuple[float, float, float] = (338_000.0, 545_000.0, 392_000.0)

    def saturation_s(self, reflectance: float, colour: int = 1) -> float:
        """Return the exposure at which an unvignetted pixel of that colour fills its well."""
        return self.full_well_e / (self.response[colour] * reflectance)


class Sensor:
    """One sensor with its fixed patterns. Holds 8 bytes per pixel."""

    def __init__(self, figures: SensorFigures | None = None, serial: int = 1) -> None:
        self.figures = figures = figures or SensorFigures()
        if figures.width % 2 or figures.height % 2:
            raise ValueError(f"{figures.width} x {figures.height} is not made of 2 x 2 cells")
        rng = _generator(serial)
        shape = (figures.height, figures.width)
        pattern = rng.standard_normal(shape, dtype=np.float32)
        pattern *= np.float32(figures.prnu)
        pattern += 1
        pattern *= vignetting(figures)
        self._rate = pattern
        for row in (0, 1):
            for column in (0, 1):
                colour = BAYER_GR[row][column]
                pattern[row::2, column::2] *= np.float32(figures.response[colour])
        dark = rng.standard_normal(shape, dtype=np.float32)
        dark *= np.float32(figures.dark_spread * figures.dark_e_per_s)
        dark += np.float32(figures.dark_e_per_s)
        self._dark = np.maximum(dark, 0)

    def expose(
        self,
        mosaic: Floats,
        *,
        exposure_us: int,
        gain_db: float = 0.0,
        illumination: float = 1.0,
        seed: int = 0,
        step: int = 1,
    ) -> Words:
        """Return the frame that the sensor delivers for the reflectance behind each filter.

        `mosaic` is (height, width), already one colour per pixel. With `step` n it is a reduced
        frame of every n-th cell in both directions, for test shots. Raises ValueError if the
        shape does not fit or a figure makes no sense.
        """
        if exposure_us <= 0 or not 0 <= gain_db <= 48 or illumination < 0:
            raise ValueError(f"exposure {exposure_us} us, gain {gain_db} dB, light {illumination}")
        rate, dark = every_cell(self._rate, step), every_cell(self._dark, step)
        if mosaic.shape != rate.shape:
            raise ValueError(f"picture is {mosaic.shape}, sensor {rate.shape}")
        figures, seconds = self.figures, exposure_us * 1e-6
        gain = 10 ** (gain_db / 20) / figures.electrons_per_word
        rng = _generator(seed)
        frame = np.empty(rate.shape, dtype="<u2")
        # In strips, because each of the many steps then finds its operands in the cache.
        for top in range(0, rate.shape[0], _STRIP_ROWS):
            rows = slice(top, top + _STRIP_ROWS)
            electrons = rate[rows] * mosaic[rows]
            electrons *= np.float32(illumination * seconds)
            electrons += dark[rows] * np.float32(seconds)
            noise = rng.standard_normal(electrons.shape, dtype=np.float32)
            noise *= np.sqrt(electrons + np.float32(figures.read_noise_e**2))
            electrons += noise
            np.minimum(electrons, np.float32(figures.full_well_e), out=electrons)
            electrons *= np.float32(gain)
            # The half rounds: casting to an integer cuts off.
            electrons += np.float32(figures.black_level + 0.5)
            np.clip(electrons, 0, WORD_MAX, out=electrons)
            frame[rows] = electrons
        return frame


def vignetting(figures: SensorFigures) -> Floats:
    """Return the light that reaches each pixel of an even surface, 1 on the axis: cos^4 law."""
    scale = figures.pitch_um * 1e-3 / figures.focal_mm
    y = ((np.arange(figures.height) - (figures.height - 1) / 2) * scale) ** 2
    x = ((np.arange(figures.width) - (figures.width - 1) / 2) * scale) ** 2
    # cos^4 = 1 / (1 + tan^2)^2
    return (1 / (1 + y[:, None] + x[None, :]) ** 2).astype(np.float32)


def every_cell(plane: Floats, step: int) -> Floats:
    """Return every `step`-th Bayer cell of a plane, a plane of whole cells again."""
    if step == 1:
        return plane
    height, width = plane.shape
    cells = plane.reshape(height // 2, 2, width // 2, 2)[::step, :, ::step]
    return cells.reshape(cells.shape[0] * 2, cells.shape[2] * 2)


def _generator(seed: int) -> np.random.Generator:
    # SFC64 is the fastest of numpy's generators; the noise is most of a frame's time.
    return np.random.Generator(np.random.SFC64(seed))
