"""What holds for every shipped module and configuration file."""

from pathlib import Path

import kit
import numpy as np
import pytest

from dipp.config.codec import decode_module, decode_pipeline, encode_module, encode_pipeline
from dipp.config.yaml import parse_module, parse_pipeline
from dipp.sdk import ModuleError, Params

NAMES = sorted(kit.module_files())
# Those that process pictures; a module made to misbehave must not run in this process.
PEACEFUL = ("identity", "demosaic", "thumbnail", "cloud_cover", "jxl", "png")
CONFIGS = kit.FOLDER.parent / "configs"
RAW = np.random.default_rng(1).integers(60, 4000, (32, 48), dtype=np.uint16)


def test_the_modules_are_there():
    assert set(PEACEFUL) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_manifest_is_sound_and_named_like_its_file(name):
    module = kit.load(name)
    assert module.MANIFEST.problems() == []
    assert module.MANIFEST.name == name
    assert Params((), module.MANIFEST).problems() == []
    assert all(param.help for param in module.MANIFEST.params)


@pytest.mark.parametrize("name", PEACEFUL)
def test_rehearsal_runs_with_the_defaults(name):
    module = kit.load(name)
    if hasattr(module, "rehearse"):
        module.rehearse(Params((), module.MANIFEST))


@pytest.mark.parametrize("name", [name for name in PEACEFUL if name not in ("jxl", "png")])
def test_identity_fields_and_foreign_items_survive(name):
    meta = kit.describe(RAW, 12, items=(("note", "kept"),))
    (image,) = kit.run(name, [(RAW, meta)])
    assert (image.metadata.obid, image.metadata.timestamp) == (7, 1_744_407_764)
    assert image.metadata.camera == "rgb"
    assert image.items["note"] == "kept"


@pytest.mark.parametrize("name", [name for name in PEACEFUL if name != "identity"])
def test_encoded_image_is_error_1(name):
    meta = kit.describe(RAW, 12, items=(("enc", "jxl"),))
    with pytest.raises(ModuleError) as caught:
        kit.run(name, [(RAW, meta)])
    assert caught.value.code == 1


@pytest.mark.parametrize("name", PEACEFUL)
def test_metadata_that_lies_about_the_size_is_a_named_error(name):
    meta = kit.describe(RAW, 12).replace(width=4000)
    if name == "identity":
        kit.run(name, [(RAW, meta)])
        return
    with pytest.raises(ModuleError) as caught:
        kit.run(name, [(RAW, meta)])
    assert caught.value.code == 305


@pytest.mark.parametrize("name", NAMES)
def test_undeclared_range_and_type_are_refused(name):
    module = kit.load(name)
    codes = {"bool": 503, "int": 504, "float": 505, "string": 506}
    for param in module.MANIFEST.params:
        wrong = "text" if param.kind != "string" else 3
        (problem,) = Params([(param.key, wrong)], module.MANIFEST).problems()
        assert problem[0] == codes[param.kind]


def test_identity_passes_the_same_memory_on():
    meta = kit.describe(RAW, 12)
    (image,) = kit.run("identity", [(RAW, meta)])
    assert np.array_equal(image.pixels, RAW)
    assert image.to_ref().pixels.segment == 0


@pytest.mark.parametrize("path", sorted((CONFIGS / "pipelines").glob("*.yaml")), ids=str)
def test_pipeline_files_fit_a_slot_and_name_shipped_modules(path: Path):
    definition = parse_pipeline(path.read_text())
    slot = encode_pipeline(definition)
    assert len(slot) == 188
    decoded = decode_pipeline(slot)
    assert decoded is not None
    assert [step.name for step in decoded.modules] == [step.name for step in definition.modules]
    assert {step.name for step in definition.modules} <= set(NAMES)


@pytest.mark.parametrize("path", sorted((CONFIGS / "modules").glob("*.yaml")), ids=str)
def test_parameter_files_fit_a_slot_and_the_manifest(path: Path):
    config = parse_module(path.read_text())
    assert decode_module(encode_module(config)) == config
    module = kit.load(path.stem if path.stem in NAMES else path.stem.rsplit("_", 1)[0])
    assert Params(config.parameters, module.MANIFEST).problems() == []
    known = {param.key for param in module.MANIFEST.params}
    assert {key for key, _ in config.parameters} <= known
