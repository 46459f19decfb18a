"""Synthetic scenes of Mars as EMUS sees it: geometry, light, noise and the truth about aurora.

Theory of operation: `scene(seed, config)` is a pure function. The spacecraft stands still while a
slit is swept over the disc once per swath; each look direction meets the emitting shell or passes
the limb, and gets day glow, corona, night glow and perhaps an aurora, then the noise of counted
photons and the faults real images have. The truth is the aurora without noise, per native pixel.
Source: aurora.md 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from modules.aurora.planes import MARS_RADIUS_KM, SHELL_RADIUS_KM, SWATH_PLANES, Swath
from tools.aurora_sky import Look, aurora_light, smooth_field

Floats = npt.NDArray[np.float32]
Range = tuple[float, float]
SLIT_DEGREES = 10.75


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig:
    """What is drawn; pairs are ranges, the rest are probabilities or widths."""

    altitude_km: Range = (19970.0, 42650.0)
    phase_deg: Range = (20.0, 165.0)
    slit_pixels: tuple[int, ...] = (128,)
    day_rayleigh: Range = (200.0, 600.0)
    terminator_deg: Range = (5.0, 8.0)
    night_rayleigh: Range = (0.6, 2.0)
    night_lobes: float = 0.2
    counts_per_rayleigh: Range = (3.0, 8.0)
    aurora_rate: float = 0.5
    kinds: tuple[tuple[str, float], ...] = (
        ("crustal", 0.45), ("patchy", 0.25), ("sinuous", 0.22), ("diffuse", 0.08),
    )  # fmt: skip
    amplitudes: dict[str, Range] = field(
        default_factory=lambda: {
            "crustal": (2.0, 40.0), "patchy": (1.4, 8.0), "sinuous": (2.4, 40.0),
            "diffuse": (3.0, 15.0),
        }
    )  # fmt: skip
    blob_km: Range = (150.0, 700.0)
    missing_rate: float = 0.25
    hits_rate: float = 0.30
    binning_rate: float = 0.15
    irregular_rate: float = 0.25
    striping_rate: float = 0.50
    striping: float = 0.03
    gain_rate: float = 0.60
    gain: float = 0.10


DEFAULT = SceneConfig()
SHIFTED = replace(
    DEFAULT,
    phase_deg=(35.0, 175.0),
    day_rayleigh=(120.0, 800.0),
    terminator_deg=(4.0, 9.5),
    night_rayleigh=(0.3, 3.5),
    night_lobes=0.35,
    counts_per_rayleigh=(2.0, 10.0),
    slit_pixels=(128, 192),
    amplitudes=dict.fromkeys(("crustal", "patchy", "sinuous", "diffuse"), (1.5, 60.0)),
    blob_km=(100.0, 1000.0),
    kinds=(("crustal", 0.35), ("patchy", 0.25), ("sinuous", 0.30), ("diffuse", 0.10)),
    missing_rate=0.4,
    hits_rate=0.5,
    binning_rate=0.25,
    irregular_rate=0.4,
    striping_rate=0.7,
    striping=0.05,
    gain_rate=0.8,
)
CONFIGS = {"default": DEFAULT, "shifted": SHIFTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSwath:
    """One swath: planes (rows, slit, 9), the aurora's light (rows, slit) in R, its look."""

    planes: Floats
    aurora: Floats
    look: Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One observation. `snr` is the optimal signal-to-noise ratio of its aurora."""

    seed: int
    kind: str
    snr: float
    swaths: tuple[SyntheticSwath, ...]
    spacecraft_km: npt.NDArray[np.float64]
    to_body: npt.NDArray[np.float64]
    faults: tuple[str, ...]

    @property
    def label(self) -> str:
        """`aurora`, `none`, or `ambiguous` if no detector could be sure."""
        if not self.kind:
            return "none"
        return "aurora" if self.snr >= 8 else "ambiguous"


def scene(seed: int, config: SceneConfig = DEFAULT) -> Scene:
    """Draw a scene; the same seed and configuration give the same scene."""
    rng = np.random.Generator(np.random.PCG64(seed))
    distance = MARS_RADIUS_KM + rng.uniform(*config.altitude_km)
    phase, position = math.radians(rng.uniform(*config.phase_deg)), rng.uniform(0, 2 * math.pi)
    direction = np.array([
        math.cos(phase),
        math.sin(phase) * math.cos(position),
        math.sin(phase) * math.sin(position),
    ])  # fmt: skip
    spacecraft = direction * distance
    to_body = _body_rotation(rng, direction)
    binning = int(rng.integers(2, 5)) if rng.random() < config.binning_rate else 1
    pixels = int(rng.choice(config.slit_pixels)) // binning
    looks = _scan(rng, spacecraft, pixels, binning)
    light = _Light.draw(rng, config)
    kind = _choose(rng, config.kinds) if rng.random() < config.aurora_rate else ""
    amplitude = log_uniform(rng, *config.amplitudes[kind]) if kind else 0.0
    auroras = aurora_light(rng, kind, amplitude, config.blob_km, direction, looks)
    counts = log_uniform(rng, *config.counts_per_rayleigh) * binning**2
    faults: list[str] = ["binned"] if binning > 1 else []
    swaths, power = [], 0.0
    faulty = _Faults.draw(rng, config, faults)
    for look, aurora in zip(looks, auroras, strict=True):
        clean = light.on(look) * faulty.irregular(look) + light.night(look) + aurora
        planes = _observe(rng, look, clean, counts, to_body)
        faulty.spoil(rng, planes)
        power += _power(planes, aurora)
        swaths.append(SyntheticSwath(planes=planes, aurora=aurora.astype(np.float32), look=look))
    return Scene(
        seed=seed,
        kind=kind,
        snr=math.sqrt(power),
        swaths=tuple(swaths),
        spacecraft_km=spacecraft,
        to_body=to_body,
        faults=tuple(faults),
    )


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _choose(rng: np.random.Generator, kinds: tuple[tuple[str, float], ...]) -> str:
    names, shares = zip(*kinds, strict=True)
    return str(rng.choice(names, p=shares))


def _body_rotation(
    rng: np.random.Generator, direction: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the rotation from MSO to the body, with a random place below the spacecraft."""
    latitude = math.radians(rng.uniform(-30, 30))
    longitude, roll = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
    below = np.array([
        math.cos(latitude) * math.cos(longitude),
        math.cos(latitude) * math.sin(longitude),
        math.sin(latitude),
    ])  # fmt: skip
    right, up = tangents(direction)
    body_right, body_up = tangents(below)
    turned_right = math.cos(roll) * body_right + math.sin(roll) * body_up
    turned_up = -math.sin(roll) * body_right + math.cos(roll) * body_up
    body = np.column_stack((turned_right, turned_up, below))
    rotation: npt.NDArray[np.float64] = np.dot(body, np.vstack((right, up, direction)))
    return rotation


