"""Where an aurora ends: a detection is trimmed to the cells that are bright.

Theory of operation: what makes a region sure, blurring over several cells and the network's habit
of drawing wide, also makes it too large, so that half of it may be night. A cell is bright if the
light above the background, averaged with its nearest neighbours, is at least `edge_r` and 0.7 of
the error of a cell; that is how the regions of the evaluation are defined too (aurora.md 7).
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from modules.aurora.planes import Bools, Floats

# Sigma of the average in cells; and the share of the error that light must reach.
_SMOOTHING: Final = 0.7
_LEAST_SHARE: Final = 0.7
# With fewer bright cells than this a region is left as it is.
_LEAST_CELLS: Final = 6


def bright_cells(light: Floats, error: Floats, edge_r: float) -> Bools:
    """Return the cells where light (192, 192), NaN where unknown, is that of an aurora."""
    known = np.isfinite(light)
    total = cv2.GaussianBlur(np.where(known, light, np.float32(0)), (0, 0), _SMOOTHING)
    share = cv2.GaussianBlur(known.astype(np.float32), (0, 0), _SMOOTHING)
    limit = np.fmax(_LEAST_SHARE * error, np.float32(edge_r))
    bright: Bools = total > limit * np.maximum(share, np.float32(0.05))
    return bright


def trim(region: Bools, bright: Bools) -> Bools:
    """Return the bright cells of a region, or all of it if hardly any of it is bright."""
    core: Bools = region & bright
    return core if core.sum() >= _LEAST_CELLS else region
