"""Lines of sight to Mars, and the light of an aurora on them. Source: aurora.md 1.3 and 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modules.aurora.planes import SHELL_RADIUS_KM

Doubles = npt.NDArray[np.float64]
_FWHM = 2.3548


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Where the pixels of a swath look, arrays of (rows, slit).

    `points` are unit vectors (MSO) of the place on the shell, or of the point nearest to Mars when
    the line of sight passes the limb; `height` is that above the shell in km; `mu` the cosine of
    the emission angle; `rays` the look directions.
    """

    rays: Doubles
    points: Doubles
    mu: Doubles
    zenith: Doubles
    height: Doubles
    sky_x: Doubles
    sky_y: Doubles
    on_disc: npt.NDArray[np.bool_]

    @classmethod
    def make(cls, spacecraft: Doubles, sweep_deg: Doubles, slit_deg: Doubles, roll: float) -> Look:
        """Point at offsets from the centre of Mars, along the sweep and along the slit."""
        direction = spacecraft / np.linalg.norm(spacecraft)
        up = np.array([0.0, 0.0, 1.0]) - direction[2] * direction
        up /= np.linalg.norm(up)
        right = np.cross(up, direction)
        first = math.cos(roll) * right + math.sin(roll) * up
        second = -math.sin(roll) * right + math.cos(roll) * up
        rays = (
            -direction
            + np.tan(np.radians(sweep_deg))[:, None, None] * first
            + np.tan(np.radians(slit_deg))[None, :, None] * second
        )
        rays /= np.linalg.norm(rays, axis=2, keepdims=True)
        reach = rays @ spacecraft
        nearest = spacecraft - reach[..., None] * rays
        distance = np.linalg.norm(nearest, axis=2)
        on_disc = distance < SHELL_RADIUS_KM
        depth = np.sqrt(np.maximum(SHELL_RADIUS_KM**2 - distance**2, 0))
        points = nearest - depth[..., None] * rays
        points /= np.linalg.norm(points, axis=2, keepdims=True)
        return cls(
            rays=rays,
            points=points,
            mu=depth / SHELL_RADIUS_KM,
            zenith=np.degrees(np.arccos(np.clip(points[..., 0], -1, 1))),
            height=np.where(on_disc, distance - SHELL_RADIUS_KM, distance - SHELL_RADIUS_KM),
            sky_x=nearest @ right / SHELL_RADIUS_KM,
            sky_y=nearest @ up / SHELL_RADIUS_KM,
            on_disc=on_disc,
        )

    def limb(self, strength: float) -> Doubles:
        """Return how much brighter a thin layer is towards the limb."""
        return 1 + strength * (1 / np.maximum(self.mu, 0.2) - 1)

    def field(self, lobes: Doubles) -> Doubles:
        """Evaluate a smooth random field of mean 1 on the points."""
        value = np.ones(self.zenith.shape)
        for x, y, z, amplitude, width in lobes:
            cosine = self.points @ np.array([x, y, z])
            value += amplitude * np.exp((cosine - 1) / width**2)
        return np.maximum(value, 0.1)


