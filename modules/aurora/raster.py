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
    Bools,
    Floats,
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
# Rows of a swath that are refined at a time.
_STRIP: Final = 16
# Sub-samples per picture pixel and axis; what remains open is closed afterwards.
_DENSITY: Final = 0.75
# Distances between pixels change slowly: every so many rows or columns tell enough.
_SAMPLED: Final = 16
# Rows this much further apart than usual have missing rows between them.
_GAP: Final = 1.8
_MAX_GAP_ROWS: Final = 64
# Picture pixels that are filled at a time: what they need stays in the cache of the processor, and
# no new page of memory is touched for it, which costs more than all the arithmetic.
_BLOCK: Final = 8 * DISC_WIDTH


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
    return resample(swaths, values, frame, out, averaged=_AVERAGED)


def resample(
    swaths: Sequence[Floats],
    values: Sequence[Floats],
    frame: Frame,
    out: Floats,
    *,
    averaged: int,
) -> Floats:
    """Fill `out` with values of the native pixels; the first `averaged` planes are means.

    `values` are float32 (native pixels, planes), whose first plane is NaN where there are no data.
    """
    numbers, empty = _number(values)
    # The last row of the table stands for "nothing": -1 counts from the end.
    table = np.empty((sum(map(len, values)) + 1, out.shape[-1]), np.float32)
    table[-1] = np.nan
    for number, value in zip(numbers, values, strict=True):
        table[number.astype(np.intp)] = value
    pictures = [
        _locate(swath, number.reshape(swath.shape[:2]), frame)
        for swath, number in zip(swaths, numbers, strict=True)
    ]
    heads = np.ascontiguousarray(table[:, :averaged]) if len(swaths) > 1 else table
    flat = out.reshape(-1, out.shape[-1])
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        _fill(flat[part], [picture[part] for picture in pictures], table, heads, empty)
    return out


def _number(values: Sequence[Floats]) -> tuple[list[Floats], int]:
    """Number native pixels so that the largest number is the one to show.

    Those without data come first, then the last swath, and the first swath at the end. Returns the
    numbers by swath and how many are without data. Numbers are float32: exact, as an observation
    has less than 2^24 native pixels.
    """
    has_data = [np.isfinite(value[:, 0]) for value in values]
    empty = sum(int((~seen).sum()) for seen in has_data)
    next_blind, next_seen = empty, empty
    numbers = []
    for seen in reversed(has_data):
        number = np.empty(len(seen), np.float32)
        count = int(seen.sum())
        number[seen] = np.arange(next_seen, next_seen + count, dtype=np.float32)
        next_blind, next_seen = next_blind - (len(seen) - count), next_seen + count
        number[~seen] = np.arange(next_blind, next_blind + len(seen) - count, dtype=np.float32)
        numbers.append(number)
    return numbers[::-1], empty


def _fill(
    out: Floats, pictures: Sequence[Floats], table: Floats, heads: Floats, empty: int
) -> None:
    """Fill some picture pixels; where several swaths have data, with means of the first planes."""
    best = pictures[0]
    if len(pictures) == 1:
        np.take(table, best.astype(np.intp), axis=0, out=out, mode="wrap")
        return
    second = np.full_like(best, -1)
    more: list[Floats] = []
    for picture in pictures[1:]:
        hidden = np.minimum(best, picture)
        best = np.maximum(best, picture)
        third = np.minimum(second, hidden)
        second = np.maximum(second, hidden)
        if third.max() >= empty:
            more.append(third)
    shown = best.astype(np.intp)
    np.take(table, shown, axis=0, out=out, mode="wrap")
    if second.max() < empty:
        return
    # What is seen once is averaged with itself.
    np.copyto(second, best, where=second < empty)
    mean, added = np.take(heads, shown, axis=0), np.take(heads, second.astype(np.intp), axis=0)
    mean += added
    mean *= np.float32(0.5)
    # Plane by plane, because inner loops over four numbers cost more than all the rest.
    for plane in range(heads.shape[1]):
        out[:, plane] = mean[:, plane]
    share = np.full(len(out), 2, np.float32)
    for third in more:
        at = np.flatnonzero(third >= empty)
        share[at] += 1
        mean = out[at, : heads.shape[1]]
        added = np.take(heads, third[at].astype(np.intp), axis=0)
        out[at, : heads.shape[1]] = mean + (added - mean) / share[at, None]


def _locate(planes: Floats, numbers: Floats, frame: Frame) -> Floats:
    """Return for every picture pixel the number of the native pixel seen there, or -1."""
    # One element more than the picture, for everything that falls outside of it.
    picture = np.full(frame.height * frame.width + 1, -1, np.float32)
    places = np.empty((2, *numbers.shape), np.float32)
    np.multiply(planes[..., Swath.SKY_X], frame.radius, out=places[0])
    np.multiply(planes[..., Swath.SKY_Y], -frame.radius, out=places[1])
    if places.size and np.isfinite(places).any():
        _scatter(*_bridge_gaps(_fill_rows(places), numbers), frame, picture)
    image = picture[:-1].reshape(frame.height, frame.width)
    # Sub-samples may lie a little more than a pixel apart: close the holes between them.
    kernel = np.ones((3, 3), np.uint8)
    seen = (image >= 0).view(np.uint8)
    holes = cv2.bitwise_xor(cv2.morphologyEx(seen, cv2.MORPH_CLOSE, kernel), seen)
    cv2.copyTo(cv2.dilate(image, kernel), holes, image)
    return picture[:-1]


def _scatter(places: Floats, natives: Floats, frame: Frame, picture: Floats) -> None:
    """Leave the number of every native pixel wherever one of its sub-samples falls."""
    factor = _refinement(places)
    rows = natives.shape[0]
    for first in range(0, rows, _STRIP):
        last = min(first + _STRIP, rows)
        # With a neighbour on either side, the strip is refined as the whole would be.
        low, high = max(first - 1, 0), min(last + 1, rows)
        size = (natives.shape[1] * factor, (high - low) * factor)
        kept = slice((first - low) * factor, (last - low) * factor)
        # Half a pixel is added before the cut to whole pixels.
        column, row = (
            cv2.resize(plane[low:high] + np.float32(centre + 0.5), size)[kept].astype(np.int32)
            for plane, centre in zip(places, (frame.centre_x, frame.centre_y), strict=True)
        )
        # As unsigned, what is negative (and NaN, cut to the least integer) is far too large.
        outside = (column.view(np.uint32) >= frame.width) | (row.view(np.uint32) >= frame.height)
        row *= np.int32(frame.width)
        row += column
        row[outside] = len(picture) - 1
        number = cv2.resize(natives[low:high], size, interpolation=cv2.INTER_NEAREST)[kept]
        picture[row] = number


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
