"""NMEA sentences: exact text, the edges of rounding, damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import nmea
from sim.errors import ContentError
from sim.frames import Geodetic
from sim.nmea import Fix

_UNIX = 1_744_407_764.0
_FIX = Fix(
    unix=_UNIX,
    place=Geodetic(lat_deg=56.17, lon_deg=10.19, alt_km=527.4),
    speed_m_s=7590.0,
    course_deg=347.25,
    satellites=9,
    hdop=1.1,
)
_LOST = Fix(unix=_UNIX, place=None)


def test_exact_sentences() -> None:
    assert nmea.encode_rmc(_FIX) == (
        "$GPRMC,214244.00,A,5610.2000,N,01011.4000,E,14753.8,347.2,110425,,*3E\r\n"
    )
    assert nmea.encode_gga(_FIX) == (
        "$GPGGA,214244.00,5610.2000,N,01011.4000,E,1,09,1.1,527400.0,M,0.0,M,,*61\r\n"
    )


def test_known_checksum_of_the_textbook_sentence() -> None:
    body = "GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"
    assert nmea.checksum(body) == 0x47


def test_without_a_fix_only_the_time_is_told() -> None:
    assert nmea.split(nmea.encode_rmc(_LOST))[1:10] == (
        "214244.00",
        "V",
        "",
        "",
        "",
        "",
        "",
        "",
        "110425",
    )
    assert nmea.split(nmea.encode_gga(_LOST))[6] == "0"


@pytest.mark.parametrize(
    ("lat", "lon", "text"),
    [
        (-33.5, -70.25, ("3330.0000", "S", "07015.0000", "W")),
        (0.0, 0.0, ("0000.0000", "N", "00000.0000", "E")),
        (9.9999999999, 179.9999999999, ("1000.0000", "N", "18000.0000", "E")),
        (-90.0, -180.0, ("9000.0000", "S", "18000.0000", "W")),
    ],
)
def test_places_and_the_carry_of_rounding(lat: float, lon: float, text: tuple[str, ...]) -> None:
    fix = Fix(unix=_UNIX, place=Geodetic(lat_deg=lat, lon_deg=lon))
    assert nmea.split(nmea.encode_gga(fix))[2:6] == text


@pytest.mark.parametrize(
    ("unix", "date", "time"),
    [
        (0.0, 10170, 0),
        (_UNIX, 110425, 21424400),
        (_UNIX + 0.25, 110425, 21424425),
        (946_684_799.99, 311299, 23595999),
        (946_684_799.999, 10100, 0),
        (1_709_164_800.0, 290224, 0),
    ],
)
def test_date_and_time_as_the_numbers_of_the_flown_table(unix: float, date: int, time: int) -> None:
    assert (nmea.date_number(unix), nmea.time_number(unix)) == (date, time)


@given(
    st.floats(0, 4e9),
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.floats(-1, 999),
    st.floats(0, 9999),
    st.floats(0, 360),
)
def test_every_sentence_fits_and_passes_its_own_check(
    unix: float, lat: float, lon: float, alt: float, speed: float, course: float
) -> None:
    fix = Fix(
        unix=unix,
        place=Geodetic(lat_deg=lat, lon_deg=lon, alt_km=alt),
        speed_m_s=speed,
        course_deg=course,
        satellites=12,
    )
    for sentence, count in ((nmea.encode_rmc(fix), 12), (nmea.encode_gga(fix), 15)):
        assert len(sentence) <= nmea.MAX_LENGTH
        assert len(nmea.split(sentence)) == count


def test_every_flipped_bit_is_noticed() -> None:
    sentence = nmea.encode_rmc(_FIX).rstrip().encode()
    for i in range(len(sentence) * 8):
        damaged = bytearray(sentence)
        damaged[i // 8] ^= 1 << (i % 8)
        text = damaged.decode("latin-1")
        if text.upper() == sentence.decode().upper():
            continue  # the case of a checksum digit carries nothing
        with pytest.raises(ContentError):
            nmea.split(text)


@pytest.mark.parametrize("text", ["", "$", "$*", "GPRMC,1*00", "$GPRMC", "$A*4", "$A*411", "$é*00"])
def test_not_a_sentence(text: str) -> None:
    with pytest.raises(ContentError):
        nmea.split(text)
