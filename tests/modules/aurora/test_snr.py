"""The physical detector on nights made by hand and on drawn scenes."""

from __future__ import annotations

import numpy as np
import pytest

from modules.aurora.planes import CELLS, GRID_X, GRID_Y, ON_DISC_CELLS
from modules.aurora.snr import (
    Cells,
    SnrSettings,
    crop_cells,
    detect,
    fit_background,
    median,
    night_mask,
)
from tools.aurora_cases import empty_disc, make_case
from tools.aurora_scene import scene

SETTINGS = SnrSettings()


def night(seed: int = 1, zenith: float = 125.0, level: float = 1.5) -> Cells:
    """Return a night side with the Sun to the left behind Mars, and noise of 0.5 R."""
    rng = np.random.default_rng(seed)
    slant = np.degrees(np.arcsin(np.clip(np.hypot(GRID_X, GRID_Y), 0, 0.999)))
    light = level + 0.3 * GRID_X + 0.2 * slant / 90 + rng.normal(0, 0.5, (CELLS, CELLS))
    return Cells(
        radiance=light.astype(np.float32),
        error=np.full((CELLS, CELLS), 0.5, np.float32),
        solar_zenith=(zenith + 20 * GRID_X).astype(np.float32),
        emission=slant.astype(np.float32),
        known=ON_DISC_CELLS.copy(),
    )


def spot(cells: Cells, row: int, column: int, brightness: float, width: float = 3.0) -> None:
    rows, columns = np.mgrid[:CELLS, :CELLS]
    square = (rows - row) ** 2 + (columns - column) ** 2
    cells.radiance[:] += brightness * np.exp(-square / (2 * width**2))


def test_a_quiet_night_has_no_detection():
    for seed in range(8):
        result = detect(night(seed), SETTINGS)
        assert result.peaks == {}
        assert not result.is_diffuse
        assert result.noise == pytest.approx(0.5, rel=0.1)
        assert result.background == pytest.approx(1.5, abs=0.2)


def test_two_spots_are_two_detections_in_their_place():
    cells = night()
    spot(cells, 80, 90, 3.0)
    spot(cells, 120, 110, 6.0)
    result = detect(cells, SETTINGS)
    assert len(result.peaks) == 2
    assert result.labels[80, 90] > 0
    assert result.labels[120, 110] > 0
    assert result.peaks[int(result.labels[120, 110])] > result.peaks[int(result.labels[80, 90])]


def test_the_excess_is_the_light_of_the_spot():
    cells = night()
    spot(cells, 80, 90, 8.0, width=5.0)
    result = detect(cells, SETTINGS)
    assert result.excess[78:83, 88:93].mean() == pytest.approx(7.4, rel=0.15)


def test_light_outside_the_mask_is_not_seen():
    cells = night(zenith=90)
    spot(cells, 96, 20, 50.0)
    assert detect(cells, SETTINGS).peaks == {}


def test_too_little_night_says_nothing():
    cells = night(zenith=60)
    result = detect(cells, SETTINGS)
    assert not result.has_night
    assert not result.mask.any()
    assert result.snr.shape == (CELLS, CELLS)


def test_a_night_that_glows_as_a_whole_is_diffuse():
    assert detect(night(level=6.0), SETTINGS).is_diffuse
    assert not detect(night(level=3.0), SETTINGS).is_diffuse


def test_unknown_cells_are_never_part_of_anything():
    cells = night()
    spot(cells, 96, 96, 10.0, width=8)
    cells.known[90:100] = False
    for plane in (cells.radiance, cells.error, cells.solar_zenith, cells.emission):
        plane[90:100] = np.nan
    result = detect(cells, SETTINGS)
    assert np.isfinite(result.snr).all()
    assert not result.labels[90:100].any()
    assert result.peaks


def test_the_background_is_not_pulled_by_an_aurora():
    quiet, active = night(), night()
    spot(active, 90, 90, 20.0, width=6)
    mask = night_mask(quiet, SETTINGS)
    difference = fit_background(active, mask) - fit_background(quiet, mask)
    assert np.abs(difference).max() < 0.35


def test_the_crop_averages_what_is_known():
    disc = empty_disc(6)
    disc[:] = 1
    disc[38, 128] = np.nan
    disc[38:40, 130:132] = np.nan
    disc[39, 133] = np.nan
    disc[38, 132] = np.nan
    disc[38, 133] = 3
    cells = crop_cells(disc)
    assert cells.radiance[0, 0] == 1
    assert np.isnan(cells.radiance[0, 1])
    assert not cells.known[0, 1]
    assert cells.radiance[0, 2] == 2
    assert cells.known.sum() == CELLS * CELLS - 1


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_median(count):
    values = np.arange(count)[::-1].astype(float)
    assert median(values) == sorted(values)[count // 2]


def test_drawn_scenes_are_told_apart():
    # 200003.. are of the test range; a dozen is enough to notice a broken chain.
    right = wrong = 0
    for seed in range(200_000, 200_024):
        drawn = scene(seed)
        if drawn.label == "ambiguous":
            continue
        _, cells, _ = make_case(drawn)
        result = detect(cells, SETTINGS)
        if not result.has_night:
            continue
        found = bool(result.peaks) or result.is_diffuse
        right += found == (drawn.label == "aurora")
        wrong += found != (drawn.label == "aurora")
    assert right >= 6 * wrong
    assert right > 12


def test_a_gain_step_in_a_scan_without_noise_is_no_aurora():
    cells = night(level=3.0)
    rng = np.random.default_rng(4)
    smooth = 3 + 0.3 * GRID_X + rng.normal(0, 0.05, (CELLS, CELLS))
    cells.radiance[:] = np.where(GRID_Y > 0.3, 1.15, 1.0) * smooth
    cells.error[:] = 0.05
    strict = detect(cells, SnrSettings(background_error=0.0)).snr
    assert detect(cells, SETTINGS).snr.max() <= strict.max()
    assert detect(cells, SETTINGS).peaks == {}
