"""From swaths to a picture of the disc: remove hits of particles, resample to square pixels.

Theory of operation: every native pixel is a patch of sky. Its place in the picture is refined to
sub-samples closer than one picture pixel, each of which leaves the *number* of its native pixel
where it falls; then all planes are fetched by these numbers in one go. So the costly scattering is
done once, not once per plane, and only in the window of the picture that the swath covers. Swaths
that overlap are averaged, geometry comes from the first. Source: aurora.md 3.1.

A number is `_SEEN | row << 16 | column`, the place of the native pixel in a table of all swaths, so
that it is the map of cv2.remap as it is. The largest number is the one to show: those with data
before those without, then the first swath before the others. -1 is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
# Rows of a swath that are refined at a time.
_STRIP: Final = 16
# Sub-samples per picture pixel and axis; what remains open is closed afterwards.
_DENSITY: Final = 0.75
# Distances between pixels change slowly: every so many rows or columns tell enough.
_SAMPLED: Final = 16
# Rows this much further apart than usual have missing rows between them.
_GAP: Final = 1.8
_MAX_GAP_ROWS: Final = 64
# In the number of a native pixel: it has data. Below that bit there is room for so many rows of
# all swaths, and cv2.remap takes so many columns; real swaths have 260 rows and 192 columns.
_SEEN: Final = 1 << 30
MAX_ROWS: Final = 1 << 14
MAX_SLIT: Final = (1 << 15) - 2
# Rows times columns of the table.
_MAX_PIXELS: Final = 1 << 21
# The places are whole numbers, so that cv2.remap needs no second map.
_NO_MAP: Final[Floats] = np.empty(0, np.float32)
# Closing a hole looks this far around it.
_MARGIN: Final = 2
# Rows of the picture in which holes are closed at a time: what that needs stays in the cache of
# the processor, and no new page of memory is touched for it, which costs more than the arithmetic.
_BAND: Final = 64


# How to get memory for what is needed in between.
Allocate = Callable[[tuple[int, ...], type[np.int32]], Ints]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where the disc lies in the picture, in pixels."""

    centre_x: int = CENTRE_X
    centre_y: int = CENTRE_Y
    radius: int = RADIUS_PX
    width: int = DISC_WIDTH
    height: int = DISC_HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The part of the picture that a swath covers, and the numbers seen there."""

    top: int
    left: int
    numbers: Ints

    @property
    def bottom(self) -> int:
        """The row below the last one."""
        return self.top + self.numbers.shape[0]

    @property
    def right(self) -> int:
        """The column after the last one."""
        return self.left + self.numbers.shape[1]


def clean_slit(planes: Floats) -> Floats:
    """Drop the slit columns that have no geometry at all (pixel 0 looks past the slit).

    What is returned may share its memory with `planes`.
    """
    seen = np.isfinite(planes[..., Swath.SKY_X]).any(axis=0)
    first, count = int(seen.argmax()) if len(seen) else 0, int(seen.sum())
    # As a rule the slit is in one piece, and a slice of it is no copy.
    in_one_piece = seen[first : first + count].all()
    return planes[:, first : first + count] if in_one_piece else planes[:, seen]


def despike(planes: Floats) -> int:
    """Replace particle hits in the radiance by the local median, in place; return how many."""
    light = planes[..., Swath.RADIANCE]
    if min(light.shape) < 5:
        return 0
    finite = np.isfinite(light)
    if not finite.any():
        return 0
    filled = light.copy()
    if not finite.all():
        filled[~finite] = np.median(light[finite])
    wide, narrow = cv2.medianBlur(filled, 5), cv2.medianBlur(filled, 3)
    error = np.fmax(planes[..., Swath.ERROR], np.float32(0.3))
    spikes = finite & (filled - wide > 6 * error) & (filled - narrow > 5 * error)
    light[spikes] = wide[spikes]
    return int(spikes.sum())


def rasterise(
    swaths: Sequence[Floats], frame: Frame, out: Floats, allocate: Allocate = np.empty
) -> Floats:
    """Resample swaths into `out`, float32 (height, width, 6); NaN where nothing was seen.

    `allocate` gives memory for what is needed in between. Raises ValueError for more native pixels
    than any scan has, see MAX_ROWS and MAX_SLIT.
    """
    values = [np.take(swath, DISC_ORDER, axis=-1) for swath in swaths]
    return resample(swaths, values, frame, out, averaged=_AVERAGED, allocate=allocate)


def resample(
    swaths: Sequence[Floats],
    values: Sequence[Floats],
    frame: Frame,
    out: Floats,
    *,
    averaged: int,
    allocate: Allocate = np.empty,
) -> Floats:
    """Fill `out` with values of the native pixels; the first `averaged` planes are means.

    `values` are float32 (integrations, slit, planes), whose first plane is NaN where there are no
    data. Raises ValueError like `rasterise`.
    """
    table, numbers = _tabulate(values)
    views = [
        view
        for swath, number in zip(swaths, numbers, strict=True)
        if (view := _locate(swath, number, frame, allocate)) is not None
    ]
    out.fill(np.nan)
    if not views:
        return out
    top, bottom = min(view.top for view in views), max(view.bottom for view in views)
    left, right = min(view.left for view in views), max(view.right for view in views)
    for first in range(top, bottom, _BAND):
        rows = slice(first, min(first + _BAND, bottom))
        shown, hidden = _stack(views, rows, slice(left, right))
        part = out[rows, left:right]
        _fetch(table, shown, part)
        for count, layer in enumerate(hidden, 2):
            _average(part, table, layer, averaged, count)
    return out


def _tabulate(values: Sequence[Floats]) -> tuple[Floats, list[Ints]]:
    """Return the table of all swaths, the first one last, and the numbers of their pixels."""
    rows = sum(len(value) for value in values)
    slit = max((value.shape[1] for value in values), default=0)
    if rows > MAX_ROWS or slit > MAX_SLIT or rows * slit > _MAX_PIXELS:
        raise ValueError(
            f"{rows} rows of up to {slit} pixels are no scan of EMUS: at most {MAX_ROWS} rows,"
            f" {MAX_SLIT} columns, {_MAX_PIXELS} pixels"
        )
    table = np.empty((rows, slit, values[0].shape[2]), np.float32)
    numbers = []
    for value in values:
        rows -= len(value)
        table[rows : rows + len(value), : value.shape[1]] = value
        number = np.where(np.isfinite(value[..., 0]), np.int32(_SEEN), np.int32(0))
        number += np.arange(rows, rows + len(value), dtype=np.int32)[:, None] << 16
        number += np.arange(value.shape[1], dtype=np.int32)
        numbers.append(number)
    return table, numbers


def _stack(views: Sequence[_View], rows: slice, columns: slice) -> tuple[Ints, list[Ints]]:
    """Return what is shown in a part of the picture, and layer by layer what lies below it.

    Layers without data are left out.
    """
    layers = [
        np.full((rows.stop - rows.start, columns.stop - columns.start), -1, np.int32) for _ in views
    ]
    for number, view in enumerate(views):
        low, high = max(rows.start, view.top), min(rows.stop, view.bottom)
        if low >= high:
            continue
        place = (
            slice(low - rows.start, high - rows.start),
            slice(view.left - columns.start, view.right - columns.start),
        )
        sinking = view.numbers[low - view.top : high - view.top]
        for layer in layers[: number + 1]:
            part = layer[place]
            lower = np.minimum(part, sinking)
            np.maximum(part, sinking, out=part)
            sinking = lower
    return layers[0], [layer for layer in layers[1:] if layer.max() >= _SEEN]


def _fetch(table: Floats, numbers: Ints, part: Floats) -> None:
    """Put the values of native pixels into a part of the picture; -1 leaves what is there."""
    # Without the bit -1 is still nothing: its column is -1.
    places = (numbers & (_SEEN - 1)).view(np.int16).reshape(*numbers.shape, 2)
    if table.shape[2] % 2 == 0:
        # Two planes at a time: values are only moved.
        table, part = table.view(np.float64), part.view(np.float64)
    cv2.remap(
        table, places, _NO_MAP, cv2.INTER_NEAREST, dst=part, borderMode=cv2.BORDER_TRANSPARENT
    )


def _average(part: Floats, table: Floats, layer: Ints, averaged: int, count: int) -> None:
    """Take the values of one more layer into the means of the first planes, the count-th."""
    known = layer >= _SEEN
    columns = np.flatnonzero(known.any(axis=0))
    window = slice(columns[0], columns[-1] + 1)
    seen, inside = part[:, window], np.where(known, layer, np.int32(-1))[:, window]
    below = seen.copy()
    _fetch(table, inside, below)
    if count > 2:
        below -= seen
        below /= np.float32(count)
        below += seen
    else:
        below += seen
        below *= np.float32(0.5)
    cv2.mixChannels([below], [seen], [plane for head in range(averaged) for plane in (head, head)])


def _locate(planes: Floats, numbers: Ints, frame: Frame, allocate: Allocate) -> _View | None:
    """Return for every picture pixel near the swath the number of the native pixel seen there."""
    places = np.empty((2, *numbers.shape), np.float32)
    np.multiply(planes[..., Swath.SKY_X], frame.radius, out=places[0])
    np.multiply(planes[..., Swath.SKY_Y], -frame.radius, out=places[1])
    if not np.isfinite(places).any():
        return None
    places += np.array([frame.centre_x, frame.centre_y], np.float32)[:, None, None]
    columns, rows = (
        _window(place, size)
        for place, size in zip(places, (frame.width, frame.height), strict=True)
    )
    if columns.start >= columns.stop or rows.start >= rows.stop:
        return None
    # With a frame of one pixel around it, which takes everything that falls outside.
    size = (rows.stop - rows.start + 2, columns.stop - columns.start + 2)
    picture = allocate(size, np.int32)
    picture.fill(-1)
    # Half a pixel is added before the cut to whole pixels.
    places -= np.array([columns.start - 1.5, rows.start - 1.5], np.float32)[:, None, None]
    _scatter(*_bridge_gaps(_fill_rows(places), numbers), picture)
    picture[[0, -1]] = -1
    picture[:, [0, -1]] = -1
    _close(picture)
    return _View(top=rows.start, left=columns.start, numbers=picture[1:-1, 1:-1])


def _window(place: Floats, size: int) -> slice:
    """Return the rows or columns of the picture on which places lie, and a margin."""
    low, high = float(np.fmin.reduce(place, axis=None)), float(np.fmax.reduce(place, axis=None))
    first = max(math.floor(max(low, -size)) - _MARGIN, 0)
    return slice(first, min(math.ceil(min(high, 2 * size)) + 1 + _MARGIN, size))


def _scatter(places: Floats, natives: Ints, picture: Ints) -> None:
    """Leave the number of every native pixel wherever one of its sub-samples falls."""
    factor = _refinement(places)
    flat, (height, width) = picture.reshape(-1), picture.shape
    rows = natives.shape[0]
    for first in range(0, rows, _STRIP):
        last = min(first + _STRIP, rows)
        # With a neighbour on either side, the strip is refined as the whole would be.
        low, high = max(first - 1, 0), min(last + 1, rows)
        size = (natives.shape[1] * factor, (high - low) * factor)
        kept = slice((first - low) * factor, (last - low) * factor)
        column, row = (cv2.resize(plane[low:high], size)[kept].astype(np.int32) for plane in places)
        # What is unknown was cut to the least integer, and goes to the frame too.
        np.clip(column, 0, width - 1, out=column)
        np.clip(row, 0, height - 1, out=row)
        row *= np.int32(width)
        row += column
        number = cv2.resize(natives[low:high], size, interpolation=cv2.INTER_NEAREST)[kept]
        flat[row.astype(np.intp)] = number


def _close(picture: Ints) -> None:
    """Close the holes between sub-samples, which may lie a little more than a pixel apart."""
    kernel = np.ones((3, 3), np.uint8)
    inner = picture[1:-1, 1:-1]
    seen = (inner >= 0).view(np.uint8)
    holes = cv2.bitwise_xor(cv2.morphologyEx(seen, cv2.MORPH_CLOSE, kernel), seen)
    above = picture[:1].copy()
    for first in range(0, len(inner), _BAND):
        band = inner[first : first + _BAND]
        # The band as it was, and a row more on either side.
        around = np.concatenate((above, picture[first + 1 : first + len(band) + 2]))
        above = around[-2:-1]
        largest = np.maximum(around[:, :-2], around[:, 2:])
        np.maximum(largest, around[:, 1:-1], out=largest)
        tall = np.maximum(largest[:-2], largest[2:])
        np.maximum(tall, largest[1:-1], out=tall)
        cv2.copyTo(tall, holes[first : first + _BAND], band)


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


def _bridge_gaps(places: Floats, natives: Ints) -> tuple[Floats, Ints]:
    """Insert rows without data where the file leaves integrations out."""
    if places.shape[1] < 4:
        return places, natives
    step = np.diff(places[:, :, ::_SAMPLED], axis=1)
    # Medians, the upper ones of an even number.
    length = np.sort(np.nan_to_num(np.hypot(step[0], step[1])), axis=1)
    length = length[:, length.shape[1] // 2]
    usual = float(np.sort(length)[len(length) // 2])
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
    numbers = np.full(bridged.shape[1:], -1, np.int32)
    bridged[:, new], numbers[new] = places, natives
    for row, count in zip(wide, missing, strict=True):
        share = (np.arange(1, count + 1, dtype=np.float32) / (count + 1))[:, None]
        first, last = places[:, row, None], places[:, row + 1, None]
        bridged[:, new[row] + 1 : new[row] + 1 + count] = first + (last - first) * share
    return bridged, numbers
