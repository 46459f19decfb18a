"""The classifier: plain cases, damaged models, and the model file that ships."""

import hashlib
import json
import shutil
from pathlib import Path

import kit
import numpy as np
import pytest

from dipp.sdk import ModuleError, Params
from modules.common.tflite import Model
from modules.landcover.landcover import MODELS, UNKNOWN, Network

SHIPPED = MODELS / "landcover.tflite"
SIDECAR = json.loads(SHIPPED.with_suffix(".json").read_text())
CLASSES = ("water", "forest", "grass", "crop", "bare", "ice")


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(Model(SHIPPED))


def plain(colour: tuple[int, int, int], grain: float = 3.0, size: int = 224) -> np.ndarray:
    """Return an even patch of a colour with a little grain."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0, grain, (size, size, 1))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def classify(pixels: np.ndarray, **params) -> dict:
    (image,) = kit.run("landcover", [(pixels, kit.describe(pixels))], **params)
    assert np.array_equal(image.pixels, pixels)
    assert image.to_ref().pixels.segment == 0
    return dict(image.items)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((8, 20, 60), "water"),
        ((22, 45, 10), "forest"),
        ((225, 190, 140), "bare"),
        ((250, 252, 255), "ice"),
    ],
)
def test_even_patches_of_typical_colour_are_named(colour, name):
    assert classify(plain(colour))["class"] == name


def test_score_is_the_best_of_all_and_below_the_least_the_class_is_unknown():
    items = classify(plain((8, 20, 60)), mix=True)
    assert 0.5 <= items["score"] <= 1.0
    best, percent = items["mix"].split()[0].split(":")
    assert (best, int(percent)) == (items["class"], round(100 * items["score"]))
    assert classify(plain((8, 20, 60)), least=1.0)["class"] == UNKNOWN


def test_scores_are_a_share_of_one_and_repeat_to_the_bit(network):
    patch = plain((90, 80, 60), grain=30)
    scores = network.scores(patch)
    assert scores.shape == (len(CLASSES),)
    assert scores.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(scores, network.scores(patch))


def test_network_sees_every_corner_and_channel(network):
    """A patch that is half water and half desert is judged by what is in it, not by its middle."""
    half = plain((8, 20, 60))
    half[:, 112:] = plain((225, 190, 140))[:, 112:]
    scores = [network.scores(each) for each in (plain((8, 20, 60)), half, half[..., ::-1])]
    assert not np.allclose(scores[0], scores[1], atol=1e-3)
    assert not np.allclose(scores[1], scores[2], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (223, 225), (512, 448)])
def test_pictures_of_other_sizes_are_resized(shape):
    picture = np.broadcast_to(np.array([8, 20, 60], np.uint8), (*shape, 3)).copy()
    assert classify(picture)["class"] == "water"


def test_no_image_gives_none():
    assert kit.run("landcover", []) == []


def test_items_are_kept_and_earlier_answers_replaced():
    pixels = plain((8, 20, 60))
    meta = kit.describe(pixels, items=(("class", "old"), ("note", "kept"), ("mix", "old:1")))
    (image,) = kit.run("landcover", [(pixels, meta)])
    assert set(image.items) == {"class", "note", "score"}
    assert (image.items["class"], image.items["note"]) == ("water", "kept")


@pytest.mark.parametrize(
    ("shape", "bits", "items", "code"),
    [
        ((8, 8, 3), 8, (("enc", "png"),), 1),
        ((8, 8), 8, (), 2),
        ((8, 8), 12, (), 2),
        ((8, 8, 4), 8, (), 2),
        ((8, 8, 3), 16, (), 2),
        ((8, 8, 3), 32, (), 2),
    ],
)
def test_what_it_cannot_judge_has_a_code(shape, bits, items, code):
    kind = np.float32 if bits == 32 else np.uint8 if bits == 8 else np.uint16
    pixels = np.zeros(shape, kind)
    with pytest.raises(ModuleError) as caught:
        kit.run("landcover", [(pixels, kit.describe(pixels, bits, items=items))])
    assert caught.value.code == code


# -- models


def load_code(path: Path, sidecar: object | None = SIDECAR) -> int:
    """Return the code that loading a model ends with."""
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    module = kit.load("landcover")
    with pytest.raises(ModuleError) as caught:
        module.load(Params([("model", str(path))], module.MANIFEST))
    return caught.value.code


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "empty"])
def test_a_damaged_model_is_refused_before_it_is_used(tmp_path, damage):
    content = bytearray(SHIPPED.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    changed = {"cut": content[:-1000], "longer": content + b"\0", "empty": b""}
    (path := tmp_path / "m.tflite").write_bytes(changed.get(damage, content))
    assert load_code(path) == 3


def test_a_missing_model_side_car_or_delegate_is_error_3(tmp_path):
    assert load_code(tmp_path / "none.tflite") == 3
    shutil.copy(SHIPPED, path := tmp_path / "m.tflite")
    assert load_code(path, sidecar=None) == 3
    assert load_code(path, sidecar=["no", "object"]) == 3
    module = kit.load("landcover")
    with pytest.raises(ModuleError) as caught:
        module.load(Params([("delegate", "/nowhere/lib.so")], module.MANIFEST))
    assert caught.value.code == 3


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["water", "land"]},
        {"classes": None},
        {"input": {"size": 192, "scale": 1.0, "offset": 0.0}},
        {"input": {"size": 224, "scale": "wide", "offset": 0.0}},
        {"input": None},
    ],
)
def test_a_side_car_that_does_not_fit_is_error_4(tmp_path, change):
    shutil.copy(SHIPPED, path := tmp_path / "m.tflite")
    assert load_code(path, {**SIDECAR, **change}) == 4


def test_shipped_model_is_the_one_described(network):
    content = SHIPPED.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SIDECAR["sha256"]
    assert len(content) < 5_000_000
    assert network.classes == CLASSES
    assert network.size == 224
    assert SIDECAR["topology"] == "MobileNetV2"
    assert SIDECAR["training"]["alpha"] == 1.0


def test_shipped_figures_are_of_regions_kept_apart():
    for where in ("test_plain", "test_disturbed"):
        recalls = SIDECAR["metrics"][where]["recalls"]
        assert set(recalls) == {*CLASSES, "mean"}
        for row in recalls.values():
            assert row["low"] <= row["recall"] <= row["high"]
            assert row["blocks"] >= 4
