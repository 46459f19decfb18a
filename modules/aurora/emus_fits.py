"""Swaths of EMM/EMUS from their Level 2 files: names, and the nine planes of the chain.

Columns are found by name in extensions found by name. The large table CAL is passed over unless
EMISS lacks the wanted emission (Level 2A); then the line is integrated from the spectra.
Source: aurora.md 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modules.aurora.fits import MAX_HDU_BYTES, Column, FitsError, Header, Table, read_tables
from modules.aurora.planes import SHELL_RADIUS_KM, SWATH_PLANES, Floats
from modules.aurora.planes import Swath as Plane

__all__ = ["EMISSION", "FitsError", "Swath", "SwathName", "newest", "parse_name", "read_swath"]

EMISSION: Final = "O I 130.4 triplet"
# Limits of the line and of the two stretches beside it that give its base, nm.
_LINE_NM: Final = (128.4, 132.4)
_BASE_NM: Final = ((127.2, 128.2), (132.6, 133.6))
_CORNERS: Final = 5
# A pixel centre lies this close to the mean of its corners, in pixels.
_CENTRE_TOLERANCE: Final = 0.3
# Scans of the corona hold no image of the disc.
_REJECTED_MODES: Final = ("os3", "os4")
_MAX_ROWS, _MAX_SLIT = 4096, 1024

_NAME: Final = re.compile(
    r"emm_emu_(?P<level>l[0-9a-z]+)_(?P<start>\d{8}t\d{6})_(?P<orbit>\d{4,5})_(?P<mode>[a-z0-9]+)"
    r"_(?:sw(?P<swath>\d)of(?P<swaths>\d)|(?P<plain>\d+))_(?P<kernel>[prfn])"
    r"_v(?P<version>\d+)-(?P<revision>\d+)\.fits(?:\.gz)?",
    re.IGNORECASE,
)
_GEOMETRY: Final = ("VEC_MSO", "LAT", "LON", "SOLAR_Z_ANGLE", "EMISSION_ANGLE", "MRH_ALT")
_WANTED: Final = {
    "TIME": ("TIME_UTC",),
    "SC_GEOM": ("SC_ALT", "SUB_SOLAR_LON", "V_SC_POS_MSO"),
    "FOV_GEOM": _GEOMETRY,
    "EMISS": ("NAME", "RADIANCE", "RAD_ERR_RAND"),
}
_SPECTRA: Final = {"CAL": ("RADIANCE", "RAD_ERR_RAND"), "WAVELENGTH": ("WAVELENGTH_L2A",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SwathName:
    """What a file name says. `kernel`: p predicted, r reconstructed, f final, n none."""

    level: str
    start: str
    orbit: int
    mode: str
    swath: int
    swaths: int
    kernel: str
    version: tuple[int, int]

    @property
    def is_disc(self) -> bool:
        """True if the file holds an image of the disc."""
        return self.mode.lower() not in _REJECTED_MODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Swath:
    """One swath: planes float32 (rows, slit, 9), NaN where there are no data.

    `start` is UTC text, `altitude_km` and `subsolar_longitude` those of the middle of the scan.
    """

    planes: Floats
    name: SwathName | None
    header: Header
    start: str
    altitude_km: float
    subsolar_longitude: float


def parse_name(name: str) -> SwathName | None:
    """Read a file name; None if it is not one of EMUS."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return SwathName(
        level=match["level"].lower(),
        start=match["start"].lower(),
        orbit=int(match["orbit"]),
        mode=match["mode"],
        swath=int(match["swath"] or 1),
        swaths=int(match["swaths"] or 1),
        kernel=match["kernel"].lower(),
        version=(int(match["version"]), int(match["revision"])),
    )


def newest(paths: Iterable[Path]) -> list[Path]:
    """Keep the highest version of every swath of the disc, by start time; others stay out."""
    best: dict[tuple[str, str], tuple[tuple[int, int], Path]] = {}
    for path in paths:
        name = parse_name(path.name)
        if name is None or not name.is_disc:
            continue
        key = (name.start, name.level)
        if key not in best or best[key][0] < name.version:
            best[key] = (name.version, path)
    return [best[key][1] for key in sorted(best)]


