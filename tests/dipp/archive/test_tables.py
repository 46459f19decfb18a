"""Tables and page: what is in them, and that nothing in them can hurt."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dipp.archive import page
from dipp.archive.keys import result_key
from dipp.archive.page import Heading, make_page
from dipp.archive.plan import Row
from dipp.archive.preview import shrink, thumbnail
from dipp.archive.records import Crash, Hashed, Output, Record, State
from dipp.archive.tables import flat_row, quarantine_csv, to_csv, to_parquet
from dipp.errors import ContentError
from dipp.metadata import Metadata

EVIL = "</script><script>alert('\"&\u2028\ud800\n"
HEADING = Heading(title=f"t {EVIL}", about=EVIL, chain={"steps": []})


def make_row(number: int, *, items=None, crash=None, thumbnail="", name="") -> Row:
    uri = f"/in/{name or f'p{number:05d}.png'}"
    record = Record(
        key=result_key("c", "", [(str(number), "")]),
        chain="c",
        state=State.FAILED if crash else State.DONE,
        inputs=(Hashed(uri=uri, size_bytes=1, stamp="", sha256="ab"),),
        outputs=()
        if crash
        else (
            Output(name="o.png", size_bytes=10, width=4, height=3, channels=1, items=items or {}),
            Output(name="m.png", size_bytes=5, width=2, height=2, channels=1, items={"late": 1}),
        ),
        crash=crash,
        wall_s=0.25,
        thumbnail=thumbnail,
    )
    return Row(uris=(uri,), state=record.state, record=record)


def data_of(html: bytes) -> dict:
    text = html.decode("utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_a_row_has_the_items_of_all_images_of_one_key_the_first():
    row = flat_row(make_row(1, items={"late": 7, "x": 0.5}))
    assert (row["item_late"], row["item_x"], row["images"], row["bytes_out"]) == (7, 0.5, 2, 15)
    assert (row["width"], row["state"], row["code"]) == (4, "done", None)


def test_csv_comes_back_as_it_was_whatever_is_in_it():
    crash = Crash(code=711, module=2, name="m", exception="E", line=3, last_log=f"log, {EVIL}")
    unreadable = Row(uris=("/in/gone.png",), state=State.UNREADABLE, reason="gone")
    rows = [make_row(1, items={"t": EVIL}), make_row(2, crash=crash, name=EVIL[:9]), unreadable]
    flat = [flat_row(row) for row in rows]
    table = list(csv.DictReader(io.StringIO(to_csv(flat).decode("utf-8"), newline="")))
    assert [row["state"] for row in table] == ["done", "failed", "unreadable"]
    assert table[0]["item_t"] == EVIL.replace("\ud800", "\\ud800")
    assert (table[1]["code"], table[1]["meaning"]) == ("711", "module's own error 11")
    assert table[1]["log"].startswith("log, </script>")
    assert json.loads(table[1]["uris"]) == ["/in/" + EVIL[:9]]
    bad = list(csv.DictReader(io.StringIO(quarantine_csv(flat).decode("utf-8"), newline="")))
    assert [row["state"] for row in bad] == ["failed", "unreadable"]


def test_parquet_holds_the_same():
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    rows = [make_row(1, items={"a": 1, "b": True}), make_row(2, items={"a": 2.5, "b": "x"})]
    data = to_parquet([flat_row(row) for row in rows])
    assert data is not None
    table = parquet.read_table(io.BytesIO(data)).to_pylist()
    assert [row["item_a"] for row in table] == [1.0, 2.5]
    assert [row["item_b"] for row in table] == ["True", "x"]
    assert [row["wall_s"] for row in table] == [0.25, 0.25]
    assert to_parquet([]) is not None


def test_parquet_that_cannot_be_had_is_none_or_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert to_parquet([]) is None

    def broken(name):
        raise ImportError("wants another numpy")

    monkeypatch.setattr("dipp.archive.tables.importlib.import_module", broken)
    with pytest.raises(ContentError, match="another numpy"):
        to_parquet([])


def test_texts_of_modules_and_names_stay_text():
    crash = Crash(code=600, module=1, name=EVIL, last_log=EVIL, log=EVIL, exception=EVIL)
    rows = [
        make_row(1, items={EVIL: EVIL, "nan": float("nan"), "inf": float("inf")}),
        make_row(2, crash=crash, name=EVIL.replace("/", "")),
        Row(uris=(f"/in/{EVIL}",), state=State.UNREADABLE, reason=EVIL),
    ]
    data = data_of(make_page(HEADING, rows))
    assert [row["s"] for row in data["rows"]].count("failed") == 1
    (failed,) = [row for row in data["rows"] if row["s"] == "failed"]
    assert data["causes"][failed["x"]]["count"] == 1
    assert data["causes"][0]["log"].startswith("</script>")


def test_a_log_is_shown_without_the_frames_of_the_runner():
    frames = [
        '  File "/m/look.py", line 9 in run',
        '  File "/x/dipp/runner/child.py", line 1 in _e',
    ]
    crash = Crash(code=600, log="\n".join(["said", *frames]))
    (row,) = data_of(make_page(HEADING, [make_row(1, crash=crash)]))["rows"]
    assert row["g"] == f"said\n{frames[0]}"


def test_thousands_of_rows_stay_within_bounds(monkeypatch):
    monkeypatch.setattr(page, "THUMBNAILS_LIMIT_BYTES", 5000)
    monkeypatch.setattr(page, "ROWS_LIMIT", 2500)
    crash = Crash(code=600, module=1, name="m", signal=11)
    rows = [
        make_row(n, crash=crash if n > 2990 else None, thumbnail="x" * 100) for n in range(3000)
    ]
    html = make_page(HEADING, rows)
    data = data_of(html)
    assert len(data["rows"]) == 2500
    assert sum(bool(row["t"]) for row in data["rows"]) == 50
    # Failures are the last to be left out.
    assert all(row["t"] for row in data["rows"] if row["s"] == "failed")
    assert data["causes"][0]["count"] == 9
    assert data["left"] == (
        "500 more rows are in results.csv only. "
        "2,450 thumbnails were left out to keep this page loadable."
    )
    assert len(html) < 1_200_000
    assert [tile[0] for tile in data["tiles"][:2]] == ["2,991", "9"]


def test_facets_are_what_tells_results_apart():
    rows = [
        make_row(n, items={"state": "ab"[n % 2], "count": n % 3, "id": n, "same": "s", "f": 0.5})
        for n in range(30)
    ]
    assert data_of(make_page(HEADING, rows))["facets"] == [
        ["state", [["a", 15], ["b", 15]]],
        ["count", [["0", 10], ["1", 10], ["2", 10]]],
    ]


def picture_of(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("shape", "dtype", "bits"),
    [
        ((300, 600), np.uint8, 8),
        ((300, 600, 3), np.uint8, 8),
        ((300, 600, 4), np.uint8, 8),
        ((30, 60), np.uint16, 12),
        ((30, 60, 9), np.float32, 32),
        ((1, 2000), np.uint8, 8),
        ((1, 1), np.float32, 32),
    ],
)
def test_any_image_becomes_a_small_picture(shape, dtype, bits):
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if dtype == np.float32:
        pixels[0, 0] = np.nan
    metadata = Metadata(
        size=pixels.nbytes,
        height=shape[0],
        width=shape[1],
        channels=shape[2] if len(shape) > 2 else 1,
        bits_pixel=bits,
    )
    small = picture_of(thumbnail([(metadata, pixels.tobytes())], 96))
    assert max(small.shape[:2]) <= 96


def test_a_faint_mask_is_made_visible_and_colours_stay_in_order():
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1
    assert picture_of(shrink(mask, 64)).max() > 240
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    assert picture_of(shrink(red, 64))[32, 32].argmax() == 2


def test_what_cannot_be_drawn_is_passed_over():
    good = Metadata(size=4, height=2, width=2, channels=1, bits_pixel=8)
    bad = [
        (replace(good, width=9), b"1234"),
        (replace(good, items=(("enc", "jxl"),)), b"no picture"),
        (replace(good, items=(("enc", "what"),)), b"1234"),
    ]
    assert thumbnail(bad, 96) == ""
    assert thumbnail([*bad, (good, b"1234")], 96) != ""
