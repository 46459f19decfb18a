"""The reader of EMUS files against our writer, hostile headers and every truncation."""

from __future__ import annotations

import datetime
import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from modules.aurora.emus_fits import FitsError, newest, parse_name, read_swath
from modules.aurora.fits import BLOCK, read_tables
from modules.aurora.planes import Swath
from tools.aurora_scene import DEFAULT, Scene, scene
from tools.aurora_synth import header, primary, swath_bytes, table

START = datetime.datetime(2022, 3, 31, 21, 21, 7, tzinfo=datetime.UTC)
NAME = "emm_emu_l2b_20220331t212107_0191_os2_sw1of3_r_v01-04.fits"
SAMPLES = Path("/work/shared/data/aurora")
CODES = {"not_fits", "truncated", "bad_table", "no_emission", "geometry", "too_large"}


@pytest.fixture(scope="module")
def drawn() -> Scene:
    # Slits of 32 pixels keep the file small.
    from dataclasses import replace

    return scene(11, replace(DEFAULT, slit_pixels=(32,), binning_rate=0.0))


@pytest.fixture(scope="module")
def content(drawn: Scene) -> bytes:
    return swath_bytes(drawn, 0, START)


def write(tmp_path: Path, data: bytes, name: str = NAME) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_what_the_writer_wrote_comes_back(tmp_path, drawn, content, packed):
    data, name = (gzip.compress(content), NAME + ".gz") if packed else (content, NAME)
    swath = read_swath(write(tmp_path, data, name))
    planes = drawn.swaths[0].planes
    assert swath.planes.dtype == np.float32
    assert swath.planes.shape == planes.shape
    for plane in list(Swath)[:7]:
        np.testing.assert_array_equal(swath.planes[:, 1:, plane], planes[:, 1:, plane])
    np.testing.assert_allclose(swath.planes[:, 1:, 7:], planes[:, 1:, 7:], atol=1e-6)
    assert swath.start == "2022-03-31T21:21:07.000"
    assert swath.name is not None
    assert (swath.name.swath, swath.name.swaths, swath.name.version) == (1, 3, (1, 4))
    distance = float(np.linalg.norm(drawn.spacecraft_km))
    assert swath.altitude_km == pytest.approx(distance - 3396.2)


def test_the_pixel_past_the_slit_has_no_data(tmp_path, content):
    swath = read_swath(write(tmp_path, content))
    assert np.isnan(swath.planes[:, 0]).all()


def test_inside_the_unit_circle_is_on_the_disc(tmp_path, drawn, content):
    planes = read_swath(write(tmp_path, content)).planes[:, 1:]
    radius = np.hypot(planes[..., Swath.SKY_X], planes[..., Swath.SKY_Y])
    on_disc = drawn.swaths[0].look.on_disc[:, 1:]
    # The sky plane is seen in perspective: the limb lies up to 1.2 % inside the circle.
    clear = np.abs(radius - 1) > 0.013
    np.testing.assert_array_equal((radius < 1)[clear], on_disc[clear])


def test_every_truncation_is_a_named_error(tmp_path, content):
    path = tmp_path / NAME
    for size in range(0, len(content), BLOCK):
        for cut in (size, size + 1441):
            if cut >= len(content):
                continue
            path.write_bytes(content[:cut])
            with pytest.raises(FitsError) as caught:
                read_swath(path)
            assert caught.value.code in CODES