def smooth_field(rng: np.random.Generator, lobes: int, sigma: float) -> Doubles:
    """Draw lobes for `Look.field`: centre, amplitude, width in radians."""
    centres = rng.normal(size=(lobes, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return np.column_stack((centres, rng.normal(0, sigma, lobes), rng.uniform(0.3, 1.0, lobes)))


def aurora_light(
    rng: np.random.Generator,
    kind: str,
    amplitude: float,
    blob_km: tuple[float, float],
    spacecraft: Doubles,
    looks: Sequence[Look],
) -> list[Doubles]:
    """Return the light of an aurora of a kind for every look, in R; zeros without a kind."""
    if not kind:
        return [np.zeros(look.zenith.shape) for look in looks]
    shape = _SHAPES[kind](rng, blob_km, _night_place(rng, spacecraft))
    lights = []
    for look in looks:
        slant = np.minimum(1 / np.maximum(look.mu, 0.2), 3)
        dusk = np.clip((look.zenith - 88) / 10, 0, 1)
        light = amplitude * _evaluate(shape, look) * slant * dusk
        lights.append(np.where(look.on_disc, light, 0))
    return lights


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Gaussian spots: unit vectors, relative brightness, sigma in radians.

    `is_curve`: the brightest spot counts, not the sum, so that a row of spots is a band.
    """

    places: Doubles
    brightness: Doubles
    sigma: Doubles
    is_curve: bool = False


def _evaluate(shape: _Shape, look: Look) -> Doubles:
    if not len(shape.places):
        return np.ones(look.zenith.shape)
    # Only the night side matters; for small angles 2 (1 - cosine) is the angle squared.
    light = np.zeros(look.zenith.shape)
    night = look.on_disc & (look.zenith > 88)
    cosine = look.points[night] @ shape.places.T
    spots = shape.brightness * np.exp((cosine - 1) / shape.sigma**2)
    light[night] = spots.max(axis=1) if shape.is_curve else spots.sum(axis=1)
    return light


def _night_place(rng: np.random.Generator, spacecraft: Doubles) -> Doubles:
    """Draw a place on the night side, in sight of the spacecraft if some of it is."""
    place = np.array([-1.0, 0.0, 0.0])
    for attempt in range(200):
        place = rng.normal(size=3)
        place /= np.linalg.norm(place)
        if place[0] < math.cos(math.radians(100)) and (attempt >= 150 or place @ spacecraft > 0.3):
            break
    return place


def _moved(rng: np.random.Generator, place: Doubles, radians: float) -> Doubles:
    moved: Doubles = place + rng.normal(0, radians, 3)
    moved /= np.linalg.norm(moved)
    return moved


def _crustal(rng: np.random.Generator, blob_km: tuple[float, float], place: Doubles) -> _Shape:
    return _spots(rng, blob_km, place, spread=0.25, scale=1.0)


def _patchy(rng: np.random.Generator, blob_km: tuple[float, float], place: Doubles) -> _Shape:
    return _spots(rng, blob_km, place, spread=0.7, scale=1.6)


def _spots(
    rng: np.random.Generator,
    blob_km: tuple[float, float],
    place: Doubles,
    *,
    spread: float,
    scale: float,
) -> _Shape:
    count = int(rng.integers(1, 6))
    places = [place, *(_moved(rng, place, spread) for _ in range(count - 1))]
    widths = np.exp(rng.uniform(math.log(blob_km[0]), math.log(blob_km[1]), count)) * scale
    brightness = np.concatenate(([1.0], rng.uniform(0.4, 1.0, count - 1)))
    return _Shape(
        places=np.array(places), brightness=brightness, sigma=widths / _FWHM / SHELL_RADIUS_KM
    )


def _sinuous(rng: np.random.Generator, blob_km: tuple[float, float], place: Doubles) -> _Shape:
    """A winding band from near the terminator towards the point opposite to the Sun."""
    length = rng.uniform(2000, 6500) / SHELL_RADIUS_KM
    start = math.radians(rng.uniform(92, 108))
    azimuth = math.atan2(place[2], place[1])
    along = np.linspace(0, 1, 80)
    waves, phase = rng.uniform(0.5, 2.0), rng.uniform(0, 2 * math.pi)
    zenith = start + along * length
    swing = rng.uniform(0.05, 0.2) * np.sin(2 * math.pi * waves * along + phase)
    turn = azimuth + swing / np.maximum(np.sin(zenith), 0.3) + rng.normal(0, 0.3) * along
    places = np.column_stack(
        (np.cos(zenith), np.sin(zenith) * np.cos(turn), np.sin(zenith) * np.sin(turn))
    )
    ripple = 1 + 0.5 * np.sin(2 * math.pi * rng.uniform(1, 4) * along + rng.uniform(0, 6))
    width = math.exp(rng.uniform(math.log(80), math.log(250))) / SHELL_RADIUS_KM
    return _Shape(
        places=places, brightness=ripple / 1.5, sigma=np.full(len(along), width), is_curve=True
    )


def _diffuse(rng: np.random.Generator, blob_km: tuple[float, float], place: Doubles) -> _Shape:
    return _Shape(places=np.empty((0, 3)), brightness=np.empty(0), sigma=np.empty(0))


_SHAPES = {"crustal": _crustal, "patchy": _patchy, "sinuous": _sinuous, "diffuse": _diffuse}
