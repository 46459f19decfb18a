"""From swaths to a picture of the disc: remove hits of particles, resample to square pixels.

Theory of operation: every native pixel is a patch of sky. Its place in the picture is refined to
sub-samples closer than one picture pixel, each of which leaves the *number* of its native pixel
where it falls; then all planes are fetched by these numbers in one go. So the costly scattering is
done once, not once per plane. Swaths that overlap are averaged, geometry comes from the first.
Source: aurora.md 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from modules.aurora.planes import (
    CENTRE_X,
    CENTRE_Y,
    DISC_HEIGHT,
    DISC_WIDTH,
    RADIUS_PX,
    Array,
    Bools,
    Floats,
    Ints,
    Swath,
)

# Planes of a swath in the order of the planes of a disc.
DISC_ORDER: Final = (
    Swath.RADIANCE,
    Swath.ERROR,
    Swath.SOLAR_ZENITH,
    Swath.EMISSION,
    Swath.LATITUDE,
    Swath.LONGITUDE,
)
# Only these may be averaged where swaths overlap; a mean of longitudes is wrong at 0 = 360.
_AVERAGED: Final = 4
_MAX_REFINEMENT: Final = 12
# Sub-samples per picture pixel and axis; what remains open is closed afterwards.
_DENSITY: Final = 0.75
# Distances between pixels change slowly: every so many rows or columns tell enough.
_SAMPLED: Final = 16
# Rows this much further apart than usual have missing rows between them.
_GAP: Final = 1.8
_MAX_GAP_ROWS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where the disc lies in the picture, in pixels."""

    centre_x: int = CENTRE_X
    centre_y: int = CENTRE_Y
    radius: int = RADIUS_PX
    width: int = DISC_WIDTH
    height: int = DISC_HEIGHT


def clean_slit(planes: Floats) -> Floats:
    """Drop the slit columns that have no geometry at all (pixel 0 looks past the slit)."""
    seen = np.isfinite(planes[..., Swath.SKY_X]).any(axis=0)
    return planes if seen.all() else planes[:, seen]


def despike(planes: Floats) -> int:
    """Replace particle hits in the radiance by the local median, in place; return how many."""
    light = planes[..., Swath.RADIANCE]
    if min(light.shape) < 5:
        return 0
    finite = np.isfinite(light)
    if not finite.any():
        return 0
    filled = np.ascontiguousarray(np.where(finite, light, np.median(light[finite])))
    wide, narrow = cv2.medianBlur(filled, 5), cv2.medianBlur(filled, 3)
    error = np.fmax(planes[..., Swath.ERROR], np.float32(0.3))
    spikes = finite & (light - wide > 6 * error) & (light - narrow > 5 * error)
    light[spikes] = wide[spikes]
    return int(spikes.sum())


def rasterise(swaths: Sequence[Floats], frame: Frame, out: Floats) -> Floats:
    """Resample swaths into `out`, float32 (height, width, 6); NaN where nothing was seen."""
    values = [swath[..., DISC_ORDER].reshape(-1, len(DISC_ORDER)) for swath in swaths]
    numbers = [native_numbers(swath, frame) for swath in swaths]
    return gather(numbers, values, out, averaged=_AVERAGED)


def gather(
    numbers: Sequence[Ints], values: Sequence[Floats], out: Floats, *, averaged: int
) -> Floats:
    """Fill `out` from native pixels by number; the first `averaged` planes are means."""
    flat = out.reshape(-1, out.shape[-1])
    nothing = np.full((1, out.shape[-1]), np.nan, np.float32)
    table = np.concatenate((*values, nothing))
    has_data = np.isfinite(table[:, 0])
    # The last row of the table stands for "nothing": -1 counts from the end.
    best = np.empty(0, np.int32)
    overlaps: list[tuple[Array, Array]] = []
    offset = 0
    for number, value in zip(numbers, values, strict=True):
        if offset == 0:
            best, offset = number.copy(), len(value)
            continue
        shifted = np.where(number >= 0, number + np.int32(offset), np.int32(-1))
        both = np.flatnonzero((shifted >= 0) & (best >= 0))
        now, before = has_data[shifted[both]], has_data[best[both]]
        best = np.where(best < 0, shifted, best)
        best[both[now & ~before]] = shifted[both[now & ~before]]
        overlaps.append((both[now & before], shifted[both[now & before]]))
        offset += len(value)
    np.take(table, best, axis=0, out=flat, mode="wrap")
    share = np.ones(len(flat), np.float32) if any(len(at) for at, _ in overlaps) else None
    for at, number in overlaps:
        if share is None or not len(at):
            continue
        share[at] += 1
        mean = flat[at, :averaged]
        flat[at, :averaged] = mean + (table[number, :averaged] - mean) / share[at][:, None]
    return out


