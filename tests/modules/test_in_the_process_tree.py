"""The shipped pipelines through the real forge, hosts and one-shot children, on full frames."""

import itertools
from pathlib import Path

import imagecodecs
import kit
import numpy as np
import pytest

from dipp.config.yaml import parse_module, parse_pipeline
from dipp.runner.executor import Chain, Completed, Failed, ModuleStep
from dipp.testing import Harness
from sim.camera.sensor import Sensor
from sim.camera.view import Pointing, Scene
from sim.scenes import SCENES

CONFIGS = Path(kit.FOLDER).parent / "configs"
# As the slots are named in the pipeline files.
GENERATIONS = itertools.count(1)
SLOTS = {1: "cloud_cover", 2: "demosaic", 3: "thumbnail", 4: "jxl", 5: "png", 6: "jxl_lossless"}


@pytest.fixture(scope="module")
def harness():
    with Harness() as running:
        yield running


@pytest.fixture(scope="module")
def frames():
    sensor = Sensor(serial=1)
    made = []
    for number, info in enumerate(SCENES[:2], 1):
        scene, figures = Scene(info), sensor.figures
        pointing = Pointing(lat_deg=info.lat_deg, lon_deg=info.lon_deg, course_deg=8)
        view = scene.view(pointing, figures.width, figures.height)
        words = sensor.expose(
            scene.mosaic(view, figures.width, figures.height), exposure_us=55_000, seed=number
        )
        meta = kit.describe(words, 12, obid=number, items=(("exposure_us", 55_000),))
        made.append((meta, words.tobytes()))
    return made


def chain(name: str, **overrides: tuple) -> Chain:
    """Return the chain of a shipped pipeline file with the shipped parameters."""
    definition = parse_pipeline((CONFIGS / "pipelines" / f"{name}.yaml").read_text())
    steps = []
    for index, step in enumerate(definition.modules, 1):
        params: tuple = overrides.get(step.name, ())
        if step.param_id in SLOTS:
            text = (CONFIGS / "modules" / f"{SLOTS[step.param_id]}.yaml").read_text()
            params += parse_module(text).parameters
        path = str(kit.FOLDER / f"{step.name}.py")
        steps.append(
            ModuleStep(index=index, name=step.name, path=path, params=params, timeout_s=30.0)
        )
    return Chain(pipeline_id=1, generation=next(GENERATIONS), steps=tuple(steps))


def test_earth_pipeline_makes_recognisable_pictures(harness, frames):
    outcome = harness.run(chain("earth"), frames)
    assert isinstance(outcome, Completed), outcome
    try:
        assert [stage.name for stage in outcome.stages] == ["cloud_cover", "demosaic", "jxl"]
        # Two frames in colour are 30 MB; nothing may come near the 512 MB of a module.
        assert all(stage.peak_rss_kb < 300_000 for stage in outcome.stages)
        for (meta, data), (_, raw) in zip(outcome.images, frames, strict=True):
            assert (meta.width, meta.height, meta.channels) == (2464, 2056, 3)
            assert meta.item("enc") == "jxl"
            assert meta.item("raw_size") == 2464 * 2056 * 3
            assert len(data) < 1_000_000
            rgb = imagecodecs.jpegxl_decode(bytes(data))
            grey = np.frombuffer(raw, "<u2").reshape(2056, 2464)[::2, ::2].astype(float)
            correlation = np.corrcoef(grey.ravel(), rgb[::2, ::2, 1].astype(float).ravel())[0, 1]
            assert correlation > 0.9
        clouds = [meta.item("cloud_frac") for meta, _ in outcome.images]
        assert clouds[0] < 0.01 < 0.1 < clouds[1]
    finally:
        outcome.close()


def test_dropped_pictures_leave_the_batch(harness, frames):
    images = harness.run_images(chain("quicklook", cloud_cover=(("drop_above", 0.05),)), frames)
    assert [meta.obid for meta, _ in images] == [1]
    assert max(images[0][0].width, images[0][0].height) == 512


def test_batch_may_end_empty(harness, frames):
    nothing = chain(
        "earth", cloud_cover=(("brightness", 0.0), ("whiteness", 3.0), ("drop_above", 0.0))
    )
    assert harness.run_images(nothing, frames[1:]) == []


def test_archive_keeps_every_bit(harness, frames):
    images = harness.run_images(chain("archive"), frames[:1])
    decoded = imagecodecs.jpegxl_decode(images[0][1])
    assert decoded.astype("<u2").tobytes() == frames[0][1]


def test_module_error_names_module_and_reason(harness, frames):
    outcome = harness.run(chain("earth", demosaic=(("pattern", "ZZ"),)), frames[:1])
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.module_index) == (703, 2)
    assert "ZZ" in outcome.log + outcome.crash.last_log
