"""Write synthetic EMUS observations as FITS files in the layout of Level 2B.

    python -m tools.aurora_synth --out out/emus --count 4 --seed 7 [--config shifted] [--png]
    python -m tools.aurora_synth --out sim/scenes/emus --seeds 48 199 207 --slit 64   # the demo's

One file per swath, `labels.json` with the truth, and with `--png` the heat map of each scene. The
same seed gives the same scenes. No mission data is inside; the card SYNTH = T says so.
Source: aurora.md 1.2 and 5.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modules.aurora.emus_fits import EMISSION
from modules.aurora.fits import BLOCK
from modules.aurora.planes import MARS_RADIUS_KM, Swath
from tools.aurora_scene import CONFIGS, Scene, SyntheticSwath, scene

EPOCH = datetime.datetime(2021, 6, 1, tzinfo=datetime.UTC)
_SWATH_MINUTES = 20
_CORNER_SIGNS = ((0.0, 0.0), (-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))
Array = npt.NDArray[np.generic]
Card = tuple[str, object]


# -- FITS


def header(cards: Sequence[Card]) -> bytes:
    """Return cards as whole header blocks."""
    lines = []
    for keyword, value in cards:
        if isinstance(value, bool):
            text = f"{'T' if value else 'F':>20}"
        elif isinstance(value, int):
            text = f"{value:>20}"
        else:
            quoted = str(value).replace("'", "''")
            text = f"'{quoted:<8}'"
        lines.append(f"{keyword:<8}= {text}"[:80].ljust(80))
    lines.append("END".ljust(80))
    return _filled("".join(lines).encode("ascii"), b" ")


def primary(cards: Sequence[Card]) -> bytes:
    """Return a primary header without data."""
    return header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True), *cards])


def table(name: str, columns: Sequence[tuple[str, Array]]) -> bytes:
    """Return a binary table; every column is (rows, ...), float, uint8 or bytes."""
    fields, cards = [], []
    for number, (title, values) in enumerate(columns, 1):
        kind = values.dtype.kind
        letter = "A" if kind == "S" else {"f4": "E", "f8": "D", "u1": "B"}[values.dtype.str[1:]]
        repeat = values.dtype.itemsize if kind == "S" else math.prod(values.shape[1:])
        cards += [(f"TTYPE{number}", title), (f"TFORM{number}", f"{repeat}{letter}")]
        if values.ndim > 2:
            shape = ",".join(str(size) for size in reversed(values.shape[1:]))
            cards.append((f"TDIM{number}", f"({shape})"))
        fields.append((title, values.dtype.newbyteorder(">"), values.shape[1:]))
    rows = len(columns[0][1])
    data = np.zeros(rows, np.dtype(fields))
    for title, values in columns:
        data[title] = values
    head = header([
        ("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", data.dtype.itemsize),
        ("NAXIS2", rows), ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", len(columns)),
        ("EXTNAME", name), *cards,
    ])  # fmt: skip
    return head + _filled(data.tobytes(), b"\0")


def _filled(data: bytes, fill: bytes) -> bytes:
    return data + fill * (-len(data) % BLOCK)


# -- swaths


def swath_bytes(drawn: Scene, number: int, start: datetime.datetime) -> bytes:
    """Return one swath of a scene as an uncompressed FITS file."""
    swath = drawn.swaths[number]
    rows, slit = swath.planes.shape[:2]
    seconds = np.arange(rows) * 6.0
    times = [start + datetime.timedelta(seconds=float(offset)) for offset in seconds]
    text = np.array([_iso(time).encode() for time in times])
    light = swath.planes[..., : Swath.ERROR + 1].transpose(2, 1, 0)
    names = np.array([EMISSION.encode(), b"O I 135.6 doublet"])
    # The second line is there so that a reader must choose; it is a faint copy of the first.
    radiance, error = (np.stack((plane, plane / 4)) for plane in light)
    parts = (
        primary([
            ("OBS_UTC", _iso(times[0])), ("END_UTC", _iso(times[-1])), ("SOL_LONG", 56),
            ("MARSYEAR", 36), ("QLTY_FLG", 0), ("IMG_RCV", 100), ("SYNTH", True),
        ]),
        table("TIME", [("TIME_ET", seconds), ("TIME_UTC", text)]),
        table("SC_GEOM", _spacecraft(drawn, rows)),
        table("FOV_GEOM", _field_of_view(drawn, swath)),
        table("EMISS", [
            ("NAME", names),
            ("RADIANCE", radiance),
            ("RAD_ERR_RAND", error),
            ("QLTY_FLG", np.zeros((2, slit, rows), np.uint8)),
        ]),
    )  # fmt: skip
    return b"".join(parts)


def _spacecraft(drawn: Scene, rows: int) -> list[tuple[str, Array]]:
    position = drawn.spacecraft_km
    distance = float(np.linalg.norm(position))
    below, sunward = drawn.to_body @ (position / distance), drawn.to_body @ np.array([1.0, 0, 0])
    values = (
        ("SUB_SC_LON", math.degrees(math.atan2(below[1], below[0])) % 360),
        ("SUB_SC_LAT", math.degrees(math.asin(below[2]))),
        ("SUB_SOLAR_LON", subsolar_longitude(drawn)),
        ("SUB_SOLAR_LAT", math.degrees(math.asin(np.clip(sunward[2], -1, 1)))),
        ("SC_ALT", distance - MARS_RADIUS_KM),
    )
    columns: list[tuple[str, Array]] = [(name, np.full(rows, value)) for name, value in values]
    return [*columns, ("V_SC_POS_MSO", np.tile(position, (rows, 1)))]


def subsolar_longitude(drawn: Scene) -> float:
    """Return the longitude below the Sun, degrees east."""
    sunward = drawn.to_body @ np.array([1.0, 0.0, 0.0])
    return math.degrees(math.atan2(sunward[1], sunward[0])) % 360


def _field_of_view(drawn: Scene, swath: SyntheticSwath) -> list[tuple[str, Array]]:
    rays, planes = swath.look.rays, swath.planes
    along, across = np.gradient(rays, axis=0), np.gradient(rays, axis=1)
    corners = np.stack(
        [rays + first * along + second * across for first, second in _CORNER_SIGNS], axis=2
    )
    # (rows, slit, 5, 3) -> (rows, 3, 5, slit); pixel 0 looks past the slit.
    sky = corners.transpose(0, 3, 2, 1).astype(np.float32)
    sky[..., 0] = np.nan
    sunlit = subsolar_longitude(drawn)
    local = (12 + (planes[..., Swath.LONGITUDE] - sunlit) / 15) % 24
    columns = [
        ("LAT", planes[..., Swath.LATITUDE]),
        ("LON", planes[..., Swath.LONGITUDE]),
        ("MRH_ALT", planes[..., Swath.HEIGHT]),
        ("SOLAR_Z_ANGLE", planes[..., Swath.SOLAR_ZENITH]),
        ("EMISSION_ANGLE", planes[..., Swath.EMISSION]),
        ("LOCAL_TIME", local.astype(np.float32)),
    ]
    return [
        ("VEC_MSO", sky),
        *((name, np.repeat(plane[:, None, :], 5, axis=1)) for name, plane in columns),
    ]


def _iso(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}"


def write_scene(drawn: Scene, out: Path, start: datetime.datetime) -> list[Path]:
    """Write the swaths of a scene; the orbit number is made from the seed. Raises OSError."""
    paths = []
    for number in range(len(drawn.swaths)):
        begin = start + datetime.timedelta(minutes=_SWATH_MINUTES * number)
        name = (
            f"emm_emu_l2b_{begin:%Y%m%dt%H%M%S}_{drawn.seed % 10000:04d}_os2"
            f"_sw{number + 1}of{len(drawn.swaths)}_r_v01-00.fits.gz"
        )
        path = out / name
        # No time stamp inside, so that the same scene gives the same bytes.
        path.write_bytes(gzip.compress(swath_bytes(drawn, number, begin), 6, mtime=0))
        paths.append(path)
    return paths


def label(drawn: Scene, paths: Sequence[Path]) -> dict[str, object]:
    """Return the truth about a scene."""
    return {
        "seed": drawn.seed,
        "label": drawn.label,
        "kind": drawn.kind,
        "snr": round(drawn.snr, 2),
        "faults": list(drawn.faults),
        "brightest_r": round(max(float(swath.aurora.max()) for swath in drawn.swaths), 2),
        "files": [path.name for path in paths],
    }


def main() -> None:
    """Draw scenes and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/emus"))
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", help="these, instead of --count and --seed")
    parser.add_argument("--config", choices=sorted(CONFIGS), default="default")
    parser.add_argument("--slit", type=int, help="pixels of the slit, never binned: small files")
    parser.add_argument("--png", action="store_true", help="write a heat map of every scene")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[arguments.config]
    if arguments.slit:
        config = replace(config, slit_pixels=(arguments.slit,), binning_rate=0.0)
    labels = []
    seeds = arguments.seeds or range(arguments.seed, arguments.seed + arguments.count)
    for number, seed in enumerate(seeds):
        drawn = scene(seed, config)
        start = EPOCH + datetime.timedelta(hours=2 * number)
        paths = write_scene(drawn, arguments.out, start)
        labels.append(label(drawn, paths))
        if arguments.png:
            _write_png(drawn, arguments.out / f"scene-{drawn.seed}.png")
        print(f"{drawn.seed}: {drawn.label} {drawn.kind}", *(path.name for path in paths))
    about = {"config": arguments.config, "slit": arguments.slit, "scenes": labels}
    text = json.dumps(about, indent=1)
    (arguments.out / "labels.json").write_text(text + "\n")


def _write_png(drawn: Scene, path: Path) -> None:
    import cv2

    from modules.aurora.picture import Scale, heat_map
    from tools.aurora_cases import make_disc

    cv2.imwrite(str(path), heat_map(make_disc(drawn)[..., 0], Scale()))


if __name__ == "__main__":
    main()
