"""PNG and JPEG files through `dipp run aurora_paper`, as a user has them who has no geometry."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dipp.cli import main
from modules.aurora.picture import Scale, heat_map
from tools.aurora_cases import make_disc
from tools.aurora_limb import moved
from tools.aurora_scene import scene


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    disc = make_disc(scene(200_003))
    return moved(heat_map(np.ascontiguousarray(disc[..., 0]), Scale()), 5)[0]


def test_plain_files_are_masked_counted_and_kept(tmp_path: Path, picture: np.ndarray) -> None:
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    clear = cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA)
    clear[(picture == 255).all(axis=2)] = 0
    half = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)
    files = {"a.jpg": picture, "b.png": picture, "c.png": grey, "d.png": clear, "e.png": half}
    for name, pixels in files.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    out = tmp_path / "out"
    paths = [str(tmp_path / name) for name in files]
    assert main(["run", "aurora_paper", *paths, "--out", str(out)]) == 0
    _, truth = moved(picture, 5)
    for stem, scale in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0), ("e", 0.5)):
        items = json.loads((out / f"{stem}.json").read_text())["items"]
        assert items["algo"] == "image-only"
        assert isinstance(items["gate_objects"], int)
        assert "aurora_state" not in items
        assert abs(items["mars_r"] / (truth.radius * scale) - 1) < 0.15
        masked = cv2.imread(str(out / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        assert masked.shape == (480, 640, 4)
        assert masked[230, 320, 3] == 255 > masked[5, 5, 3] == 0


def test_a_file_that_is_no_picture_is_refused_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_text("not a picture")
    assert main(["run", "aurora_paper", str(tmp_path / "x.png"), "--out", str(tmp_path)]) == 1
    assert "x.png" in capsys.readouterr().err
