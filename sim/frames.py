"""Reference frames: inertial TEME of SGP4, Earth-fixed, geodetic (WGS84), and a station's horizon.

Distances in kilometres, angles in degrees unless the name says rad, times in Unix seconds (UTC;
UT1 is taken as UTC, an error of at most 0.9 s or 0.004 degrees of longitude, and polar motion is
left out: 15 m). Source: Vallado et al. 2006, "Revisiting Spacetrack Report #3", appendix C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

EARTH_RADIUS_KM = 6378.137
EARTH_FLATTENING = 1 / 298.257223563
EARTH_ROTATION_RAD_S = 7.292115146706979e-5
_E2 = EARTH_FLATTENING * (2 - EARTH_FLATTENING)
_UNIX_EPOCH_JD = 2440587.5
_J2000_JD = 2451545.0
# Each turn shrinks the error by about e^2 = 1/150; five reach the floor of double precision.
_GEODETIC_TURNS = 5


class Vector(NamedTuple):
    """A direction or position in three dimensions."""

    x: float
    y: float
    z: float

    def plus(self, other: Vector) -> Vector:
        """Return the sum."""
        return Vector(self.x + other.x, self.y + other.y, self.z + other.z)

    def minus(self, other: Vector) -> Vector:
        """Return the difference."""
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def scaled(self, factor: float) -> Vector:
        """Return the vector times a number."""
        return Vector(self.x * factor, self.y * factor, self.z * factor)

    def dot(self, other: Vector) -> float:
        """Return the scalar product."""
        return self.x * other.x + self.y * other.y + self.z * other.z

    def cross(self, other: Vector) -> Vector:
        """Return the vector product."""
        return Vector(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )

    def norm(self) -> float:
        """Return the length."""
        return math.sqrt(self.dot(self))

    def unit(self) -> Vector:
        """Return the direction. Raises ZeroDivisionError for the null vector."""
        return self.scaled(1 / self.norm())


@dataclass(frozen=True, slots=True, kw_only=True)
class Geodetic:
    """A place: latitude and longitude (east positive, -180..180), height over the ellipsoid."""

    lat_deg: float
    lon_deg: float
    alt_km: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAngles:
    """Where something is in a station's sky: azimuth from north over east, elevation, range."""

    azimuth_deg: float
    elevation_deg: float
    range_km: float


def julian_date(unix: float) -> float:
    """Return the Julian date of a Unix time."""
    return _UNIX_EPOCH_JD + unix / 86400.0


def days_since_j2000(unix: float) -> float:
    """Return days since 2000-01-01 12:00."""
    return (unix / 86400.0) + (_UNIX_EPOCH_JD - _J2000_JD)


def gmst_rad(unix: float) -> float:
    """Return Greenwich mean sidereal time (IAU 1982), 0..2 pi."""
    t = days_since_j2000(unix) / 36525.0
    seconds = 67310.54841 + t * (876600 * 3600 + 8640184.812866 + t * (0.093104 - t * 6.2e-6))
    return math.radians(seconds / 240.0) % math.tau


def _rotate_z(vector: Vector, angle_rad: float) -> Vector:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return Vector(c * vector.x + s * vector.y, c * vector.y - s * vector.x, vector.z)


def teme_to_ecef(position_km: Vector, unix: float) -> Vector:
    """Turn an inertial (TEME) vector into the Earth-fixed frame."""
    return _rotate_z(position_km, gmst_rad(unix))


def teme_velocity_to_ecef(position_km: Vector, velocity_km_s: Vector, unix: float) -> Vector:
    """Return the velocity over the turning Earth, in the Earth-fixed frame, km/s."""
    spin = Vector(-EARTH_ROTATION_RAD_S * position_km.y, EARTH_ROTATION_RAD_S * position_km.x, 0.0)
    return _rotate_z(velocity_km_s.minus(spin), gmst_rad(unix))


def geodetic_to_ecef(place: Geodetic) -> Vector:
    """Return the Earth-fixed position of a place."""
    lat, lon = math.radians(place.lat_deg), math.radians(place.lon_deg)
    n = EARTH_RADIUS_KM / math.sqrt(1 - _E2 * math.sin(lat) ** 2)
    flat = (n + place.alt_km) * math.cos(lat)
    z = (n * (1 - _E2) + place.alt_km) * math.sin(lat)
    return Vector(flat * math.cos(lon), flat * math.sin(lon), z)


def ecef_to_geodetic(position_km: Vector) -> Geodetic:
    """Return latitude, longitude and height of an Earth-fixed position, to about a millimetre."""
    flat = math.hypot(position_km.x, position_km.y)
    lat = math.atan2(position_km.z, flat * (1 - _E2))
    n = EARTH_RADIUS_KM
    for _ in range(_GEODETIC_TURNS):
        n = EARTH_RADIUS_KM / math.sqrt(1 - _E2 * math.sin(lat) ** 2)
        lat = math.atan2(position_km.z + n * _E2 * math.sin(lat), flat)
    # Projected on the normal: holds at the poles too, where flat / cos(lat) is 0 / 0.
    alt = flat * math.cos(lat) + position_km.z * math.sin(lat) - EARTH_RADIUS_KM**2 / n
    lon = math.atan2(position_km.y, position_km.x)
    return Geodetic(lat_deg=math.degrees(lat), lon_deg=math.degrees(lon), alt_km=alt)


def ecef_to_enu(vector: Vector, place: Geodetic) -> Vector:
    """Turn an Earth-fixed direction into east, north, up at a place."""
    lat, lon = math.radians(place.lat_deg), math.radians(place.lon_deg)
    sin_lat, cos_lat, sin_lon, cos_lon = math.sin(lat), math.cos(lat), math.sin(lon), math.cos(lon)
    outward = cos_lon * vector.x + sin_lon * vector.y
    return Vector(
        cos_lon * vector.y - sin_lon * vector.x,
        cos_lat * vector.z - sin_lat * outward,
        cos_lat * outward + sin_lat * vector.z,
    )


def look_angles(station: Geodetic, target_ecef_km: Vector) -> LookAngles:
    """Return where a target stands in the sky of a station (no refraction)."""
    line = ecef_to_enu(target_ecef_km.minus(geodetic_to_ecef(station)), station)
    return LookAngles(
        azimuth_deg=math.degrees(math.atan2(line.x, line.y)) % 360.0,
        elevation_deg=math.degrees(math.atan2(line.z, math.hypot(line.x, line.y))),
        range_km=line.norm(),
    )
