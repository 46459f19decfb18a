"""From swaths to the picture of the disc: geometry, gaps, overlaps, hits of particles."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from modules.aurora.planes import (
    DISC_HEIGHT,
    DISC_PLANES,
    DISC_WIDTH,
    ON_DISC_PIXELS,
    SWATH_PLANES,
    Disc,
    Swath,
    disc_grid,
)
from modules.aurora.raster import DISC_ORDER, Frame, clean_slit, despike, rasterise
from tools.aurora_scene import DEFAULT, SHIFTED, scene


def swath(rows: int = 60, columns: int = 50, low: float = -1.2, high: float = 1.2) -> np.ndarray:
    """Return a swath of a square of sky whose radiance is x and whose error is y."""
    planes = np.zeros((rows, columns, SWATH_PLANES), np.float32)
    x, y = np.meshgrid(np.linspace(low, high, columns), np.linspace(low, high, rows))
    planes[..., Swath.SKY_X], planes[..., Swath.SKY_Y] = x, y
    planes[..., Swath.RADIANCE], planes[..., Swath.ERROR] = x, y
    planes[..., Swath.LONGITUDE] = 359
    return planes


def disc(*swaths: np.ndarray) -> np.ndarray:
    return rasterise(swaths, Frame(), np.empty((DISC_HEIGHT, DISC_WIDTH, DISC_PLANES), np.float32))


@pytest.mark.parametrize("flip", [False, True])
def test_every_pixel_has_the_value_of_its_place(flip):
    planes = swath()
    picture = disc(planes[::-1, ::-1] if flip else planes)
    columns = (np.arange(DISC_WIDTH) - 320) / 170
    rows = (230 - np.arange(DISC_HEIGHT)) / 170
    assert np.isfinite(picture[ON_DISC_PIXELS]).all()
    step = 2.4 / 49
    error_x = np.abs(picture[..., 0] - columns)[ON_DISC_PIXELS]
    error_y = np.abs(picture[..., 1] - rows[:, None])[ON_DISC_PIXELS]
    assert max(error_x.max(), error_y.max()) < step / 2 + 2 / 170
    assert np.isnan(picture[disc_grid() > 1.9]).all()


def test_overlapping_swaths_are_averaged_but_not_their_geometry():
    first, second, third = swath(), swath(), swath()
    for value, planes in ((1, first), (2, second), (6, third)):
        planes[..., Swath.RADIANCE] = value
    second[..., Swath.LONGITUDE] = 1
    second[:30, :, : Swath.ERROR + 1] = np.nan
    picture = disc(first, second, third)
    assert set(np.unique(picture[ON_DISC_PIXELS, Disc.RADIANCE]).tolist()) == {3.0, 3.5}
    assert (picture[ON_DISC_PIXELS, Disc.LONGITUDE] == 359).all()


def test_a_third_swath_counts_only_where_it_has_data():
    swaths = [swath(), swath(low=-0.5), swath(high=0.5)]
    for value, planes in zip((1, 2, 6), swaths, strict=True):
        planes[..., Swath.RADIANCE] = value
    picture = disc(*swaths)[..., Disc.RADIANCE]
    rows, columns = (230 - np.arange(DISC_HEIGHT)) / 170, (np.arange(DISC_WIDTH) - 320) / 170
    for place, mean in ((-1, 3.5), (0, 3), (1, 1.5)):
        assert picture[np.abs(rows - place).argmin(), np.abs(columns - place).argmin()] == mean


def test_swaths_of_other_widths_and_beyond_the_picture_are_each_in_their_place():
    inner, outer = swath(30, 20, -0.6, 0.6), swath(200, 90, 1.5, 4)
    beside = swath(10, 10, 5, 6)
    picture = disc(beside, inner, outer)[..., 0]
    np.testing.assert_array_equal(picture, np.fmax(disc(inner)[..., 0], disc(outer)[..., 0]))
    columns = (np.arange(DISC_WIDTH) - 320) / 170
    known = np.isfinite(picture)
    assert known[:, 0].sum() == known[-1].sum() == 0
    # Only what lies at the edge is seen of a swath that goes on, and nothing is pushed there.
    assert np.abs(picture - columns)[known].max() < 0.05
    assert np.isnan(disc(beside)).all()


@pytest.mark.parametrize("shape", [(1 << 15, 2), (1, 1 << 15), (1 << 13, 1 << 9)])
def test_a_swath_beyond_any_scan_is_refused(shape):
    planes = np.zeros((*shape, SWATH_PLANES), np.float32)
    with pytest.raises(ValueError, match=f"{shape[0]} rows of up to {shape[1]} pixels are no scan"):
        disc(planes)


def test_a_swath_without_data_does_not_hide_another():
    blank = swath()
    blank[..., : Swath.ERROR + 1] = np.nan
    np.testing.assert_array_equal(disc(blank, swath())[..., 0], disc(swath())[..., 0])


def test_missing_rows_stay_empty_and_cost_their_neighbours_nothing():
    full = disc(swath())
    gaps, blind = np.delete(swath(), [20, 21, 22], axis=0), swath()
    blind[20:23] = np.nan
    for picture in (disc(gaps), disc(blind)):
        empty = np.isnan(picture[..., 0]) & np.isfinite(full[..., 0])
        rows = np.flatnonzero(empty[:, 320])
        assert abs(len(rows) - 3 * 2.4 / 59 * 170) <= 3
        same = ~empty & np.isfinite(full[..., 0])
        assert np.abs(picture[..., 0] - full[..., 0])[same].max() < 0.06


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1, 40), (40, 1), (3, 3)])
def test_tiny_swaths_are_no_error(shape):
    planes = swath(max(shape[0], 1), shape[1])[: shape[0]]
    assert despike(planes) == 0
    assert disc(planes).shape == (DISC_HEIGHT, DISC_WIDTH, DISC_PLANES)


def test_nothing_known_gives_an_empty_disc():
    planes = np.full((20, 20, SWATH_PLANES), np.nan, np.float32)
    assert despike(planes) == 0
    assert np.isnan(disc(planes)).all()


def test_columns_without_geometry_are_dropped():
    planes = swath()
    planes[:, 0, Swath.SKY_X] = np.nan
    assert clean_slit(planes).shape[1] == planes.shape[1] - 1
    assert clean_slit(swath()).shape[1] == planes.shape[1]
    planes[:, 7, Swath.SKY_X] = np.nan
    kept = [column for column in range(planes.shape[1]) if column not in (0, 7)]
    np.testing.assert_array_equal(clean_slit(planes), planes[:, kept])
    planes[..., Swath.SKY_X] = np.nan
    assert clean_slit(planes).shape[1] == 0


def test_hits_are_removed_and_wide_light_is_kept():
    planes = swath()
    planes[..., Swath.RADIANCE], planes[..., Swath.ERROR] = 1, 2
    rows, columns = np.mgrid[:60, :50]
    planes[..., Swath.RADIANCE] += 40 * np.exp(-((rows - 33) ** 2 + (columns - 33) ** 2) / 18)
    planes[10, 10, Swath.RADIANCE] = 50
    assert despike(planes) == 1
    assert planes[10, 10, Swath.RADIANCE] == 1
    assert planes[33, 33, Swath.RADIANCE] == 41


def test_the_scan_of_a_scene_has_no_holes_on_the_disc():
    for seed in (900_003, 900_007, 900_011):
        drawn = scene(seed, SHIFTED)
        swaths = [clean_slit(each.planes.copy()) for each in drawn.swaths]
        for planes in swaths:
            planes[..., Swath.RADIANCE] = 1
        picture = disc(*swaths)
        assert np.isfinite(picture[ON_DISC_PIXELS, 0]).mean() > 0.97, seed


def plain_sums(swaths: list[np.ndarray]) -> np.ndarray:
    """Resample as aurora.md 3.1 says it: sums and counts of bilinear sub-samples."""
    shape = (DISC_HEIGHT, DISC_WIDTH)
    sums, counts = np.zeros((*shape, DISC_PLANES)), np.zeros(shape)
    for planes in swaths:
        places = planes[..., (Swath.SKY_X, Swath.SKY_Y)] * 170
        steps = [np.diff(places, axis=axis) for axis in (0, 1)]
        spacing = max(float(np.nanmedian(np.hypot(*step.transpose(2, 0, 1)))) for step in steps)
        factor = int(np.clip(np.ceil(1.3 * spacing), 1, 12))
        size = (planes.shape[1] * factor, planes.shape[0] * factor)
        x, y = (cv2.resize(np.ascontiguousarray(places[..., k]), size) for k in (0, 1))
        values = planes[..., DISC_ORDER].repeat(factor, axis=0).repeat(factor, axis=1)
        with np.errstate(invalid="ignore"):
            column, row = np.floor(320.5 + x), np.floor(230.5 - y)
            seen = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
        seen &= np.isfinite(values[..., 0])
        at = (row[seen].astype(int), column[seen].astype(int))
        np.add.at(counts, at, 1)
        np.add.at(sums, at, values[seen])
    with np.errstate(invalid="ignore"):
        return sums / counts[..., None]


@pytest.mark.parametrize(
    ("seed", "config"), [(1, DEFAULT), (2, DEFAULT), (3, SHIFTED), (8, SHIFTED)]
)
def test_the_picture_is_that_of_plain_sums_and_counts(seed, config):
    drawn = scene(seed, config)
    swaths = [clean_slit(each.planes.copy()) for each in drawn.swaths]
    for planes in swaths:
        despike(planes)
    picture, plain = disc(*swaths), plain_sums(swaths)
    both = np.isfinite(picture[..., 0]) & np.isfinite(plain[..., 0]) & ON_DISC_PIXELS
    assert (np.isfinite(picture[..., 0]) == np.isfinite(plain[..., 0]))[
        ON_DISC_PIXELS
    ].mean() > 0.99
    # Where sub-samples of several native pixels meet, only the plain way averages them.
    noise = np.abs(picture - plain)[both, Disc.RADIANCE] / np.fmax(plain[both, Disc.ERROR], 0.3)
    assert np.median(noise) < 0.4
    assert np.quantile(noise, 0.9) < 2.5
    assert abs((picture - plain)[both, Disc.RADIANCE].mean()) < 0.06 * plain[both, 0].mean()
    zenith = np.abs(picture - plain)[both, Disc.SOLAR_ZENITH]
    assert np.median(zenith) < 0.15
    assert np.quantile(zenith, 0.99) < 3


def test_resampling_is_quick():
    # 12 ms per scene is the goal on a quiet machine; this only catches a wrong order of magnitude.
    drawn = scene(200_003)
    swaths = [clean_slit(each.planes) for each in drawn.swaths]
    disc(*swaths)
    started = time.process_time()
    for _ in range(3):
        disc(*swaths)
    assert (time.process_time() - started) / 3 < 0.12
