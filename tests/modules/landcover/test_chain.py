"""The land-cover pipelines in the real process tree: five modules, and the same as one."""

import itertools
import json
import shutil
from pathlib import Path

import imagecodecs
import kit
import numpy as np
import pytest

from dipp.check import Checker, Grade, samples
from dipp.inputs import FrameShape, load_images
from dipp.runfiles import FileRunner, load_chain
from dipp.runner.executor import Chain, Completed, Failed, ModuleStep
from dipp.sdk import ModuleError, Params
from modules.landcover import landcover_all
from modules.landcover.landcover import MODELS
from sim.camera.sensor import Sensor
from sim.camera.view import Pointing, Scene
from sim.scenes import SCENES

PIPELINES = kit.FOLDER.parent / "configs" / "pipelines"
SHAPE = FrameShape.parse("2464x2056", 12)
GENERATIONS = itertools.count(1)
STAGES = ["demosaic", "patches", "landcover", "select", "jxl"]


@pytest.fixture(scope="module")
def runner():
    with FileRunner() as running:
        yield running


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory) -> list[Path]:
    """Return full raw frames of two scenes as files, as a camera would leave them."""
    folder, sensor, files = tmp_path_factory.mktemp("frames"), Sensor(serial=1), []
    for number, info in enumerate(SCENES[:2], 1):
        scene, figures = Scene(info), sensor.figures
        pointing = Pointing(lat_deg=info.lat_deg, lon_deg=info.lon_deg, course_deg=8)
        view = scene.view(pointing, figures.width, figures.height)
        mosaic = scene.mosaic(view, figures.width, figures.height)
        words = sensor.expose(mosaic, exposure_us=55_000, seed=number)
        files.append(folder / f"{info.name}.raw")
        files[-1].write_bytes(words.astype("<u2").tobytes())
    return files


def chain(name: str, **overrides: tuple) -> Chain:
    """Return a shipped pipeline with its shipped parameters, some of them changed."""
    steps = [
        ModuleStep(
            index=step.index,
            name=step.name,
            path=step.path,
            params=(*overrides.get(step.name, ()), *step.params),
            timeout_s=60.0,
        )
        for step in load_chain(PIPELINES / f"{name}.yaml").steps
    ]
    return Chain(pipeline_id=1, generation=next(GENERATIONS), steps=tuple(steps))


def test_five_modules_and_one_give_equal_pictures(runner, raw_files):
    frames = [image for file in raw_files for image in load_images(file, SHAPE)]
    results = []
    for name in ("landcover", "landcover_merged"):
        outcome = runner.run(chain(name), frames)
        assert isinstance(outcome, Completed), outcome
        with_stages = [stage.name for stage in outcome.stages]
        assert with_stages == (STAGES if name == "landcover" else ["landcover_all"])
        assert all(stage.peak_rss_kb < 300_000 for stage in outcome.stages)
        results.append([(meta, bytes(data)) for meta, data in outcome.images])
        outcome.close()
    apart, merged = results
    # Two frames of 99 patches; a fifth, rounded up.
    assert len(apart) == len(merged) == 40
    for (meta, data), (other_meta, other_data) in zip(apart, merged, strict=True):
        assert meta == other_meta
        assert data == other_data
    assert sorted(meta.item("rank") for meta, _ in apart) == list(range(1, 41))


def test_pictures_are_the_patches_their_metadata_says(runner, raw_files):
    frames = load_images(raw_files[1], SHAPE)
    (full,) = kit.run(
        "demosaic",
        [(np.frombuffer(frames[0][1], "<u2").reshape(2056, 2464), frames[0][0])],
        stretch="balance",
    )
    outcome = runner.run(chain("landcover"), frames)
    assert isinstance(outcome, Completed), outcome
    try:
        assert len(outcome.images) == 20
        for meta, data in outcome.images:
            assert (meta.width, meta.height, meta.item("enc")) == (224, 224, "jxl")
            assert 0 <= meta.item("score") <= 1
            assert len(data) < meta.item("raw_size") / 3
            row, column = meta.item("py"), meta.item("px")
            patch = full.pixels[row : row + 224, column : column + 224].astype(float)
            decoded = imagecodecs.jpegxl_decode(bytes(data)).astype(float)
            assert 20 * np.log10(255 / np.sqrt(np.mean((patch - decoded) ** 2))) > 30
    finally:
        outcome.close()


def colour_frame(shape: tuple, bits: int, **fields):
    pixels = np.zeros(shape, np.uint8 if bits == 8 else np.uint16)
    return [(kit.describe(pixels, bits, size=pixels.nbytes, **fields), pixels.tobytes())]


