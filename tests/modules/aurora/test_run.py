"""FITS files through `dipp run`: grouping, the real process tree, pictures, tables and the page."""

from __future__ import annotations

import csv
import datetime
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dipp.cli import main
from dipp.errors import ContentError
from dipp.inputs import FrameShape, group_inputs, load_images
from tools.aurora_scene import DEFAULT, scene
from tools.aurora_synth import write_scene

PIPELINES = Path(__file__).resolve().parents[3] / "configs" / "pipelines"
SHAPE = FrameShape(width=1, height=1)
START = datetime.datetime(2021, 6, 1, tzinfo=datetime.UTC)
# Coarse scans: small files and a quick test.
COARSE = replace(DEFAULT, slit_pixels=(64,), binning_rate=0.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return the files of a scene with a clear aurora and of one without."""
    out = tmp_path_factory.mktemp("emus")
    found: dict[str, list[Path]] = {}
    for seed in range(200):
        drawn = scene(seed, COARSE)
        name = "none" if drawn.label == "none" else drawn.kind if drawn.snr > 100 else ""
        if name in ("none", "patchy") and name not in found and len(drawn.swaths) > 1:
            start = START + datetime.timedelta(days=seed)
            found[name] = write_scene(drawn, out, start)
        if len(found) == 2:
            break
    return found


def test_swaths_of_an_observation_are_one_batch(files):
    first, second = files["patchy"], files["none"]
    mixed = [second[-1], Path("picture.png"), *reversed(first), *second[:-1]]
    groups = group_inputs(mixed)
    assert groups[0] == (Path("picture.png"),)
    assert set(groups[1:]) == {tuple(first), tuple(second)}


def test_a_swath_is_an_image_of_nine_planes(files):
    path = files["patchy"][0]
    ((metadata, data),) = load_images(path, SHAPE)
    planes = np.frombuffer(data, "<f4").reshape(metadata.height, metadata.width, 9)
    assert metadata.size == len(data) == planes.nbytes
    assert (metadata.bits_pixel, metadata.camera, metadata.channels) == (32, "EMUS", 9)
    assert metadata.item("fmt") == "S9"
    assert metadata.item("swath") == 1
    assert str(metadata.item("obs")).endswith("T00:00:00.000")
    assert metadata.obid == int(path.name.split("_")[4])
    assert datetime.datetime.fromtimestamp(metadata.timestamp, datetime.UTC).hour == 0


def test_a_damaged_file_is_305(tmp_path, files):
    path = tmp_path / files["none"][0].name
    path.write_bytes(files["none"][0].read_bytes()[:3000])
    with pytest.raises(ContentError) as caught:
        load_images(path, SHAPE)
    assert caught.value.code == 305
    assert (
        main(["run", str(PIPELINES / "aurora_lite.yaml"), str(path), "--out", str(tmp_path)]) == 1
    )


@pytest.mark.parametrize("pipeline", ["aurora", "aurora_lite"])
def test_the_shipped_chains_in_the_process_tree(tmp_path, files, pipeline, capfd):
    paths = [str(path) for path in (*files["patchy"], *files["none"])]
    status = main(["run", str(PIPELINES / f"{pipeline}.yaml"), *paths, "--out", str(tmp_path)])
    assert status == 0, capfd.readouterr().err
    listing = json.loads((tmp_path / "detections.json").read_text())
    states = {entry["files"][0]: entry["state"] for entry in listing}
    assert states[files["patchy"][0].name] == "aurora"
    assert states[files["none"][0].name] in ("none", "no_night")
    with (tmp_path / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(entry["detections"]) for entry in listing) > 0
    assert len(list(tmp_path.glob("*-view.png"))) == 2
    page = (tmp_path / "index.html").read_text()
    assert all(path.name in page for path in files["patchy"])
    chips = [path for path in tmp_path.glob("*-[1-9].png") if "view" not in path.name]
    assert bool(chips) == (pipeline == "aurora_lite")


def test_the_recipe_of_the_paper_runs_and_may_drop_everything(tmp_path, files):
    paths = [str(path) for path in files["patchy"]]
    arguments = ["run", str(PIPELINES / "aurora_paper.yaml"), *paths, "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert (tmp_path / "index.html").exists()