def test_truncated_gzip_is_a_named_error(tmp_path, content):
    packed = gzip.compress(content)
    for size in (0, 1, 2, 10, 20, 1000, len(packed) // 2):
        with pytest.raises(FitsError):
            read_swath(write(tmp_path, packed[:size], NAME + ".gz"))


def test_changed_headers_give_a_swath_or_a_named_error(tmp_path, content):
    rng = random.Random(5)
    starts = [
        at
        for at in range(0, len(content), BLOCK)
        if content[at : at + 8] in (b"SIMPLE  ", b"XTENSION")
    ]
    words = [b"-1", b"0", b"1", b"99999999999999999999", b"7", b"T", b"'X'", b"1E9", b"268435457"]
    path = tmp_path / NAME
    codes = []
    for _ in range(300):
        data = bytearray(content)
        at = rng.choice(starts) + 80 * rng.randrange(30)
        if rng.random() < 0.5:
            data[at + 10 : at + 30] = rng.choice(words).rjust(20)
        else:
            data[at + rng.randrange(80)] = rng.randrange(32, 127)
        path.write_bytes(data)
        try:
            read_swath(path)
        except FitsError as error:
            codes.append(error.code)
    assert len(codes) > 50
    assert set(codes) <= CODES


@pytest.mark.parametrize(
    ("cards", "code"),
    [
        ([("NAXIS1", 1 << 40), ("NAXIS2", 1)], "too_large"),
        ([("NAXIS1", 8), ("NAXIS2", 1 << 46)], "too_large"),
        ([("NAXIS1", 1 << 28), ("NAXIS2", 2)], "too_large"),
        ([("NAXIS1", 8), ("NAXIS2", 1000)], "truncated"),
        ([("NAXIS1", -8), ("NAXIS2", 1)], "bad_table"),
        ([("NAXIS1", 8), ("NAXIS2", 1), ("PCOUNT", 1 << 40)], "too_large"),
        ([("NAXIS1", 8), ("NAXIS2", 1), ("TFIELDS", 100000)], "bad_table"),
        ([("NAXIS1", 8), ("NAXIS2", 1), ("TFORM1", "999999999D")], "bad_table"),
        ([("NAXIS1", 8), ("NAXIS2", 1), ("TFORM1", "1Z")], "bad_table"),
        ([("NAXIS1", 8), ("NAXIS2", 1), ("TDIM1", "(2,3)")], "bad_table"),
        ([("NAXIS1", 8), ("NAXIS2", 1), ("TDIM1", "(((((")], "bad_table"),
        ([("NAXIS1", 9), ("NAXIS2", 1)], "bad_table"),
    ],
)
def test_hostile_sizes_are_refused_before_memory_is_taken(tmp_path, cards, code):
    base = {
        "XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "PCOUNT": 0, "GCOUNT": 1, "TFIELDS": 1,
        "EXTNAME": "SC_GEOM", "TTYPE1": "SC_ALT", "TFORM1": "1D",
    }  # fmt: skip
    data = primary([]) + header(list({**base, **dict(cards)}.items())) + bytes(8)
    with pytest.raises(FitsError) as caught:
        read_tables(write(tmp_path, data), {"SC_GEOM": ("SC_ALT",)})
    assert caught.value.code == code


def test_columns_that_are_not_read_here_are_passed_over(tmp_path):
    rows = np.zeros(3, [("a", ">f4"), ("b", "u1", 3), ("c", ">f8")])
    rows["c"] = (1, 2, 3)
    head = header([
        ("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 15), ("NAXIS2", 3),
        ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", 3), ("EXTNAME", "t"),
        ("TTYPE1", "a"), ("TFORM1", "1E"), ("TTYPE2", "bits"), ("TFORM2", "24X"),
        ("TTYPE3", "value"), ("TFORM3", "D"),
    ])  # fmt: skip
    data = primary([]) + head + rows.tobytes().ljust(BLOCK, b"\0")
    _, tables = read_tables(write(tmp_path, data), {"T": ("VALUE",)})
    assert tables["T"].columns["VALUE"].tolist() == [1, 2, 3]


def test_corona_scans_and_missing_emissions_are_refused(tmp_path, content):
    with pytest.raises(FitsError) as caught:
        read_swath(write(tmp_path, content, NAME.replace("os2", "os4")))
    assert caught.value.code == "geometry"
    with pytest.raises(FitsError) as caught:
        read_swath(write(tmp_path, content), emission="He I 58.4 singlet")
    assert caught.value.code == "no_emission"


def test_centres_at_the_other_end_of_the_corner_axis_are_found(tmp_path, drawn, content):
    parts = content.split(b"XTENSION")
    at = next(i for i, part in enumerate(parts) if b"VEC_MSO" in part)
    rows, slit = drawn.swaths[0].planes.shape[:2]
    body = len(parts[at]) + 8
    head = next(size for size in range(0, body, BLOCK) if b"END   " in parts[at][:size]) - 8
    _, tables = read_tables(write(tmp_path, content), {"FOV_GEOM": ("VEC_MSO", "LAT")})
    width = tables["FOV_GEOM"].columns["VEC_MSO"].strides[0]
    data = bytearray(parts[at])
    sky = np.frombuffer(data, ">f4", rows * width // 4, head).reshape(rows, -1, 5, slit)
    sky[:] = np.roll(sky.copy(), -1, axis=2)
    moved = b"XTENSION".join([*parts[:at], bytes(data), *parts[at + 1 :]])
    swath = read_swath(write(tmp_path, moved))
    planes = drawn.swaths[0].planes
    np.testing.assert_allclose(swath.planes[:, 1:, 7:], planes[:, 1:, 7:], atol=1e-6)
    sky[:, :, 4] = sky[:, :, 0]
    broken = b"XTENSION".join([*parts[:at], bytes(data), *parts[at + 1 :]])
    with pytest.raises(FitsError) as caught:
        read_swath(write(tmp_path, broken))
    assert caught.value.code == "geometry"


def test_spectra_stand_in_for_a_missing_emission(tmp_path, drawn, content):
    rows, slit = drawn.swaths[0].planes.shape[:2]
    nm = np.linspace(120, 140, 101, dtype=np.float32)
    light = np.linspace(1, 2, rows * slit, dtype=np.float32).reshape(rows, slit)
    # A line of 10 R times that on a sloping base: samples are 0.2 nm wide.
    spectra = 3 + 0.1 * (nm - 130) + np.zeros((rows, slit, 1), np.float32)
    spectra[..., np.abs(nm - 130.4) < 0.5] += (
        10 * light[..., None] / 0.2 / int((np.abs(nm - 130.4) < 0.5).sum())
    )
    data = content[: content.rindex(b"XTENSION")]
    data += table("CAL", [
        ("RADIANCE", spectra.astype(np.float32)),
        ("RAD_ERR_RAND", np.ones_like(spectra, np.float32)),
    ]) + table("WAVELENGTH", [("WAVELENGTH_L2A", np.tile(nm, (1, slit, 1)))])  # fmt: skip
    swath = read_swath(write(tmp_path, data))
    np.testing.assert_allclose(swath.planes[:, 1:, 0], 10 * light[:, 1:], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (NAME, ("l2b", 191, "os2", 1, 3, "r")),
        ("emm_emu_l2a_20221201T002750_0301_osr_38566_f_v04-00.fits.gz",
         ("l2a", 301, "osr", 1, 1, "f")),
        ("emm_emu_l2b_20220331t212107_0191_EMU035_7_n_v01-04.fits",
         ("l2b", 191, "EMU035", 1, 1, "n")),
    ],
)  # fmt: skip
def test_file_names(name, fields):
    got = parse_name(name)
    assert got is not None
    assert (got.level, got.orbit, got.mode, got.swath, got.swaths, got.kernel) == fields


def test_of_several_versions_the_newest_disc_scan_is_taken():
    older, newer = (Path(NAME.replace("v01-04", version)) for version in ("v01-09", "v02-00"))
    other, corona = Path(NAME.replace("t2121", "t2221")), Path(NAME.replace("os2", "os3"))
    assert newest([newer, other, older, corona, Path("notes.txt")]) == [newer, other]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared sample files are not here")
def test_shared_samples_are_read():
    paths = newest(SAMPLES.iterdir())
    assert [read_swath(path).planes.shape[:2] for path in paths] == [
        (99, 128), (99, 128), (26, 32), (26, 32), (63, 32), (63, 32),
    ]  # fmt: skip


def test_values_are_those_astropy_reads(tmp_path, content):
    fits = pytest.importorskip("astropy.io.fits")
    path = write(tmp_path, content)
    _, tables = read_tables(path, {"EMISS": ("RADIANCE",), "FOV_GEOM": ("VEC_MSO",)})
    with fits.open(path) as hdus:
        for name, column in (("EMISS", "RADIANCE"), ("FOV_GEOM", "VEC_MSO")):
            assert hdus[name].data[column].tobytes() == tables[name].columns[column].tobytes()
