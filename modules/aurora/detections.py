"""What is said about an aurora: measured on the cells of a mask, carried as metadata items.

Source: aurora.md 4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from modules.aurora.planes import CROP_LEFT, CROP_TOP, PIXEL_KM, Array, Bools, Disc, Floats

MAX_LISTED: Final = 16
_SINUOUS_KM: Final = 1500.0
_SINUOUS_RATIO: Final = 4.0
_CRUSTAL_RAYLEIGH: Final = 8.0
_LEAST_COSINE: Final = 0.2
# Four pixels of the disc image make a cell.
_CELL_KM2: Final = 4 * PIXEL_KM**2

ItemValue = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One aurora. `box` is x, y, width, height in pixels of the disc image; brightness in R.

    `snr` or `score` is None if that detector did not see it; places are None without geometry.
    """

    kind: str
    box: tuple[int, int, int, int]
    pixels: int
    area_km2: float
    mean_r: float
    peak_r: float
    snr: float | None = None
    score: float | None = None
    latitude: float | None = None
    longitude: float | None = None
    solar_zenith: float | None = None
    local_time: float | None = None

    @property
    def rank(self) -> float:
        """Order of the list: what the physical detector is sure of comes first."""
        return 1000 + self.snr if self.snr is not None else self.score or 0.0

    def to_json(self) -> str:
        """Return the text of a metadata item."""
        fields = {
            "c": self.kind, "b": list(self.box), "px": self.pixels,
            "km2": _rounded(self.area_km2, 0), "r": _rounded(self.mean_r, 2),
            "rmax": _rounded(self.peak_r, 2), "snr": _rounded(self.snr, 1),
            "p": _rounded(self.score, 1), "lat": _rounded(self.latitude, 2),
            "lon": _rounded(self.longitude, 2), "sza": _rounded(self.solar_zenith, 1),
            "lt": _rounded(self.local_time, 2),
        }  # fmt: skip
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Detection:
        """Read the text of a metadata item. Raises ValueError."""
        try:
            fields = json.loads(text)
            x, y, width, height = (int(value) for value in fields["b"])
            return cls(
                kind=str(fields["c"]), box=(x, y, width, height), pixels=int(fields["px"]),
                area_km2=float(fields["km2"]), mean_r=float(fields["r"]),
                peak_r=float(fields["rmax"]), snr=fields["snr"], score=fields["p"],
                latitude=fields["lat"], longitude=fields["lon"],
                solar_zenith=fields["sza"], local_time=fields["lt"],
            )  # fmt: skip
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a detection: {text[:80]!r}") from error


