"""The real pictures that the emulated camera looks at, and what is known about each.

Sources and licences are in README.md next to the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
# Synthetic observations of Mars, for the camera type EMUS.
EMUS_FOLDER = _FOLDER / "emus"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneInfo:
    """One picture: a sample v stands for a reflectance of `full_scale * (v / 255) ** 2`.

    `lat_deg` and `lon_deg` are the place of its centre, `gsd_m` is metres per pixel. `coverage`
    is the part of the shorter side that one camera frame sees.
    """

    name: str
    title: str
    lat_deg: float
    lon_deg: float
    gsd_m: float
    full_scale: float
    coverage: float
    has_clouds: bool

    @property
    def path(self) -> Path:
        """The picture file."""
        return _FOLDER / f"{self.name}.jpg"


# Order is the wire value of the camera's `scene` parameter, from 1.
SCENES: tuple[SceneInfo, ...] = (
    SceneInfo(
        name="itaipu",
        title="Itaipu reservoir and Foz do Iguaçu, Landsat 8, 2020-05-18",
        lat_deg=-25.414,
        lon_deg=-54.535,
        gsd_m=30.0,
        full_scale=0.20,
        coverage=0.75,
        has_clouds=False,
    ),
    SceneInfo(
        name="andros",
        title="Andros, Bahamas, Landsat 7",
        lat_deg=24.574,
        lon_deg=-77.764,
        gsd_m=300.0,
        full_scale=0.40,
        coverage=0.85,
        has_clouds=True,
    ),
    SceneInfo(
        name="gulf_clouds",
        title="Altocumulus over north-west Florida, Landsat 8, 2015-08-04",
        lat_deg=30.729,
        lon_deg=-87.398,
        gsd_m=15.0,
        full_scale=0.40,
        coverage=0.80,
        has_clouds=True,
    ),
)
