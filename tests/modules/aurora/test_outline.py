"""Outlines are trimmed to what is bright; region means are those of the light inside."""

from __future__ import annotations

import numpy as np

from modules.aurora.outline import bright_cells, trim
from modules.aurora.planes import CELLS

ROWS, COLUMNS = np.mgrid[:CELLS, :CELLS]
DISTANCE = np.hypot(ROWS - 90, COLUMNS - 100)
ERROR = np.full((CELLS, CELLS), 0.5, np.float32)


def spot(noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(2)
    light = 6 * np.exp(-(DISTANCE**2) / (2 * 5.0**2)) + rng.normal(0, noise, DISTANCE.shape)
    return light.astype(np.float32)


def test_a_wide_outline_shrinks_to_the_bright_cells_and_its_mean_to_theirs():
    wide, true = DISTANCE < 16, spot() > 1
    light = spot(0.5)
    core = trim(wide, bright_cells(light, ERROR, 1.0))
    assert (core & true).sum() / (core | true).sum() > 0.85
    assert abs(light[core].mean() / spot()[true].mean() - 1) < 0.1
    assert light[wide].mean() / spot()[true].mean() < 0.7


def test_a_noisy_cell_needs_more_light():
    bright = bright_cells(spot(), 10 * ERROR, 1.0)
    assert bright.any()
    assert spot()[bright].min() > 3


def test_what_is_faint_altogether_keeps_its_outline():
    faint = DISTANCE < 6
    bright = bright_cells(spot() / 20, ERROR, 1.0)
    assert not bright.any()
    np.testing.assert_array_equal(trim(faint, bright), faint)


def test_unknown_cells_neither_count_nor_darken_their_neighbours():
    light = np.full((CELLS, CELLS), 1.2, np.float32)
    light[90:92] = np.nan
    bright = bright_cells(light, ERROR, 1.0)
    assert bright[88:90].all()
    assert bright[92:94].all()
