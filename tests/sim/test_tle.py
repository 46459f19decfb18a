"""Element-set files: what is accepted, and the exact complaint about everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import tle
from sim.errors import ContentError

_LINE1 = "1 00005U 58002B   00179.78495062  .00000023  00000-0  28098-4 0  4753"
_LINE2 = "2 00005  34.2682 348.7242 1859667 331.7664  19.3264 10.82419157413667"
_OTHER2 = "2 99902  51.6400 210.0000 0005000  60.0000 100.0000 15.49906274 90008"
_SHIPPED = Path(__file__).parents[2] / "configs" / "orbits.tle"


def test_shipped_file_has_both_orbits() -> None:
    names = [elements.name for elements in tle.parse(_SHIPPED.read_text("ascii"))]
    assert names == ["DISCO-2-LIKE", "ISS-LIKE"]


@pytest.mark.parametrize(
    "text",
    [
        f"VANGUARD\n{_LINE1}\n{_LINE2}\n",
        f"0 VANGUARD\r\n{_LINE1}\r\n{_LINE2}",
        f"# a comment\n\nVANGUARD  \n{_LINE1}  \n# another\n{_LINE2}\n",
    ],
)
def test_accepted_forms(text: str) -> None:
    assert tle.parse(text) == (tle.ElementSet(name="VANGUARD", line1=_LINE1, line2=_LINE2),)


def test_a_set_without_a_name_is_called_by_its_number() -> None:
    assert tle.parse(f"{_LINE1}\n{_LINE2}\n")[0].name == "00005"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no element set"),
        ("ONLY A NAME", "no element set"),
        (_LINE1, "file ends after line 1 of 00005"),
        (f"{_LINE1}\n{_OTHER2}", "line 2: satellite 99902 follows line 1 of 00005"),
        (f"{_LINE1}\nNAME\n{_LINE2}", "line 2: expected line 2 of 00005"),
        (f"{_LINE1[:-1]}4\n{_LINE2}", "line 1: checksum 4, computed 3"),
        (f"{_LINE1}\n{_LINE2[:-1]}", "line 2: 68 characters instead of 69"),
    ],
)
def test_broken_files_are_refused_with_the_line(text: str, complaint: str) -> None:
    with pytest.raises(ContentError, match=complaint):
        tle.parse(text)


@given(st.integers(0, 67), st.sampled_from("0123456789"))
def test_one_changed_digit_never_passes(position: int, digit: str) -> None:
    if not _LINE1[position].isdigit() or _LINE1[position] == digit or position == 0:
        return
    damaged = _LINE1[:position] + digit + _LINE1[position + 1 :]
    with pytest.raises(ContentError):
        tle.parse(f"{damaged}\n{_LINE2}")


def test_selection_by_name() -> None:
    sets = tle.parse(_SHIPPED.read_text("ascii"))
    assert tle.select(sets).name == "DISCO-2-LIKE"
    assert tle.select(sets, "ISS-LIKE").name == "ISS-LIKE"
    with pytest.raises(ContentError, match="this file has: DISCO-2-LIKE, ISS-LIKE"):
        tle.select(sets, "HUBBLE")