def number_by_rank(
    found: Sequence[tuple[Bools, Detection]], shape: tuple[int, ...]
) -> tuple[Array, list[Detection]]:
    """Return a mask with the numbers of the detections from 1, and these in that order.

    So number n of a mask is the item `aurora_<n-1>`. The strongest wins a cell claimed twice.
    """
    ranked = sorted(found, key=lambda pair: -pair[1].rank)
    numbers = np.zeros(shape, np.int32)
    for number, (region, _) in reversed(list(enumerate(ranked, 1))):
        numbers[region] = number
    return numbers, [detection for _, detection in ranked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is said about an image. `state`: aurora, none, no_night or bad_data."""

    state: str
    algorithm: str
    detections: Sequence[Detection] = ()
    background_r: float = 0.0
    noise_r: float = 0.0

    def items(self) -> dict[str, ItemValue]:
        """Return the metadata items, strongest detection first, at most 16 of them."""
        ranked = sorted(self.detections, key=lambda detection: -detection.rank)
        scores = [found.snr if found.snr is not None else found.score or 0.0 for found in ranked]
        items: dict[str, ItemValue] = {
            "aurora_n": len(ranked),
            "aurora_state": self.state,
            "aurora_score": float(max(scores, default=0.0)),
            "bg_r": round(self.background_r, 3),
            "noise_r": round(self.noise_r, 4),
            "algo": self.algorithm,
        }
        for number, detection in enumerate(ranked[:MAX_LISTED]):
            items[f"aurora_{number}"] = detection.to_json()
        if len(ranked) > MAX_LISTED:
            items["aurora_more"] = len(ranked) - MAX_LISTED
        return items


def listed(items: Mapping[str, ItemValue]) -> list[Detection]:
    """Read the detections in the items of an image; what is no detection is left out."""
    found = []
    for number in range(MAX_LISTED):
        text = items.get(f"aurora_{number}")
        if not isinstance(text, str):
            break
        try:
            found.append(Detection.from_json(text))
        except ValueError:
            continue
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenery:
    """What a detection is measured on: cells of the night image, and the disc for the places.

    `light` is the brightness above the background in R, NaN where unknown; `total` that with it.
    """

    light: Floats
    emission: Floats
    solar_zenith: Floats
    disc: Floats
    total: Floats | None = None
    subsolar_longitude: float | None = None


def measure(region: Bools, scenery: Scenery) -> Detection:
    """Measure a region of cells, bool (192, 192), that is not empty."""
    rows, columns = np.nonzero(region)
    light = np.nan_to_num(scenery.light[region].astype(np.float64))
    zenith = scenery.solar_zenith[region]
    cosine = np.cos(np.radians(np.nan_to_num(scenery.emission[region], nan=90.0)))
    detection = Detection(
        kind="unknown",
        box=(
            CROP_LEFT + 2 * int(columns.min()),
            CROP_TOP + 2 * int(rows.min()),
            2 * int(columns.max() - columns.min() + 1),
            2 * int(rows.max() - rows.min() + 1),
        ),
        pixels=4 * len(rows),
        area_km2=float((_CELL_KM2 / np.maximum(cosine, _LEAST_COSINE)).sum()),
        mean_r=float(light.mean()),
        peak_r=float(light.max()),
        solar_zenith=float(np.nanmean(zenith)) if np.isfinite(zenith).any() else None,
    )
    place = _place(rows, columns, light, scenery.disc)
    if place is not None:
        latitude, longitude = place
        local_time = None
        if scenery.subsolar_longitude is not None and math.isfinite(scenery.subsolar_longitude):
            local_time = (12 + (longitude - scenery.subsolar_longitude) / 15) % 24
        detection = replace(
            detection, latitude=latitude, longitude=longitude, local_time=local_time
        )
    return replace(detection, kind=_kind(rows, columns, detection.peak_r))


def _place(rows: Array, columns: Array, light: Array, disc: Floats) -> tuple[float, float] | None:
    """Return latitude and longitude of the centre of light; a mean of unit vectors."""
    corner = disc[CROP_TOP + 2 * rows, CROP_LEFT + 2 * columns]
    latitude = np.radians(corner[:, Disc.LATITUDE].astype(np.float64))
    longitude = np.radians(corner[:, Disc.LONGITUDE].astype(np.float64))
    known = np.isfinite(latitude) & np.isfinite(longitude)
    if not known.any():
        return None
    latitude, longitude = latitude[known], longitude[known]
    weight = np.maximum(light[known], 0) + 1e-6
    x = float((weight * np.cos(latitude) * np.cos(longitude)).sum())
    y = float((weight * np.cos(latitude) * np.sin(longitude)).sum())
    z = float((weight * np.sin(latitude)).sum())
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x)) % 360


def _kind(rows: Array, columns: Array, peak_r: float) -> str:
    """Name the shape: a long narrow band is sinuous, a bright spot crustal, a faint one patchy."""
    if len(rows) > 1:
        spread = np.cov(np.stack((columns, rows)).astype(np.float64), bias=True)
        minor, major = np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 1 / 12))
        # A uniform strip of length L has a standard deviation of L / sqrt(12).
        length_km = float(major) * math.sqrt(12) * 2 * PIXEL_KM
        if length_km >= _SINUOUS_KM and major / minor >= _SINUOUS_RATIO:
            return "sinuous"
    return "crustal" if peak_r >= _CRUSTAL_RAYLEIGH else "patchy"


def _rounded(value: Any, digits: int) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits) if digits else round(float(value))