def read_swath(path: Path, emission: str = EMISSION, max_hdu_bytes: int = MAX_HDU_BYTES) -> Swath:
    """Read one file. Raises FitsError."""
    name = parse_name(path.name)
    if name is not None and not name.is_disc:
        raise FitsError("geometry", f"mode {name.mode} scans the corona, not the disc")
    header, tables = read_tables(path, _WANTED, max_hdu_bytes)
    sky = _column(tables, "FOV_GEOM", "VEC_MSO", 4)
    rows, slit = sky.shape[0], sky.shape[3]
    if sky.shape[1:3] != (3, _CORNERS) or not 0 < rows <= _MAX_ROWS or not 0 < slit <= _MAX_SLIT:
        raise FitsError("geometry", f"VEC_MSO is {sky.shape}")
    planes = np.full((rows, slit, SWATH_PLANES), np.nan, np.float32)
    light = _emission(tables, emission, (slit, rows)) or _integrated(
        path, rows, slit, max_hdu_bytes
    )
    planes[..., Plane.RADIANCE], planes[..., Plane.ERROR] = light
    centre = _centre_index(sky)
    for plane, column in (
        (Plane.LATITUDE, "LAT"),
        (Plane.LONGITUDE, "LON"),
        (Plane.SOLAR_ZENITH, "SOLAR_Z_ANGLE"),
        (Plane.EMISSION, "EMISSION_ANGLE"),
        (Plane.HEIGHT, "MRH_ALT"),
    ):
        values = _column(tables, "FOV_GEOM", column, 3)
        if values.shape != (rows, _CORNERS, slit):
            raise FitsError("geometry", f"{column} is {values.shape}")
        planes[..., plane] = _single(values[:, centre])
    position = _column(tables, "SC_GEOM", "V_SC_POS_MSO", 2).astype(np.float64)
    planes[..., Plane.SKY_X], planes[..., Plane.SKY_Y] = sky_plane(position, sky[:, :, centre])
    # Outside the slit there is no light, whatever number stands there.
    planes[~np.isfinite(planes[..., Plane.SKY_X]), : Plane.ERROR + 1] = np.nan
    planes[:, 0, : Plane.ERROR + 1] = np.nan
    return Swath(
        planes=planes,
        name=name,
        header=header,
        start=_start(header, tables, name),
        altitude_km=_middle(tables, "SC_ALT"),
        subsolar_longitude=_middle(tables, "SUB_SOLAR_LON"),
    )


