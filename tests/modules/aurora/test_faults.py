"""The fault cases of aurora.md 8 that need a chain in the real process tree, or many detections."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import kit
import numpy as np
import pytest

from dipp.config.yaml import parse_pipeline
from dipp.metadata import Metadata
from dipp.runner.executor import Chain, Completed, Failed, ModuleStep
from dipp.testing import Harness
from modules.aurora.detections import MAX_LISTED, listed
from modules.aurora.planes import (
    DISC_HEIGHT,
    DISC_PLANES,
    DISC_WIDTH,
    PIXEL_KM,
    Disc,
)
from tools.aurora_scene import DEFAULT, scene

GENERATIONS = itertools.count(1)
Pair = tuple[Metadata, bytes]
# A detector that is shot in the middle of its second image, as by the out-of-memory killer.
SHOT = """
import os, signal
from dipp.sdk import Manifest
from modules.aurora import aurora_snr

MANIFEST = Manifest("shot", "1", "is killed in its second image", params=aurora_snr.MANIFEST.params)
seen = []

def run(batch, params):
    inner = aurora_snr.detect
    def detect(cells, settings):
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(cells, settings)
    aurora_snr.detect = detect
    return aurora_snr.run(batch, params)
"""


@pytest.fixture(scope="module")
def harness():
    with Harness() as running:
        yield running


def chain(**paths: Path) -> Chain:
    """Return the shipped chain `aurora`; a path replaces the file of a module."""
    text = (kit.FOLDER.parent / "configs" / "pipelines" / "aurora.yaml").read_text()
    steps = [
        ModuleStep(
            index=index, name=step.name, params=(), timeout_s=30.0,
            path=str(paths.get(step.name, kit.module_files()[step.name])),
        )
        for index, step in enumerate(parse_pipeline(text).modules, 1)
    ]  # fmt: skip
    return Chain(pipeline_id=2, generation=next(GENERATIONS), steps=tuple(steps))


def swaths(seed: int, obid: int, numbers: tuple[int, ...] = (1, 2), total: int = 2) -> list[Pair]:
    coarse = replace(DEFAULT, slit_pixels=(64,), binning_rate=0.0)
    pairs = []
    for number, swath in zip(numbers, scene(seed, coarse).swaths, strict=True):
        items = {
            "fmt": "S9", "swath": number, "swaths": total, "mode": "os2",
            "obs": f"2021-06-01T00:{20 * number:02d}:00.000",
        }  # fmt: skip
        meta = kit.describe(swath.planes, 32, obid=obid, camera="EMUS", items=tuple(items.items()))
        pairs.append((meta, swath.planes.tobytes()))
    return pairs


def test_a_module_killed_in_mid_image_fails_its_batch_and_the_next_one_passes(harness, tmp_path):
    (tmp_path / "shot.py").write_text(SHOT)
    batch = [*swaths(199, 1), *swaths(48, 2)]
    outcome = harness.run(chain(aurora_snr=tmp_path / "shot.py"), batch)
    assert isinstance(outcome, Failed), outcome
    # Module 2, ended by signal 9.
    assert (outcome.module_index, outcome.crash.signal) == (2, 9)
    again = harness.run(chain(), batch)
    assert isinstance(again, Completed), again
    states = [(meta.obid, meta.item("aurora_state")) for meta, _ in again.images]
    again.close()
    assert states == [(1, "aurora"), (2, "aurora")]


def test_two_of_three_swaths_make_a_disc_with_what_they_saw():
    pairs = [
        (np.frombuffer(data, np.float32).reshape(meta.height, meta.width, 9), meta)
        for meta, data in swaths(199, 1, numbers=(1, 3), total=3)
    ]
    (both,) = kit.run("emus_disc", pairs)
    (one,) = kit.run("emus_disc", pairs[:1])
    assert both.items["obs"] == "2021-06-01T00:20:00.000"
    assert 0.3 < one.items["cover"] < both.items["cover"]


def test_more_than_sixteen_spots_on_one_night_are_counted_and_the_strongest_listed():
    disc = np.empty((DISC_HEIGHT, DISC_WIDTH, DISC_PLANES), np.float32)
    rows, columns = np.mgrid[:DISC_HEIGHT, :DISC_WIDTH]
    disc[..., Disc.RADIANCE] = 1 + np.random.default_rng(3).normal(0, 0.3, disc.shape[:2])
    disc[..., Disc.ERROR], disc[..., Disc.SOLAR_ZENITH] = 0.3, 130
    slant = np.hypot((columns - 320) / 170, (rows - 230) / 170).clip(0, 0.999)
    disc[..., Disc.EMISSION] = np.degrees(np.arcsin(slant))
    disc[..., Disc.LATITUDE], disc[..., Disc.LONGITUDE] = rows / 8, columns / 4
    spots = [(230 + 48 * y, 320 + 48 * x) for y in range(-2, 3) for x in range(-2, 3)]
    for number, (row, column) in enumerate(spots):
        square = (rows - row) ** 2 + (columns - column) ** 2
        disc[..., Disc.RADIANCE] += (6 + number) * np.exp(-square / 40)
    meta = kit.describe(disc, 32, items=(("fmt", "D6"), ("px_km", PIXEL_KM)))
    image, _, mask = kit.run("aurora_snr", [(disc, meta)], diffuse_r=50.0)
    assert image.items["aurora_n"] == len(spots) == mask.pixels.max()
    assert image.items["aurora_more"] == len(spots) - MAX_LISTED
    found = listed(image.items)
    assert len(found) == MAX_LISTED
    assert [each.snr for each in found] == sorted((each.snr for each in found), reverse=True)
    assert f"aurora_{MAX_LISTED}" not in image.items
    assert Metadata.decode(mask.metadata.encode()).items == mask.metadata.items
