"""An orbit: SGP4 on a two-line element set, and all that follows from place and time.

`Orbit.state(unix)` is a pure function of time; nothing is integrated or remembered, so any number
of nodes with the same elements agree, at any mission rate. Units as in `sim.frames`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sgp4.api import SGP4_ERRORS, Satrec

from sim import frames, sun
from sim.errors import ContentError
from sim.frames import Geodetic, LookAngles, Vector
from sim.tle import ElementSet

# Elements lose kilometres per day; years away SGP4 returns nonsense without saying so (a decayed
# satellite ends up beyond the Moon). Further than this the mission epoch is a typing mistake.
_MAX_AGE_DAYS = 3650


@dataclass(frozen=True, slots=True, kw_only=True)
class OrbitState:
    """Where the satellite is at one instant.

    `position_km` and `velocity_km_s` are inertial (TEME), `ecef_km` is Earth-fixed. `speed_m_s`
    and `course_deg` are what a GNSS receiver on board reports: the horizontal motion over the
    turning Earth at the satellite's own height. `sunlight` is the visible part of the Sun's disk.
    """

    unix: float
    position_km: Vector
    velocity_km_s: Vector
    ecef_km: Vector
    place: Geodetic
    speed_m_s: float
    course_deg: float
    climb_m_s: float
    sun_km: Vector
    sunlight: float

    @property
    def ground_speed_m_s(self) -> float:
        """Speed of the point below the satellite over the ground (spherical Earth)."""
        radius = self.ecef_km.norm()
        return self.speed_m_s * (radius - self.place.alt_km) / radius

    @property
    def beta_deg(self) -> float:
        """Angle between the orbit plane and the direction of the Sun."""
        normal = self.position_km.cross(self.velocity_km_s).unit()
        return math.degrees(math.asin(normal.dot(self.sun_km.unit())))

    @property
    def sun_elevation_deg(self) -> float:
        """Height of the Sun over the horizon of the place below: daylight in the pictures."""
        below = Geodetic(lat_deg=self.place.lat_deg, lon_deg=self.place.lon_deg)
        towards_sun = frames.teme_to_ecef(self.sun_km, self.unix)
        return frames.look_angles(below, towards_sun).elevation_deg


class Orbit:
    """A propagator for one satellite. Raises ContentError for elements SGP4 refuses."""

    def __init__(self, elements: ElementSet) -> None:
        self.elements = elements
        try:
            self._satrec = Satrec.twoline2rv(elements.line1, elements.line2)
        except ValueError as error:
            raise ContentError(f"{elements.name}: {error}") from error
        if self._satrec.error:
            raise ContentError(f"{elements.name}: {SGP4_ERRORS[self._satrec.error]}")

    @property
    def epoch_unix(self) -> float:
        """The instant the elements are for."""
        days = (self._satrec.jdsatepoch - 2440587.5) + self._satrec.jdsatepochF
        return float(days * 86400.0)

    @property
    def period_s(self) -> float:
        """Duration of one revolution, from the mean motion of the elements."""
        return float(60 * math.tau / self._satrec.no_kozai)

    def teme(self, unix: float) -> tuple[Vector, Vector]:
        """Return inertial position (km) and velocity (km/s). Raises ContentError if it decayed."""
        if abs(unix - self.epoch_unix) > _MAX_AGE_DAYS * 86400.0:
            raise ContentError(
                f"{self.elements.name}: {unix:.0f} is more than ten years from the elements' epoch"
            )
        days = math.floor(unix / 86400.0)
        # Julian day and fraction apart: together they would cost a tenth of a millisecond.
        code, position, velocity = self._satrec.sgp4(2440587.5 + days, unix / 86400.0 - days)
        if code:
            raise ContentError(f"{self.elements.name} at {unix:.0f}: {SGP4_ERRORS[code]}")
        return Vector(*position), Vector(*velocity)

    def ecef_km(self, unix: float) -> Vector:
        """Return the Earth-fixed position only: the cheap query of the pass finder."""
        return frames.teme_to_ecef(self.teme(unix)[0], unix)

    def state(self, unix: float) -> OrbitState:
        """Return everything about one instant. Raises ContentError if the satellite decayed."""
        position, velocity = self.teme(unix)
        ecef = frames.teme_to_ecef(position, unix)
        place = frames.ecef_to_geodetic(ecef)
        motion = frames.ecef_to_enu(frames.teme_velocity_to_ecef(position, velocity, unix), place)
        sun_km = sun.sun_position_km(unix)
        return OrbitState(
            unix=unix,
            position_km=position,
            velocity_km_s=velocity,
            ecef_km=ecef,
            place=place,
            speed_m_s=1000 * math.hypot(motion.x, motion.y),
            course_deg=math.degrees(math.atan2(motion.x, motion.y)) % 360.0,
            climb_m_s=1000 * motion.z,
            sun_km=sun_km,
            sunlight=sun.sunlight_fraction(position, sun_km),
        )

    def look(self, station: Geodetic, unix: float) -> LookAngles:
        """Return where the satellite stands in the sky of a station."""
        return frames.look_angles(station, self.ecef_km(unix))

    def ground_track(self, start_unix: float, stop_unix: float, step_s: float) -> list[Geodetic]:
        """Return the places passed over from start to stop (inclusive start), every `step_s`."""
        count = int((stop_unix - start_unix) / step_s) + 1 if step_s > 0 else 0
        times = (start_unix + i * step_s for i in range(count))
        return [frames.ecef_to_geodetic(self.ecef_km(t)) for t in times]