def sky_plane(
    position_km: npt.NDArray[np.float64], rays: Column
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where the lines of sight pass the centre of Mars, in radii of the shell.

    `position_km` is (rows, 3), `rays` (rows, 3, slit), both MSO; x is to the right and y up, as
    the spacecraft sees it in the middle of the scan. Raises FitsError (geometry).
    """
    rows = rays.shape[0]
    if position_km.shape != (rows, 3):
        raise FitsError("geometry", f"V_SC_POS_MSO is {position_km.shape} for {rows} rows")
    middle = position_km[rows // 2]
    distance = float(np.linalg.norm(middle))
    if not SHELL_RADIUS_KM < distance < 1e7:
        raise FitsError("geometry", f"the spacecraft is {distance} km from the centre of Mars")
    toward = middle / distance
    up = np.array([0.0, 0.0, 1.0]) - toward[2] * toward
    length = float(np.linalg.norm(up))
    if length < 1e-6:
        raise FitsError("geometry", "the spacecraft is above the pole: up is not defined")
    up /= length
    right = np.cross(up, toward)
    look = rays.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        look = look / np.linalg.norm(look, axis=1, keepdims=True)
        reach = np.einsum("rk,rks->rs", position_km, look)
        nearest = position_km[:, :, None] - reach[:, None, :] * look
        x = np.einsum("k,rks->rs", right, nearest) / SHELL_RADIUS_KM
        y = np.einsum("k,rks->rs", up, nearest) / SHELL_RADIUS_KM
    wrong = ~(np.isfinite(x) & np.isfinite(y)) | (np.abs(x) > 100) | (np.abs(y) > 100)
    return np.where(wrong, np.nan, x), np.where(wrong, np.nan, y)


def _centre_index(rays: Column) -> int:
    """Say which of the five look vectors of a pixel is its centre. Raises FitsError (geometry)."""
    look = rays.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        look = look / np.linalg.norm(look, axis=1, keepdims=True)
        for index in (0, 4):
            centre = look[:, :, index]
            mean = (look.sum(axis=2) - centre) / (_CORNERS - 1)
            offset = np.linalg.norm(mean - centre, axis=1)
            pixel = np.linalg.norm(np.diff(centre, axis=2), axis=1)
            offset, pixel = offset[np.isfinite(offset)], pixel[np.isfinite(pixel)]
            if not offset.size or not pixel.size:
                raise FitsError("geometry", "no look vector is a number")
            if np.median(offset) <= _CENTRE_TOLERANCE * np.median(pixel):
                return index
    raise FitsError("geometry", "no look vector is the centre of its corners")


def _emission(
    tables: dict[str, Table], emission: str, shape: tuple[int, int]
) -> tuple[Column, Column] | None:
    """Return radiance and error (rows, slit) of an emission, or None if EMISS lacks it."""
    if "EMISS" not in tables or tables["EMISS"].rows == 0:
        return None
    names = _column(tables, "EMISS", "NAME", 1)
    wanted = [
        number
        for number, name in enumerate(names.tolist())
        if isinstance(name, bytes) and name.decode("latin-1").strip() == emission
    ]
    if not wanted:
        return None
    light = _column(tables, "EMISS", "RADIANCE", 3)
    error = _column(tables, "EMISS", "RAD_ERR_RAND", 3)
    if light.shape[1:] != shape or error.shape[1:] != shape:
        raise FitsError("geometry", f"EMISS is {light.shape[1:]}, the geometry {shape}")
    return _single(light[wanted[0]].T), _single(error[wanted[0]].T)


def _integrated(path: Path, rows: int, slit: int, limit: int) -> tuple[Column, Column]:
    """Integrate the line from the spectra over a straight base. Raises FitsError (no_emission)."""
    _, tables = read_tables(path, _SPECTRA, limit)
    if len(tables) < len(_SPECTRA):
        raise FitsError("no_emission", "neither in EMISS nor as spectra")
    light = _column(tables, "CAL", "RADIANCE", 3)
    error = _column(tables, "CAL", "RAD_ERR_RAND", 3)
    waves = _column(tables, "WAVELENGTH", "WAVELENGTH_L2A", 3)
    if (
        light.shape[:2] != (rows, slit)
        or error.shape != light.shape
        or waves.shape[0] != 1
        or (waves.shape[1:] != light.shape[1:])
    ):
        raise FitsError("geometry", f"CAL is {light.shape}, WAVELENGTH {waves.shape}")
    radiance = np.full((rows, slit), np.nan, np.float32)
    spread = radiance.copy()
    for pixel in range(slit):
        nm = waves[0, pixel].astype(np.float64)
        if nm.size < 4 or not np.isfinite(nm).all():
            continue
        width = np.abs(np.gradient(nm))
        line = (nm >= _LINE_NM[0]) & (nm <= _LINE_NM[1])
        base = np.logical_or.reduce([(nm >= low) & (nm <= high) for low, high in _BASE_NM])
        if not line.any() or base.sum() < 2:
            continue
        terms = np.stack((np.ones_like(nm), nm - np.mean(_LINE_NM)), axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            spectra = light[:, pixel].astype(np.float64)
            fit = spectra[:, base] @ np.linalg.pinv(terms[base]).T
            above = spectra[:, line] - fit @ terms[line].T
            radiance[:, pixel] = above @ width[line]
            noise = error[:, pixel][:, line].astype(np.float64) * width[line]
            spread[:, pixel] = np.sqrt((noise**2).sum(axis=1))
    if not np.isfinite(radiance).any():
        raise FitsError("no_emission", "no spectrum covers the line")
    return radiance, spread


def _column(tables: dict[str, Table], table: str, name: str, axes: int) -> Column:
    """Return a column with that many axes. Raises FitsError."""
    if table not in tables or name not in tables[table].columns:
        raise FitsError("bad_table", f"no column {name} in {table}")
    values = tables[table].columns[name]
    if values.ndim != axes or (values.dtype.kind not in "fiu") != (name == "NAME"):
        raise FitsError("bad_table", f"{name} is {values.dtype} with {values.ndim} axes")
    return values


def _single(values: Column) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _middle(tables: dict[str, Table], name: str) -> float:
    values: Any = tables["SC_GEOM"].columns.get(name)
    if values is None or values.ndim != 1 or values.dtype.kind not in "fiu":
        return float("nan")
    return float(values[len(values) // 2])


def _start(header: Header, tables: dict[str, Table], name: SwathName | None) -> str:
    """Return the start in UTC as ISO text, from the file or, failing that, from its name."""
    times = tables["TIME"].columns.get("TIME_UTC") if "TIME" in tables else None
    candidates = [header.get("OBS_UTC")]
    if times is not None and times.size and times.dtype.kind == "S":
        candidates.insert(0, times.reshape(-1)[0].decode("latin-1"))
    if name is not None:
        day, clock = name.start.split("t")
        candidates.append(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}")
    for text in candidates:
        if isinstance(text, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text.strip()):
            return text.strip()[:23]
    return ""
