"""EMUS as a camera: shipped swaths, and what the payload makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dipp.batch import split_blocks
from dipp.metadata import Metadata
from dipp.pictures import save_metadata
from sim.camera.capture import CameraError, CameraType, RequestError, parse_capture
from sim.camera.cli import preview_saver
from sim.camera.emus import SwathStore
from sim.camera.frames import FrameMaker, Shot
from sim.camera.params import CAMERA_TYPES
from sim.camera.segments import SegmentWriter
from sim.camera.view import Pointing
from sim.payload.mars import load_findings
from sim.payload.record import BatchFate
from sim.scenes import EMUS_FOLDER


@pytest.fixture(scope="module")
def store() -> SwathStore:
    return SwathStore(EMUS_FOLDER)


def test_the_shipped_observations_are_small_and_say_what_is_in_them() -> None:
    files = sorted(EMUS_FOLDER.glob("*.fits.gz"))
    labels = json.loads((EMUS_FOLDER / "labels.json").read_text())["scenes"]
    assert [name for each in labels for name in each["files"]] == [path.name for path in files]
    assert {each["label"] for each in labels} == {"aurora", "none"}
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_observations_come_in_turn_with_the_observation_id(store: SwathStore) -> None:
    orbits = [store.take(0, 0, obid=obid, timestamp=9)[0].item("orbit") for obid in range(1, 7)]
    assert len(set(orbits)) == 3
    assert orbits[:3] == orbits[3:]
    assert store.take(2, 0, obid=1, timestamp=9)[0].item("orbit") == orbits[1]


def test_a_swath_carries_the_time_and_id_of_its_capture(store: SwathStore) -> None:
    for index in (0, 1):
        metadata, planes = store.take(1, index, obid=77, timestamp=1_744_407_764)
        assert (metadata.obid, metadata.timestamp) == (77, 1_744_407_764)
        assert (metadata.camera, metadata.item("fmt")) == ("EMUS", "S9")
        assert metadata.item("swath") == index + 1
        assert planes.shape == (metadata.height, metadata.width, 9)
        assert planes.nbytes == metadata.size


@pytest.mark.parametrize(("number", "index"), [(4, 0), (1, 2), (1, 19)])
def test_what_is_not_there_is_a_failed_capture(store: SwathStore, number: int, index: int) -> None:
    with pytest.raises(RequestError) as caught:
        store.take(number, index, obid=1, timestamp=1)
    assert caught.value.code is CameraError.CAPTURE


def test_a_damaged_or_missing_file_is_a_failed_capture(tmp_path: Path) -> None:
    whole = min(EMUS_FOLDER.glob("*.fits.gz"))
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:5000])
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RequestError) as caught:
            SwathStore(folder).take(0, 0, obid=1, timestamp=1)
        assert caught.value.code is CameraError.CAPTURE


def test_the_capture_string_and_the_settings_know_the_type() -> None:
    request = parse_capture("CAMERA_TYPE=EMUS;NUM_IMAGES=2;PIPELINE_ID=2;")
    assert request.camera_type is CameraType.EMUS
    assert CAMERA_TYPES.index(CameraType.EMUS) == 3


def test_the_pixels_of_every_swath_in_a_segment_are_aligned() -> None:
    request = parse_capture("CAMERA_TYPE=EMUS;NUM_IMAGES=2;")
    maker = FrameMaker(1)
    segment = SegmentWriter(3)
    try:
        frames = []
        for index in (0, 1):
            shot = Shot(
                request=request, pointing=Pointing(lat_deg=0, lon_deg=0, course_deg=0), index=index,
                obid=3, timestamp=5, exposure_us=0,
            )  # fmt: skip
            frames.append(maker.take(shot))
            segment.append(*frames[-1])
        data = Path("/dev/shm", segment.name[1:]).read_bytes()
    finally:
        segment.discard()
    blocks = split_blocks(data, 2, len(data))
    for block, (metadata, planes) in zip(blocks, frames, strict=True):
        assert block.pixel_offset % 64 == 0
        assert block.metadata.item("swath") == metadata.item("swath")
        assert data[block.pixel_offset : block.end] == planes.tobytes()


def _fate(obid: int, fate: str) -> BatchFate:
    return BatchFate(
        batch_id=obid, obid=obid, pipeline_id=2, images=2, fate=fate, status_word=0, reason=""
    )


def test_findings_pair_swaths_with_products_and_show_what_is_lost(
    tmp_path: Path, store: SwathStore
) -> None:
    save = preview_saver(tmp_path / "previews")
    for obid in (5, 6):
        for index in (0, 1):
            save(*store.take(0, index, obid=obid, timestamp=1))
    found = {"c": "patchy", "b": [1, 2, 3, 4], "snr": 9.0}
    items = (
        ("obs", "2021-06-01T00:00:00.000"), ("aurora_n", 1), ("aurora_state", "aurora"),
        ("aurora_score", 9.0), ("aurora_0", json.dumps(found)),
    )  # fmt: skip
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (fmt, shape) in enumerate((("M1", (192, 192)), ("H3", (480, 640, 3)))):
        path = folder / f"image_{number:02}.png"
        cv2.imwrite(str(path), np.full(shape, 90, np.uint8))
        described = Metadata(
            size=100, height=shape[0], width=shape[1], channels=3 if len(shape) > 2 else 1,
            timestamp=1, bits_pixel=8, obid=5, camera="EMUS", items=(("fmt", fmt), *items),
        )  # fmt: skip
        save_metadata(described, path)
    seen, lost = load_findings(
        [_fate(5, "delivered"), _fate(6, "quarantined")], folder, tmp_path / "previews"
    )
    assert (seen.state, seen.images, seen.detections) == ("aurora", 2, (found,))
    view = cv2.imdecode(np.frombuffer(seen.view, np.uint8), cv2.IMREAD_COLOR)
    assert view.shape == (480, 480, 3)
    assert seen.mask_bytes > 100 == seen.view_bytes
    # Pairs of samples of nine planes: what the camera wrote into the segment.
    raw = sum(store.take(0, index, obid=5, timestamp=1)[1].nbytes for index in (0, 1))
    assert seen.raw_bytes == raw
    assert (lost.view, lost.images) == (b"", 0)
    assert lost.swaths.startswith(b"\x89PNG")