def tangents(
    direction: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return right and up, as seen by who looks along minus `direction` with +Z up."""
    up = np.array([0.0, 0.0, 1.0]) - direction[2] * direction
    up /= np.linalg.norm(up)
    return np.cross(up, direction), up


def _scan(
    rng: np.random.Generator, spacecraft: npt.NDArray[np.float64], pixels: int, binning: int
) -> list[Look]:
    """Lay one to three swaths over the disc, alternately forwards and backwards."""
    disc = math.degrees(2 * math.asin(SHELL_RADIUS_KM / float(np.linalg.norm(spacecraft))))
    swaths = int(np.clip(math.ceil(1.03 * disc / SLIT_DEGREES), 1, 3))
    spacing = min((1.05 * disc - SLIT_DEGREES) / max(swaths - 1, 1), 0.97 * SLIT_DEGREES)
    step = SLIT_DEGREES / pixels * rng.uniform(0.9, 1.3)
    rows = max(8, round(disc * rng.uniform(1.05, 1.5) / step))
    roll = rng.uniform(0, 2 * math.pi)
    along = (np.arange(rows) - (rows - 1) / 2) * step
    slit = (np.arange(pixels) - (pixels - 1) / 2) * (SLIT_DEGREES / pixels)
    looks = []
    for number in range(swaths):
        middle = (number - (swaths - 1) / 2) * spacing
        sweep = along if number % 2 == 0 else along[::-1]
        looks.append(Look.make(spacecraft, sweep, slit + middle, roll))
    return looks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Light:
    day_r: float
    slope_deg: float
    night_r: float
    lobes: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, config: SceneConfig) -> _Light:
        return cls(
            day_r=rng.uniform(*config.day_rayleigh),
            slope_deg=rng.uniform(*config.terminator_deg),
            night_r=log_uniform(rng, *config.night_rayleigh),
            lobes=smooth_field(rng, 4, config.night_lobes),
        )

    def _day(self, zenith: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        lit = np.maximum(np.cos(np.radians(np.minimum(zenith, 75))), 0) ** 0.7
        beyond = np.exp(-np.maximum(zenith - 75, 0) / self.slope_deg)
        light: npt.NDArray[np.float64] = self.day_r * lit * beyond
        return light

    def on(self, look: Look) -> npt.NDArray[np.float64]:
        day = self._day(look.zenith)
        height = np.maximum(look.height, 0)
        lit = (1 + np.cos(np.radians(look.zenith))) / 2
        corona = 1.3 * day * np.exp(-height / 150)
        corona += 0.08 * self.day_r * lit * np.exp(-height / 1500) + 0.3
        return np.where(look.on_disc, day * look.limb(0.15), corona)

    def night(self, look: Look) -> npt.NDArray[np.float64]:
        base = self.night_r * look.field(self.lobes)
        faint = 0.6 * base * np.exp(-np.maximum(look.height, 0) / 400)
        return np.where(look.on_disc, base * look.limb(0.25), faint)


def _observe(
    rng: np.random.Generator,
    look: Look,
    light: npt.NDArray[np.float64],
    counts_per_rayleigh: float,
    to_body: npt.NDArray[np.float64],
) -> Floats:
    """Count photons and fill in the geometry."""
    counts = rng.poisson(np.maximum(light, 0) * counts_per_rayleigh + 0.3)
    planes = np.empty((*light.shape, SWATH_PLANES), np.float32)
    planes[..., Swath.RADIANCE] = (counts - 0.3) / counts_per_rayleigh
    planes[..., Swath.ERROR] = np.sqrt(np.maximum(counts, 1)) / counts_per_rayleigh
    body = look.points @ to_body.T
    planes[..., Swath.LATITUDE] = np.degrees(np.arcsin(np.clip(body[..., 2], -1, 1)))
    planes[..., Swath.LONGITUDE] = np.degrees(np.arctan2(body[..., 1], body[..., 0])) % 360
    planes[..., Swath.SOLAR_ZENITH] = look.zenith
    planes[..., Swath.EMISSION] = np.degrees(np.arccos(np.clip(look.mu, 0, 1)))
    planes[..., Swath.HEIGHT] = look.height + SHELL_RADIUS_KM - MARS_RADIUS_KM
    planes[..., Swath.SKY_X], planes[..., Swath.SKY_Y] = look.sky_x, look.sky_y
    return planes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Faults:
    rows_missing: bool
    hits: float
    stripes: float
    gain: float
    bumps: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, config: SceneConfig, names: list[str]) -> _Faults:
        def happens(name: str, rate: float) -> bool:
            hit = bool(rng.random() < rate)
            if hit:
                names.append(name)
            return hit

        return cls(
            rows_missing=happens("missing", config.missing_rate),
            hits=rng.uniform(2e-4, 15e-4) if happens("hits", config.hits_rate) else 0.0,
            bumps=smooth_field(rng, 8, 0.4 if happens("bumps", config.irregular_rate) else 0.0),
            stripes=config.striping if happens("stripes", config.striping_rate) else 0.0,
            gain=config.gain if happens("gain", config.gain_rate) else 0.0,
        )

    def irregular(self, look: Look) -> npt.NDArray[np.float64]:
        return np.clip(look.field(self.bumps), 0.6, 1.4)

    def spoil(self, rng: np.random.Generator, planes: Floats) -> None:
        rows, columns = planes.shape[:2]
        gain = np.maximum(1 + rng.normal(0, 1, columns) * self.stripes, 0.5)
        gain = gain * max(0.5, 1 + rng.normal(0, 1) * self.gain)
        planes[..., : Swath.ERROR + 1] *= gain[None, :, None].astype(np.float32)
        if self.hits:
            where = rng.random((rows, columns)) < self.hits
            planes[where, Swath.RADIANCE] += rng.uniform(5, 80, int(where.sum()))
        if self.rows_missing:
            for _ in range(int(rng.integers(1, 4))):
                first = int(rng.integers(0, rows))
                planes[first : first + int(rng.integers(1, 4)), :, : Swath.ERROR + 1] = np.nan
        # The first pixel of the slit looks at the slit's end.
        planes[:, 0, Swath.RADIANCE] = 0
        planes[:, 0, Swath.ERROR :] = np.nan


def _power(planes: Floats, aurora: npt.NDArray[np.float64]) -> float:
    """Return the squared signal-to-noise ratio of the best possible detector."""
    error, zenith = planes[..., Swath.ERROR], planes[..., Swath.SOLAR_ZENITH]
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(planes).all(axis=2) & (zenith > 95)
        usable &= planes[..., Swath.EMISSION] < 80
    return float(np.sum((aurora[usable] / error[usable]) ** 2))
