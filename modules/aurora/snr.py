"""The physical detector: what stands out of the night's own background.

Theory of operation: the night side glows by itself, brighter towards the terminator and the limb.
A smooth model of ten terms is fitted to it, robustly, so that an aurora does not pull the fit. What
remains, in units of its noise, is averaged at three scales; cells that stand out at any of them,
connected to a strong peak, are a detection. Source: aurora.md 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from modules.aurora.planes import (
    CELLS,
    CROP_LEFT,
    CROP_TOP,
    GRID_X,
    GRID_Y,
    ON_DISC_CELLS,
    Array,
    Bools,
    Disc,
    Floats,
)

_ROUNDS: Final = 6
_RIDGE: Final = 1e-3
_FIT_CELLS: Final = 4000
_MAD: Final = 1.4826
_LEAST_ERROR: Final = np.float32(0.2)
_LEAST_COVER: Final = 0.35
_TINY: Final = 1e-9
# Planes of a disc image that cells have too.
_CELL_PLANES: Final = (Disc.RADIANCE, Disc.ERROR, Disc.SOLAR_ZENITH, Disc.EMISSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrSettings:
    """Limits of the detector; the defaults are those of aurora.md 3.5.

    `background_error` is ours: how wrong the model of the background may be, as a share of it. It
    keeps gain steps between swaths, stripes and the twilight from standing out of scans with little
    photon noise. Chosen on the tune scenes; 0 is the detector as specified.
    """

    solar_zenith_min: float = 100.0
    emission_max: float = 75.0
    least_cells: int = 150
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    low: float = 4.0
    high: float = 6.5
    least_area: int = 6
    diffuse_rayleigh: float = 4.0
    background_error: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The disc crop at half resolution, float32 (192, 192) each; NaN where less than half is known.

    `radiance` and `error` in R, angles in degrees; `known` says where there are data.
    """

    radiance: Floats
    error: Floats
    solar_zenith: Floats
    emission: Floats
    known: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrResult:
    """What the detector saw; maps are (192, 192), zero outside `mask`."""

    mask: Bools
    snr: Floats
    excess: Floats
    labels: Array
    background: float = 0.0
    noise: float = 0.0
    is_diffuse: bool = False
    peaks: dict[int, float] = field(default_factory=dict)

    @property
    def has_night(self) -> bool:
        """False if too little of the night side is in sight to say anything."""
        return bool(self.mask.any())


def crop_cells(disc: Floats) -> Cells:
    """Average the crop of a disc image 2 x 2 over its known pixels."""
    side = 2 * CELLS
    part = disc[CROP_TOP : CROP_TOP + side, CROP_LEFT : CROP_LEFT + side]
    planes = [cv2.extractChannel(part, plane) for plane in _CELL_PLANES]
    means = [
        np.asarray(cv2.resize(plane, (CELLS, CELLS), interpolation=cv2.INTER_AREA), np.float32)
        for plane in planes
    ]
    known: Bools = np.logical_and.reduce([np.isfinite(mean) for mean in means])
    # Where any of the four pixels is unknown the mean is NaN, and made anew from those that are.
    for mean in means:
        np.copyto(mean, np.nan, where=~known)
    seen = np.isfinite(planes[0])
    seen = seen[::2] | seen[1::2]
    rows, columns = np.nonzero(~known & (seen[:, ::2] | seen[:, 1::2]))
    totals, counts = _sums(part, rows, columns)
    known[rows, columns] = counts >= 2
    for mean, total in zip(means, totals, strict=True):
        mean[rows, columns] = np.where(counts >= 2, total / np.maximum(counts, 1), np.nan)
    radiance, error, solar_zenith, emission = means
    return Cells(
        radiance=radiance, error=error, solar_zenith=solar_zenith, emission=emission, known=known
    )


def _sums(part: Floats, rows: Array, columns: Array) -> tuple[Floats, Floats]:
    """Return the sums over the known pixels of some cells, (4, cells), and how many these are."""
    totals = np.zeros((len(_CELL_PLANES), len(rows)), np.float32)
    counts = np.zeros(len(rows), np.float32)
    for down in (0, 1):
        for across in (0, 1):
            pixels = part[2 * rows + down, 2 * columns + across][:, _CELL_PLANES].T
            seen = np.isfinite(pixels).all(axis=0)
            totals += np.where(seen, pixels, np.float32(0))
            counts += seen.astype(np.float32)
    return totals, counts


def night_mask(cells: Cells, settings: SnrSettings) -> Bools:
    """Return the cells the detector may use."""
    with np.errstate(invalid="ignore"):
        mask: Bools = (
            cells.known
            & ON_DISC_CELLS
            & (cells.solar_zenith > settings.solar_zenith_min)
            & (cells.emission < settings.emission_max)
        )
    return mask


def detect(cells: Cells, settings: SnrSettings) -> SnrResult:
    """Find what stands out of the night's background."""
    mask = night_mask(cells, settings)
    zero = np.zeros((CELLS, CELLS), np.float32)
    if mask.sum() < settings.least_cells:
        labels = np.zeros((CELLS, CELLS), np.int32)
        return SnrResult(mask=np.zeros_like(mask), snr=zero, excess=zero, labels=labels)
    background = fit_background(cells, mask)
    excess, scaled = zero.copy(), zero.copy()
    excess[mask] = cells.radiance[mask] - background
    error = np.maximum(cells.error[mask], _LEAST_ERROR)
    scaled[mask] = excess[mask] / np.hypot(error, settings.background_error * background)
    snr = multiscale(scaled, mask, settings.scales)
    labels, peaks = hysteresis(snr, settings)
    residual = excess[mask]
    return SnrResult(
        mask=mask,
        snr=snr,
        excess=excess,
        labels=labels,
        background=median(background),
        noise=_MAD * median(np.abs(residual - median(residual))),
        is_diffuse=is_diffuse(cells, settings),
        peaks=peaks,
    )


