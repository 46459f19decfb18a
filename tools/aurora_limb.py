"""Measure how often the disc of Mars is found without geometry. Source: aurora.md 3.3 and 7.

    python -m tools.aurora_limb [--count 200]

Heat maps of the test scenes, shifted by up to 40 pixels and scaled by 0.7 to 1.25 at random, with
crescents and white margins as they come.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import numpy.typing as npt

from modules.aurora.limb import Circle, find_disc
from modules.aurora.picture import Scale, heat_map
from tools.aurora_cases import make_disc
from tools.aurora_measure import Rate
from tools.aurora_scene import CONFIGS, scene

FIRST = {"default": 200_000, "shifted": 900_000}
Pixels = npt.NDArray[np.uint8]


def moved(picture: Pixels, seed: int) -> tuple[Pixels, Circle]:
    """Shift and scale a heat map at random; return it with the true circle."""
    rng = np.random.default_rng(seed)
    scale = float(rng.uniform(0.7, 1.25))
    x, y = (float(value) for value in rng.uniform(-40, 40, 2))
    matrix = np.array([[scale, 0, 320 * (1 - scale) + x], [0, scale, 230 * (1 - scale) + y]])
    result = cv2.warpAffine(picture, matrix, (640, 480), borderValue=(255, 255, 255))
    truth = Circle(x=320 + x, y=230 + y, radius=170 * scale, confidence=1.0)
    return np.asarray(result, np.uint8), truth


def box_overlap(first: Circle, second: Circle) -> float:
    """Return intersection over union of the boxes around two circles."""
    reach = first.radius + second.radius
    width = min(reach - abs(first.x - second.x), 2 * first.radius, 2 * second.radius)
    height = min(reach - abs(first.y - second.y), 2 * first.radius, 2 * second.radius)
    if width <= 0 or height <= 0:
        return 0.0
    union = 4 * first.radius**2 + 4 * second.radius**2 - width * height
    return width * height / union


def main() -> None:
    """Print the rates for both configurations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    cv2.setNumThreads(1)
    for config, first in FIRST.items():
        overlaps, seconds = [], 0.0
        for seed in range(first, first + count):
            disc = make_disc(scene(seed, CONFIGS[config]))
            picture, truth = moved(heat_map(np.ascontiguousarray(disc[..., 0]), Scale()), seed)
            started = time.process_time()
            overlaps.append(box_overlap(find_disc(picture), truth))
            seconds += time.process_time() - started
        for least in (0.5, 0.75, 0.9):
            rate = Rate(hits=sum(each >= least for each in overlaps), total=count)
            print(f"{config}: box IoU >= {least}: {rate}")
        print(f"{config}: {1e3 * seconds / count:.0f} ms CPU per picture")


if __name__ == "__main__":
    main()
