"""NMEA 0183 sentences of a GNSS receiver: the two that the flown scheduler reads.

Pure text. `encode_*` gives the sentence with `$`, checksum and CR LF; an empty field means "not
known", and status V or quality 0 says "no fix". Source: dish.md 12 (GPRMC, GPGGA at 1 Hz).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sim.errors import ContentError
from sim.frames import Geodetic

KNOT_M_S = 1852 / 3600
# NMEA 0183 allows 82 characters with `$` and CR LF. The longest we make has 80.
MAX_LENGTH = 82


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What a receiver knows: time, and if it has a position fix, place and motion.

    `place` None means no fix; speed and course are then meaningless.
    """

    unix: float
    place: Geodetic | None
    speed_m_s: float = 0.0
    course_deg: float = 0.0
    satellites: int = 0
    hdop: float = 1.0


def checksum(body: str) -> int:
    """Return the exclusive or of the characters between `$` and `*`."""
    value = 0
    for byte in body.encode("ascii"):
        value ^= byte
    return value


def encode_rmc(fix: Fix) -> str:
    """Return `$GPRMC`: time, status, place, speed in knots, course, date."""
    when = _when(fix.unix)
    motion = (
        (f"{fix.speed_m_s / KNOT_M_S:.1f}", f"{_course(fix.course_deg):.1f}")
        if fix.place
        else ("", "")
    )
    status = "A" if fix.place else "V"
    fields = ("GPRMC", _time(when), status, *_place(fix.place), *motion, f"{when:%d%m%y}", "", "")
    return _sentence(fields)


def encode_gga(fix: Fix) -> str:
    """Return `$GPGGA`: time, place, quality, satellites, HDOP, height over the ellipsoid.

    The geoid separation is given as 0, so that height plus separation is the ellipsoid height.
    """
    quality, height = ("1", f"{fix.place.alt_km * 1000:.1f}") if fix.place else ("0", "")
    separation = "0.0" if fix.place else ""
    return _sentence(
        (
            "GPGGA",
            _time(_when(fix.unix)),
            *_place(fix.place),
            quality,
            f"{fix.satellites:02d}",
            f"{fix.hdop:.1f}" if fix.place else "",
            *(height, "M", separation, "M", "", ""),
        )
    )


def split(sentence: str) -> tuple[str, ...]:
    """Return the fields of a sentence after checking frame and checksum. Raises ContentError."""
    text = sentence.rstrip("\r\n")
    body, star, digits = text[1:].rpartition("*")
    if not text.startswith("$") or not star or len(digits) != 2:
        raise ContentError(f"not an NMEA sentence: {text[:MAX_LENGTH]!r}")
    if not body.isascii() or digits.upper() != f"{checksum(body):02X}":
        raise ContentError(f"NMEA checksum does not match: {text[:MAX_LENGTH]!r}")
    return tuple(body.split(","))


def date_number(unix: float) -> int:
    """Return the date as the decimal number DDMMYY."""
    when = _when(unix)
    return when.day * 10000 + when.month * 100 + when.year % 100


def time_number(unix: float) -> int:
    """Return the time of day as the decimal number HHMMSScc (at most 23595999)."""
    when = _when(unix)
    centi = when.microsecond // 10000
    return ((when.hour * 100 + when.minute) * 100 + when.second) * 100 + centi


def _when(unix: float) -> datetime:
    # Whole centiseconds first, so that date, time and their text forms always agree.
    return datetime.fromtimestamp(round(unix * 100) / 100, UTC)


def _time(when: datetime) -> str:
    return f"{when:%H%M%S}.{when.microsecond // 10000:02d}"


def _course(course_deg: float) -> float:
    return round(course_deg, 1) % 360.0


def _place(place: Geodetic | None) -> tuple[str, str, str, str]:
    if place is None:
        return "", "", "", ""
    return (
        _angle(abs(place.lat_deg), 2),
        "N" if place.lat_deg >= 0 else "S",
        _angle(abs(place.lon_deg), 3),
        "E" if place.lon_deg >= 0 else "W",
    )


def _angle(angle_deg: float, degree_digits: int) -> str:
    """Return degrees and minutes, `ddmm.mmmm`; rounding carries into the degrees."""
    ten_thousandths = round(angle_deg * 60 * 10000)
    degrees, minutes = divmod(ten_thousandths, 60 * 10000)
    return f"{degrees:0{degree_digits}d}{minutes // 10000:02d}.{minutes % 10000:04d}"


def _sentence(fields: tuple[str, ...]) -> str:
    body = ",".join(fields)
    return f"${body}*{checksum(body):02X}\r\n"