def fit_background(cells: Cells, mask: Bools) -> Array:
    """Fit the smooth model to the cells of the mask; return it there, in R.

    All rounds but the last look at some thousand of the cells, evenly spread: enough to tell which
    ones stand out.
    """
    terms = _terms(cells, mask)
    error, light = _inside(mask, cells.error, cells.radiance)
    # The last row is the light, so that one product gives both sides of the normal equations.
    rows = np.empty((len(terms) + 1, len(light)))
    weight = 1 / np.maximum(error, _LEAST_ERROR)
    np.multiply(terms, weight, out=rows[:-1])
    np.multiply(light, weight, out=rows[-1])
    some = np.ascontiguousarray(rows[:, :: max(1, rows.shape[1] // _FIT_CELLS)])
    robust = np.ones(some.shape[1])
    for _ in range(_ROUNDS - 1):
        robust = _trust(some, _solve(some, robust))
    if some.shape != rows.shape:
        robust = _trust(rows, _solve(some, robust))
    return _solve(rows, robust) @ terms


def _solve(rows: Array, robust: Array) -> Array:
    """Return the factors of the terms by weighted least squares."""
    both: Array = (rows[:-1] * robust) @ rows.T
    normal: Array = both[:, :-1]
    normal[np.diag_indices_from(normal)] += _RIDGE
    factors: Array = np.linalg.solve(normal, both[:, -1])
    return factors


def _trust(rows: Array, factors: Array) -> Array:
    """Return how much each cell counts in the next round: less, the more it stands out."""
    z = rows[-1] - factors @ rows[:-1]
    z /= max(_MAD * median(np.abs(z)), _TINY)
    robust: Array = (1.5 / np.maximum(z, 1.5)) ** 2
    robust[z < -3] = 0.3
    return robust


def median(values: Array) -> float:
    """Return the median, the upper one of an even number; quicker than that of numpy."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _terms(cells: Cells, mask: Bools) -> Array:
    zenith, emission, x, y = _inside(mask, cells.solar_zenith, cells.emission, GRID_X, GRID_Y)
    zenith -= 100
    slant = 1 / np.maximum(np.cos(np.radians(emission)), 0.2) - 1
    one = np.ones_like(x)
    dusk, deep = np.exp(-zenith / 5), np.exp(-zenith / 9)
    return np.stack((one, slant, slant * slant, dusk, deep, x, y, x * y, x * x, y * y))


def _inside(mask: Bools, *planes: Floats) -> list[Array]:
    """Return the cells of the mask of some planes, float64."""
    at = np.flatnonzero(mask)
    return [np.take(plane, at).astype(np.float64) for plane in planes]


def multiscale(scaled: Floats, mask: Bools, scales: tuple[float, ...]) -> Floats:
    """Return the largest signal-to-noise ratio over the scales, 0 outside the mask."""
    snr = np.zeros(scaled.shape, np.float32)
    window = _bounds(mask)
    # Outside of it nothing is seen, and nothing is blurred into it.
    scaled, mask = scaled[window], mask[window]
    cover = mask.astype(np.float32)
    best = np.full(scaled.shape, -np.inf, np.float32)
    for sigma in scales:
        # The noise of a Gaussian mean of white noise goes with the kernel squared, which is a
        # Gaussian of sigma / sqrt(2).
        noise = np.sqrt(_blur(cover, sigma / np.sqrt(2)))
        level = _blur(scaled * cover, sigma)
        level /= np.maximum(noise, np.float32(0.05))
        inside = level[mask]
        centre = median(inside)
        spread = _MAD * median(np.abs(inside - centre))
        level -= np.float32(centre)
        level /= np.float32(max(spread, _TINY))
        level[_blur(cover, sigma) < _LEAST_COVER] = -np.inf
        np.maximum(best, level, out=best)
    np.copyto(snr[window], best, where=mask & np.isfinite(best))
    return snr


def _bounds(mask: Bools) -> tuple[slice, slice]:
    """Return the rows and columns between the first and the last cell of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _blur(plane: npt.NDArray[Any], sigma: float) -> Floats:
    blurred = cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float32)


def hysteresis(snr: Floats, settings: SnrSettings) -> tuple[Array, dict[int, float]]:
    """Label the regions above the low limit that have a peak; return labels and peaks."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (snr > settings.low).astype(np.uint8), connectivity=8
    )
    kept = np.zeros(count, np.int32)
    peaks: dict[int, float] = {}
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] < settings.least_area:
            continue
        left, top, width, height = stats[label, :4]
        window = (slice(top, top + height), slice(left, left + width))
        peak = float(snr[window][labels[window] == label].max())
        if peak >= settings.high:
            kept[label] = len(peaks) + 1
            peaks[len(peaks) + 1] = peak
    return kept[labels], peaks


def is_diffuse(cells: Cells, settings: SnrSettings) -> bool:
    """Say if the whole night glows: such an aurora is its own background."""
    with np.errstate(invalid="ignore"):
        deep = cells.known & ON_DISC_CELLS & (cells.solar_zenith > 115) & (cells.emission < 60)
    if deep.sum() < settings.least_cells:
        return False
    return median(cells.radiance[deep]) >= settings.diffuse_rayleigh
