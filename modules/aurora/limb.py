"""Find the disc of Mars in a picture without geometry.

Theory of operation: every place where brightness falls outwards is a possible piece of the limb,
and so is, with less weight, one where it rises: a disc that is all night is darker than the corona
around it. In a smoothed picture at a quarter of the resolution the direction of the gradient (its
size counts only a little, or the terminator would decide) is correlated with rings of all radii:
where a ring fits, the gradients along it point to its centre, or all away from it. White margins
are no data and take no part. The corona falls off slowly, so that the ring found is some percent
larger than the disc. Source: aurora.md 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from modules.aurora.planes import Array, Floats

_SHRINK: Final = 4
_RADII: Final = tuple(range(25, 56))
_SMOOTHING: Final = 1.5
# Gradients much smaller than this share of the typical one are noise.
_SOFT: Final = 1.0
_WHITE: Final = 254
# The centre lies about this close to the middle of what was seen, in radii.
_POINTING: Final = 0.4
# What a ring with all gradients outwards is worth of one with all inwards: a night side inside a
# bright crescent must not win. Chosen on scenes that no figure is measured on.
_DARK_DISC: Final = 0.7
# A ring is smeared over this many pixels.
_RING_WIDTH: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    """A circle in pixels, and how well it fits: 1 if every gradient points to its centre."""

    x: float
    y: float
    radius: float
    confidence: float


def find_disc(pixels: npt.NDArray[np.uint8]) -> Circle:
    """Find the disc in a grey or BGR picture."""
    grey, known = _prepare(pixels)
    across, down = _directions(grey, known)
    return _best_ring(across, down, known)


def _prepare(pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Return brightness 0..1 and where it is known, at a quarter of the resolution."""
    colour = pixels[..., :3] if pixels.ndim == 3 else pixels
    white = (colour >= _WHITE).all(axis=2) if pixels.ndim == 3 else colour >= _WHITE
    grey: Any = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else colour
    known = (~white).astype(np.float32)
    light = grey.astype(np.float32) / 255 * known
    size = (pixels.shape[1] // _SHRINK, pixels.shape[0] // _SHRINK)
    share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
    bright = mean / np.maximum(share, np.float32(1e-3))
    return np.asarray(bright, np.float32), np.asarray(share > 0.5, np.float32)


def _directions(grey: Floats, known: Floats) -> tuple[Floats, Floats]:
    """Return the direction of the gradient, shortened where it is weak, 0 near no data."""
    weight = cv2.GaussianBlur(known, (0, 0), _SMOOTHING)
    smooth = cv2.GaussianBlur(grey * known, (0, 0), _SMOOTHING) / np.maximum(weight, 1e-3)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3)
    # Where known and unknown meet, the smoothing makes edges of its own.
    inner = cv2.erode(known, np.ones((5, 5), np.uint8), borderValue=(0.0,))
    size = np.hypot(across, down)
    strong = size[inner > 0]
    usual = float(np.median(strong)) if strong.size else 1.0
    scale = inner / (size + _SOFT * usual + 1e-6)
    return across * scale, down * scale


@lru_cache(maxsize=4)
def _rings(shape: tuple[int, int]) -> tuple[tuple[int, Array, Array, Array], ...]:
    """Return for every radius the spectra of the ring and of its inward normals."""
    rings = []
    rows = np.fft.fftfreq(shape[0], 1 / shape[0])[:, None]
    columns = np.fft.fftfreq(shape[1], 1 / shape[1])[None, :]
    distance = np.hypot(rows, columns)
    for radius in _RADII:
        ring = np.maximum(0, 1 - np.abs(distance - radius) / _RING_WIDTH)
        inward = ring / np.maximum(distance, 1)
        # Correlation, hence the conjugates.
        rings.append((
            radius,
            np.conj(np.fft.rfft2(ring)),
            np.conj(np.fft.rfft2(-inward * columns)),
            np.conj(np.fft.rfft2(-inward * rows)),
        ))  # fmt: skip
    return tuple(rings)


def _best_ring(across: Floats, down: Floats, known: Floats) -> Circle:
    height, width = across.shape
    pad = _RADII[-1] + 3
    shape = (cv2.getOptimalDFTSize(height + pad), cv2.getOptimalDFTSize(width + pad))
    spectra = [np.fft.rfft2(plane, shape) for plane in (across, down, known)]
    rows, columns = np.mgrid[:height, :width]
    weight = max(float(known.sum()), 1.0)
    middle_y, middle_x = (rows * known).sum() / weight, (columns * known).sum() / weight
    offset = (rows - middle_y) ** 2 + (columns - middle_x) ** 2
    best: tuple[float, int, int, int] = (-1.0, 0, 0, _RADII[0])
    for radius, ring, normal_x, normal_y in _rings(shape):
        votes = np.fft.irfft2(spectra[0] * normal_x + spectra[1] * normal_y, shape)
        seen = np.fft.irfft2(spectra[2] * ring, shape)
        length = 2 * np.pi * radius * _RING_WIDTH
        fit = votes[:height, :width] / (seen[:height, :width] + length)
        fit *= np.exp(-offset / (2 * (_POINTING * radius) ** 2))
        for rated in (fit, -_DARK_DISC * fit):
            row, column = np.unravel_index(int(rated.argmax()), rated.shape)
            if rated[row, column] > best[0]:
                best = (float(rated[row, column]), int(column), int(row), radius)
    fit_value, at_x, at_y, radius = best
    middle = (_SHRINK - 1) / 2
    return Circle(
        x=at_x * _SHRINK + middle,
        y=at_y * _SHRINK + middle,
        radius=float(radius * _SHRINK),
        # For a perfect ring that is wholly in sight the fit is one half.
        confidence=max(0.0, min(1.0, 2 * fit_value)),
    )