@pytest.mark.parametrize(
    ("frame", "code", "module"),
    [
        # Wrong bits, odd size, encoded: refused by the first of the five.
        (colour_frame((16, 16), 8), 702, 1),
        (colour_frame((16, 17), 12), 706, 1),
        (colour_frame((16, 16, 3), 12), 702, 1),
        (colour_frame((16, 16), 12, items=(("enc", "jxl"),)), 701, 1),
    ],
)
def test_hostile_frames_end_with_the_same_error_in_both(runner, frame, code, module):
    apart, merged = (runner.run(chain(name), frame) for name in ("landcover", "landcover_merged"))
    assert isinstance(apart, Failed)
    assert isinstance(merged, Failed)
    assert (apart.code, apart.module_index) == (code, module)
    assert (merged.code, merged.module_index) == (code + 10 * module, 1)


def test_a_tiny_frame_is_one_patch(runner):
    results = []
    for name in ("landcover", "landcover_merged"):
        outcome = runner.run(chain(name), colour_frame((6, 8), 12))
        assert isinstance(outcome, Completed), outcome
        results.append([(meta, bytes(data)) for meta, data in outcome.images])
        outcome.close()
    assert results[0] == results[1]
    ((meta, _),) = results[0]
    assert (meta.width, meta.height, meta.item("px"), meta.item("rank")) == (8, 6, 0, 1)


def test_a_model_elsewhere_is_used_with_the_side_car_beside_it(runner, tmp_path):
    shutil.copy(MODELS / "landcover.tflite", path := tmp_path / "own.tflite")
    sidecar = json.loads((MODELS / "landcover.json").read_text())
    classes = [name.upper() for name in sidecar["classes"]]
    (tmp_path / "own.json").write_text(json.dumps({**sidecar, "classes": classes}))
    model = (("model", str(path)), ("least", 0.0))
    outcome = runner.run(chain("landcover", landcover=model), colour_frame((6, 8), 12))
    assert isinstance(outcome, Completed), outcome
    ((meta, _),) = outcome.images
    outcome.close()
    assert meta.item("class") in classes


def test_a_damaged_model_fails_while_it_is_loaded_and_the_next_batch_runs(runner, tmp_path):
    (path := tmp_path / "cut.tflite").write_bytes((MODELS / "landcover.tflite").read_bytes()[:-9])
    shutil.copy(MODELS / "landcover.json", tmp_path / "cut.json")
    model = (("model", str(path)),)
    frame = colour_frame((6, 8), 12)
    outcome = runner.run(chain("landcover", landcover=model), frame)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.module_index) == (703, 3)
    assert "is not the file its side-car describes" in outcome.crash.last_log
    outcome = runner.run(chain("landcover_merged", landcover_all=model), frame)
    assert isinstance(outcome, Failed)
    assert outcome.code == 733
    outcome = runner.run(chain("landcover"), frame)
    assert isinstance(outcome, Completed)
    outcome.close()


def test_errors_of_the_merged_module_name_the_part():
    errors = landcover_all.MANIFEST.errors
    assert errors[11].startswith("demosaic: ")
    assert errors[33].startswith("landcover: ")
    assert all(1 <= code <= 99 for code in errors)
    keys = [param.key for param in landcover_all.MANIFEST.params]
    assert len(keys) == len(set(keys))
    frame = np.zeros((16, 16), np.uint16)
    for params, code in (({"pattern": "ZZ"}, 13), ({"model": "/nowhere"}, 33), ({"size": 1}, 504)):
        with pytest.raises(ModuleError) as caught:
            kit.run("landcover_all", [(frame, kit.describe(frame, 12))], **params)
        assert caught.value.code == code


def test_merged_and_single_modules_have_the_same_parameters_in_the_shipped_files():
    apart = {
        step.name: Params(step.params, kit.load(step.name).MANIFEST)
        for step in chain("landcover").steps
    }
    (step,) = chain("landcover_merged").steps
    merged = Params(step.params, landcover_all.MANIFEST)
    assert {key: value for params in apart.values() for key, value in params.items()} == dict(
        merged
    )


@pytest.mark.parametrize("name", ["patches", "landcover", "select", "landcover_all"])
def test_modules_are_qualified(runner, name):
    step = ModuleStep(index=1, name=name, path=str(kit.module_files()[name]), timeout_s=60.0)
    kinds = ("raw mosaic, 12 bit", "colour, 8 bit", "two by two", "encoded and damaged")
    findings = Checker(step).check(runner, [each for each in samples() if each.name in kinds])
    assert [each for each in findings if each.grade is Grade.BAD] == []
