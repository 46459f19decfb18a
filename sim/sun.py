"""Where the Sun is, and how much of it a satellite sees past the Earth.

The almanac formula is good to 0.01 degrees between 1950 and 2050, in the mean equator and equinox
of date, which differs from SGP4's TEME frame by less than that. The shadow is conical: the Sun is
a disk, so umbra, penumbra and the seconds between them come out by themselves. The Earth is a
sphere of equatorial radius without atmosphere: entry is at most 1 s early. Source: Astronomical
Almanac, page C5; dependencies.md 6.
"""

from __future__ import annotations

import math

from sim.frames import EARTH_RADIUS_KM, Vector, days_since_j2000

AU_KM = 149597870.7
SUN_RADIUS_KM = 695700.0


def sun_position_km(unix: float) -> Vector:
    """Return the Sun's position from the Earth's centre, equator of date, in kilometres."""
    n = days_since_j2000(unix)
    anomaly = math.radians((357.528 + 0.9856003 * n) % 360.0)
    longitude = math.radians(
        (280.460 + 0.9856474 * n) % 360.0
        + 1.915 * math.sin(anomaly)
        + 0.020 * math.sin(2 * anomaly)
    )
    obliquity = math.radians(23.439 - 4.0e-7 * n)
    distance = AU_KM * (1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly))
    return Vector(
        distance * math.cos(longitude),
        distance * math.cos(obliquity) * math.sin(longitude),
        distance * math.sin(obliquity) * math.sin(longitude),
    )


def right_ascension_deg(position: Vector) -> float:
    """Return the right ascension of a direction, 0..360."""
    return math.degrees(math.atan2(position.y, position.x)) % 360.0


def declination_deg(position: Vector) -> float:
    """Return the declination of a direction, -90..90."""
    return math.degrees(math.asin(position.z / position.norm()))


def sunlight_fraction(satellite_km: Vector, sun_km: Vector) -> float:
    """Return the visible part of the Sun's disk, 0 (umbra) to 1 (full sunlight).

    Both positions are from the Earth's centre in one inertial frame. A point inside the Earth is
    in the dark.
    """
    distance = satellite_km.norm()
    if distance <= EARTH_RADIUS_KM:
        return 0.0
    to_sun = sun_km.minus(satellite_km)
    sun = math.asin(min(1.0, SUN_RADIUS_KM / to_sun.norm()))
    earth = math.asin(EARTH_RADIUS_KM / distance)
    cosine = -satellite_km.dot(to_sun) / (distance * to_sun.norm())
    separation = math.acos(max(-1.0, min(1.0, cosine)))
    if separation >= sun + earth:
        return 1.0
    if separation <= abs(earth - sun):
        # From low orbit the Earth is always the larger disk; far out it covers a part of the Sun.
        return 0.0 if earth >= sun else 1.0 - (earth / sun) ** 2
    return 1.0 - _lens_area(sun, earth, separation) / (math.pi * sun**2)


def _lens_area(a: float, b: float, separation: float) -> float:
    """Return the common area of two overlapping disks of radius a and b."""
    x = (separation**2 + a**2 - b**2) / (2 * separation)
    y = math.sqrt(max(0.0, a**2 - x**2))
    return (
        a**2 * math.acos(max(-1.0, min(1.0, x / a)))
        + b**2 * math.acos(max(-1.0, min(1.0, (separation - x) / b)))
        - separation * y
    )


def eclipse_share(altitude_km: float, beta_deg: float) -> float:
    """Return the part of a circular orbit spent in a cylindrical shadow: the closed formula.

    `beta_deg` is the angle between orbit plane and Sun. Used by tests and by plan checks.
    """
    radius = EARTH_RADIUS_KM + altitude_km
    horizon = math.sqrt(altitude_km**2 + 2 * EARTH_RADIUS_KM * altitude_km)
    cosine = horizon / (radius * math.cos(math.radians(beta_deg)))
    return 0.0 if cosine >= 1.0 else math.acos(cosine) / math.pi
