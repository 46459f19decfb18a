"""The tools around the land-cover network, on a made-up Earth: no package of data is needed."""

import json
import sys

import cv2
import imagecodecs
import numpy as np
import pytest

from tools.landcover_data import BLOCK_DEG, CLASSES, MARGIN_DEG, SETS, Earth, balanced, disturb
from tools.landcover_eval import Judged, confusion, recalls
from tools.landcover_page import main as page_main

IGBP = np.array([0, 2, 10, 12, 16, 15], np.uint8)


@pytest.fixture(scope="module")
def earth(tmp_path_factory) -> Earth:
    """Return an Earth on which every block is of one class, in the colour of its number."""
    folder = tmp_path_factory.mktemp("earth")
    rows, columns = np.mgrid[0:18, 0:36]
    labels = (rows * 5 + columns) % len(CLASSES)
    cover = np.kron(IGBP[labels], np.ones((100, 100), np.uint8))
    mosaic = np.kron((labels * 40 + 20).astype(np.uint8), np.ones((40, 40), np.uint8))
    cv2.imwrite(str(folder / "cover.tif"), cover)
    cv2.imwrite(str(folder / "mosaic.png"), np.dstack([mosaic] * 3))
    return Earth(folder / "mosaic.png", folder / "cover.tif")


@pytest.mark.parametrize("where", SETS)
def test_patches_are_of_their_class_and_keep_off_the_edge_of_their_block(earth, where):
    rng = np.random.default_rng(1)
    for label in range(len(CLASSES)):
        if not earth.has(where, label):
            continue
        patch = earth.draw(rng, where, label, 24)
        assert patch.label == label
        assert patch.pixels.shape == (24, 24, 3)
        assert (patch.pixels == label * 40 + 20).all()
        half = patch.size_deg / 2 + MARGIN_DEG
        assert half <= (90 - patch.lat_deg) % BLOCK_DEG <= BLOCK_DEG - half


def test_sets_share_no_block_and_australia_is_apart(earth):
    blocks: dict[str, set[int]] = {}
    for where in SETS:
        patches = balanced(earth, np.random.default_rng(2), where, 8)
        blocks[where] = {next(patches).block for _ in range(60)}
    for one in SETS:
        for other in SETS:
            assert one == other or not blocks[one] & blocks[other]
    rng = np.random.default_rng(3)
    patch = earth.draw(rng, "australia", 0, 8)
    assert -50 <= patch.lat_deg <= 0
    assert 110 <= patch.lon_deg <= 160


def test_equal_seeds_give_equal_patches(earth):
    def drawn(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        patches = balanced(earth, rng, "train", 16)
        return [disturb(rng, next(patches).pixels).tobytes() for _ in range(12)]

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)


def test_intervals_come_from_blocks_and_few_blocks_give_none():
    # Ten alike patches in each of four blocks, one of them all wrong: no certainty at all.
    judged = [
        Judged(label=0, answer=int(block == 3), score=0.9, block=block)
        for block in range(4)
        for _ in range(10)
    ]
    judged += [Judged(label=1, answer=1, score=0.9, block=9)] * 5
    rows = recalls(judged)
    assert rows["water"]["recall"] == 0.75
    assert rows["water"]["low"] < 0.5
    assert rows["water"]["high"] == 1.0
    assert rows["forest"] == {"recall": 1.0, "patches": 5, "blocks": 1}
    assert [row[:2] for row in confusion(judged)[:2]] == [[30, 10], [0, 5]]


def test_page_shows_what_was_sent_and_refuses_what_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["landcover_page", str(tmp_path)])
    assert page_main() == 1
    assert "no patch" in capsys.readouterr().err
    for number, rank in enumerate((2, 1)):
        pixels = np.full((16, 16, 3), 90 * rank, np.uint8)
        (tmp_path / f"a-{number}.jxl").write_bytes(imagecodecs.jpegxl_encode(pixels))
        items = {"px": 16 * number, "py": 4, "rank": rank, "class": "<ice>", "score": 0.5}
        (tmp_path / f"a-{number}.json").write_text(json.dumps({"items": items}))
    assert page_main() == 0
    text = (tmp_path / "index.html").read_text()
    assert "2 patches" in text
    assert "&lt;ice&gt;" in text
    assert "<ice>" not in text
    assert text.index("1. &lt;ice") < text.index("2. &lt;ice")
    (tmp_path / "a-0.jxl").write_bytes(b"\xff\x0a broken")
    assert page_main() == 1