def native_numbers(planes: Floats, frame: Frame) -> Ints:
    """Return for every picture pixel the number of the native pixel seen there, or -1."""
    rows, columns = planes.shape[:2]
    # One element more than the picture, for everything that falls outside of it.
    picture = np.full(frame.height * frame.width + 1, -1, np.float32)
    places = np.empty((2, rows, columns), np.float32)
    np.multiply(planes[..., Swath.SKY_X], frame.radius, out=places[0])
    np.multiply(planes[..., Swath.SKY_Y], -frame.radius, out=places[1])
    if places.size and np.isfinite(places).any():
        natives = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
        _scatter(*_bridge_gaps(_fill_rows(places), natives), frame, picture)
    image = picture[:-1].reshape(frame.height, frame.width)
    # Sub-samples may lie a little more than a pixel apart: close the holes between them.
    kernel = np.ones((3, 3), np.uint8)
    seen = (image >= 0).astype(np.uint8)
    holes = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, kernel) > seen
    image[holes] = cv2.dilate(image, kernel)[holes]
    return picture[:-1].astype(np.int32)


def _scatter(places: Floats, natives: Floats, frame: Frame, picture: Floats) -> None:
    """Leave the number of every native pixel wherever one of its sub-samples falls."""
    factor = _refinement(places)
    size = (natives.shape[1] * factor, natives.shape[0] * factor)
    # Half a pixel is added before the cut to whole pixels.
    column = cv2.resize(places[0] + np.float32(frame.centre_x + 0.5), size).astype(np.int32)
    row = cv2.resize(places[1] + np.float32(frame.centre_y + 0.5), size).astype(np.int32)
    # As unsigned, what is negative (and NaN, which is cut to the least integer) is far too large.
    inside = (column.view(np.uint32) < frame.width) & (row.view(np.uint32) < frame.height)
    row *= np.int32(frame.width)
    row += column
    row[~inside] = len(picture) - 1
    picture[row] = cv2.resize(natives, size, interpolation=cv2.INTER_NEAREST)


def _refinement(places: Floats) -> int:
    """Return how many sub-samples per native pixel and axis are about one picture pixel apart."""
    spacing = 1.0
    for step in (
        np.diff(places[:, :, ::_SAMPLED], axis=1),
        np.diff(places[:, ::_SAMPLED], axis=2),
    ):
        length = np.hypot(step[0], step[1])
        length = length[np.isfinite(length)]
        if length.size:
            spacing = max(spacing, float(np.median(length)))
    return int(np.clip(np.ceil(_DENSITY * spacing), 1, _MAX_REFINEMENT))


def _fill_rows(places: Floats) -> Floats:
    """Give integrations without geometry a place between their neighbours.

    Their values stay NaN; without a place their neighbours would lose half of their area.
    """
    blind: Bools = ~np.isfinite(places).all(axis=0)
    at = np.arange(blind.shape[0])
    for column in np.flatnonzero(blind.any(axis=0)):
        known = ~blind[:, column]
        if known.sum() < 2:
            continue
        for line in places[:, :, column]:
            line[~known] = np.interp(at[~known], at[known], line[known])
    return places


def _bridge_gaps(places: Floats, natives: Floats) -> tuple[Floats, Floats]:
    """Insert rows without data where the file leaves integrations out."""
    if places.shape[1] < 4:
        return places, natives
    step = np.diff(places[:, :, ::_SAMPLED], axis=1)
    length = np.median(np.nan_to_num(np.hypot(step[0], step[1])), axis=1)
    usual = float(np.median(length))
    wide = np.flatnonzero(length > _GAP * usual)
    if not usual > 0 or not len(wide):
        return places, natives
    missing = np.clip(np.round(length[wide] / usual) - 1, 1, _MAX_GAP_ROWS).astype(int)
    # Positions of the rows on an axis that has the missing ones too.
    shift = np.zeros(places.shape[1], int)
    shift[wide + 1] = missing
    old = np.arange(places.shape[1])
    new = old + np.cumsum(shift)
    bridged = np.empty((2, new[-1] + 1, places.shape[2]), np.float32)
    numbers = np.full(bridged.shape[1:], -1, np.float32)
    bridged[:, new], numbers[new] = places, natives
    for row, count in zip(wide, missing, strict=True):
        share = (np.arange(1, count + 1, dtype=np.float32) / (count + 1))[:, None]
        first, last = places[:, row, None], places[:, row + 1, None]
        bridged[:, new[row] + 1 : new[row] + 1 + count] = first + (last - first) * share
    return bridged, numbers
