"""The modules one after the other on drawn scenes, in this process, and with every fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import cv2
import kit
import numpy as np
import pytest

from dipp.metadata import Metadata
from dipp.sdk import Image, ModuleError
from modules.aurora.aurora_cnn import MODELS
from modules.aurora.detections import Detection, listed
from modules.aurora.limb import Circle
from modules.aurora.picture import Scale, heat_map
from modules.aurora.planes import PIXEL_KM, Swath
from modules.common.tflite import Model
from tools.aurora_cases import make_disc
from tools.aurora_limb import box_overlap, moved
from tools.aurora_scene import DEFAULT, SHIFTED, Scene, scene

Pair = tuple[np.ndarray, Metadata]
WITH_AURORA, WITHOUT = 200_003, 200_001
CHAIN = ("emus_disc", "aurora_snr", "aurora_cnn", "aurora_fuse", "aurora_pack")


def swaths(drawn: Scene, **fields: object) -> list[Pair]:
    """Return the S images of a scene."""
    total = len(drawn.swaths)
    pairs = []
    for number, swath in enumerate(drawn.swaths, 1):
        items = {
            "fmt": "S9", "swath": number, "swaths": total, "mode": "os2", "alt_km": 3e4,
            "obs": f"2021-06-01T00:{20 * number:02d}:00.000", "ss_lon": 90.0,
        }  # fmt: skip
        wanted = {"obid": 7, "camera": "EMUS", "items": tuple(items.items()), **fields}
        pairs.append((swath.planes, kit.describe(swath.planes, 32, **wanted)))
    return pairs


def find(label: str, kind: str = "", config=DEFAULT, first: int = 200_000) -> Scene:
    """Return the first scene of a kind that is easy to tell."""
    for seed in range(first, first + 200):
        drawn = scene(seed, config)
        if drawn.label == label and kind in ("", drawn.kind) and (not kind or drawn.snr > 60):
            return drawn
    raise AssertionError(label)


@pytest.fixture(scope="module")
def bright() -> Scene:
    return find("aurora", "patchy")


@pytest.fixture(scope="module")
def dark() -> Scene:
    return find("none")


def run(names: Sequence[str], images: Sequence[Pair], **params: dict) -> list[Image]:
    """Run modules one after the other; what one gives the next one gets."""
    for name in names:
        results = kit.run(name, images, **params.get(name, {}))
        images = [
            (np.frombuffer(image.data, np.uint8) if image.is_encoded else image.pixels.copy(),
             image.metadata)
            for image in results
        ]  # fmt: skip
    return results


def test_an_aurora_is_found_and_one_small_mask_goes_down(bright):
    (mask,) = run(CHAIN, swaths(bright))
    assert mask.items["aurora_state"] == "aurora"
    assert mask.items["aurora_n"] == len(listed(mask.items)) > 0
    assert mask.items["enc"] == "png"
    assert mask.items["pack_bytes"] == len(mask.data) < 4000
    numbers = cv2.imdecode(np.frombuffer(mask.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert numbers.shape == (192, 192)
    assert numbers.max() == mask.items["aurora_n"]
    assert str(mask.items["algo"]).startswith("snr/1.1/-+cnn/1.1/")
    assert (mask.metadata.obid, mask.metadata.camera) == (7, "EMUS")
    assert mask.items["obs"] == "2021-06-01T00:20:00.000"
    top = listed(mask.items)[0]
    assert top.snr is not None
    assert top.snr > 6.5
    assert top.solar_zenith is not None
    assert top.solar_zenith > 90
    assert top.local_time == pytest.approx((12 + (top.longitude - 90) / 15) % 24, abs=0.02)
    x, y, width, height = top.box
    assert 128 <= x < x + width <= 512
    assert 38 <= y < y + height <= 422


def test_the_place_is_that_of_the_light(bright):
    disc, night, mask = run(("emus_disc", "aurora_snr"), swaths(bright))
    assert [image.items["fmt"] for image in (disc, night, mask)] == ["D6", "N6", "M1"]
    figures = listed(disc.items)[0]
    region = mask.pixels == 1
    rows, columns = np.nonzero(region)
    spot = disc.pixels[38 + 2 * rows, 128 + 2 * columns]
    assert spot[:, 4].min() - 1 <= figures.latitude <= spot[:, 4].max() + 1
    assert figures.pixels == 4 * region.sum()
    assert figures.area_km2 >= figures.pixels * PIXEL_KM**2


def test_a_quiet_night_has_none(dark):
    (mask,) = run(CHAIN, swaths(dark))
    assert mask.items["aurora_state"] in ("none", "no_night")
    assert not any(found.snr for found in listed(mask.items))


def test_a_diffuse_aurora_covers_the_night():
    drawn = find("aurora", "diffuse")
    (mask,) = run(CHAIN, swaths(drawn))
    (found,) = listed(mask.items)
    assert found.kind == "diffuse"
    assert found.mean_r > 3


def test_a_batch_without_images_stays_empty():
    for name in (*CHAIN, "aurora_heat", "aurora_mask", "aurora_gate"):
        assert kit.run(name, []) == []


def test_a_missing_swath_is_no_error(bright):
    pairs = swaths(bright)
    for kept in range(len(pairs)):
        (mask,) = run(CHAIN, [pairs[kept]])
        assert mask.items["aurora_state"] in ("aurora", "none", "no_night")


def test_a_swath_without_data_is_bad_data_not_an_error(bright):
    planes, meta = swaths(bright)[0]
    (mask,) = run(CHAIN, [(np.full_like(planes, np.nan), meta)])
    assert (mask.items["aurora_state"], mask.items["cover"]) == ("bad_data", 0.0)


def test_a_disc_in_full_daylight_has_no_night(bright):
    pairs = [(planes.copy(), meta) for planes, meta in swaths(bright)]
    for planes, _ in pairs:
        planes[..., Swath.SOLAR_ZENITH] = 40
    (mask,) = run(CHAIN, pairs)
    assert (mask.items["aurora_state"], mask.items["aurora_n"]) == ("no_night", 0)


def test_a_slit_of_192_pixels():
    drawn = scene(3, replace(SHIFTED, slit_pixels=(192,), binning_rate=0.0))
    assert drawn.swaths[0].planes.shape[1] == 192
    (disc,) = run(("emus_disc",), swaths(drawn))
    assert disc.items["cover"] > 0.9


def test_two_observations_in_one_batch_stay_apart(bright, dark):
    first = swaths(bright)
    discs = run(("emus_disc",), [*first, *swaths(dark, obid=8), *first])
    assert [disc.metadata.obid for disc in discs] == [7, 8, 7]
    np.testing.assert_array_equal(discs[0].pixels, discs[2].pixels)
    masks = run(CHAIN, [*first, *swaths(dark, obid=8)])
    assert [mask.metadata.obid for mask in masks] == [7, 8]
    assert masks[0].items["aurora_state"] == "aurora"


def test_a_size_that_does_not_fit_is_305(bright):
    planes, meta = swaths(bright)[0]
    with pytest.raises(ModuleError) as caught:
        kit.run("emus_disc", [(planes, replace(meta, height=meta.height + 1))])
    assert caught.value.code == 305
    with pytest.raises(ModuleError) as caught:
        kit.run("emus_disc", [(planes[..., :8], kit.describe(planes[..., :8], 32,
                                                             items=meta.items))])  # fmt: skip
    assert caught.value.code == 1


def test_a_swath_beyond_any_scan_is_2(bright):
    _, meta = swaths(bright)[0]
    planes = np.zeros((1 << 15, 2, 9), np.float32)
    with pytest.raises(ModuleError, match="no scan of EMUS") as caught:
        kit.run("emus_disc", [(planes, kit.describe(planes, 32, items=meta.items))])
    assert caught.value.code == 2


def test_a_disc_of_another_size_is_refused_by_the_detectors(bright):
    (disc,) = run(("emus_disc",), swaths(bright), emus_disc={"r_px": 150})
    with pytest.raises(ModuleError) as caught:
        kit.run("aurora_snr", [(disc.pixels.copy(), disc.metadata)])
    assert caught.value.code == 1


def test_other_pictures_pass_untouched():
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for name in ("emus_disc", "aurora_heat", "aurora_snr", "aurora_cnn", "aurora_fuse"):
        (image,) = kit.run(name, [(picture, kit.describe(picture))])
        np.testing.assert_array_equal(image.pixels, picture)


@pytest.mark.parametrize("rule", ["snr+", "snr", "cnn", "or", "and"])
def test_every_rule_gives_a_list_that_fits_its_mask(bright, rule):
    images = run(CHAIN[:4], swaths(bright), aurora_fuse={"rule": rule})
    mask = next(image for image in images if image.items["fmt"] == "M1")
    assert mask.items["by"] == "fuse"
    present = set(np.unique(mask.pixels).tolist()) - {0}
    assert present <= set(range(1, mask.items["aurora_n"] + 1))
    for number, found in enumerate(listed(mask.items), 1):
        assert rule not in ("snr", "and") or found.snr is not None
        assert rule not in ("cnn", "and") or found.score is not None
        assert number in present


def test_an_unknown_rule_and_a_missing_mask_are_named_errors(bright):
    images = run(CHAIN[:2], swaths(bright))
    pairs = [(image.pixels.copy(), image.metadata) for image in images]
    for given, params, code in ((pairs, {"rule": "xor"}, 2), (pairs[:1], {}, 3)):
        with pytest.raises(ModuleError) as caught:
            kit.run("aurora_fuse", given, **params)
        assert caught.value.code == code


def test_the_network_alone_describes_what_it_sees(bright):
    disc, night, mask = run(("emus_disc", "aurora_cnn"), swaths(bright))
    assert disc.items["algo"] == mask.items["algo"]
    assert mask.items["by"] == "cnn"
    assert night.items["fmt"] == "N6"
    assert all(found.snr is None and found.score for found in listed(disc.items))


def test_a_missing_or_damaged_model_is_error_2(tmp_path, bright):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes((MODELS / "aurora_unet.tflite").read_bytes()[:-100])
    (tmp_path / "damaged.json").write_text((MODELS / "aurora_unet.json").read_text())
    for name in (str(tmp_path / "none.tflite"), str(damaged)):
        with pytest.raises(ModuleError) as caught:
            kit.run("aurora_cnn", [], model=name)
        assert caught.value.code == 2


def test_another_shape_than_the_side_car_says_is_error_3(tmp_path):
    content = (MODELS / "aurora_unet.tflite").read_bytes()
    (tmp_path / "m.tflite").write_bytes(content)
    sidecar = json.loads((MODELS / "aurora_unet.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**sidecar, "channels": 3}))
    with pytest.raises(ModuleError) as caught:
        kit.run("aurora_cnn", [], model=str(tmp_path / "m.tflite"))
    assert caught.value.code == 3


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.tflite")), ids=lambda path: path.name)
def test_shipped_models_are_small_and_as_described(path):
    content = path.read_bytes()
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert len(content) < 200_000
    assert hashlib.sha256(content).hexdigest() == sidecar["sha256"]
    assert sidecar["threshold"] > 0


@pytest.fixture(scope="module")
def night(bright) -> list[Pair]:
    """Return what aurora_snr makes of the bright scene."""
    images = run(("emus_disc", "aurora_snr"), swaths(bright))
    return [(image.pixels.copy(), image.metadata) for image in images]


@pytest.mark.parametrize(
    ("name", "channels"), [("aurora_unet_int8", 4), ("aurora_unet3", 3), ("aurora_unet3_int8", 3)]
)
def test_every_shipped_model_is_used_when_asked_for_and_agrees(night, name, channels):
    default = kit.run("aurora_cnn", night)[-1]
    other = kit.run("aurora_cnn", night, model=f"{name}.tflite")[-1]
    digest = hashlib.sha256((MODELS / f"{name}.tflite").read_bytes()).hexdigest()
    assert other.items["algo"] == f"cnn/1.1/{digest[:8]}" != default.items["algo"]
    first, second = default.pixels > 0, other.pixels > 0
    assert (first & second).sum() > 0.6 * (first | second).sum() > 0
    model = Model(MODELS / f"{name}.tflite")
    assert model.input_shape == (1, 192, 192, channels)
    assert model.is_quantised == name.endswith("int8")


def test_more_than_sixteen_detections_are_counted(bright):
    from modules.aurora.detections import Summary

    one = Detection(kind="patchy", box=(1, 2, 3, 4), pixels=4, area_km2=1.0, mean_r=1.0, peak_r=2.0)
    many = [replace(one, snr=float(number)) for number in range(20)]
    items = Summary(state="aurora", algorithm="x", detections=many).items()
    assert (items["aurora_n"], items["aurora_more"], items["aurora_score"]) == (20, 4, 19.0)
    assert "aurora_16" not in items
    assert [found.snr for found in listed(items)] == [float(n) for n in range(19, 3, -1)]
    meta = kit.describe(np.zeros((2, 2), np.uint8), items=tuple(items.items()))
    assert Metadata.decode(meta.encode()).items == meta.items


def test_chips_and_pictures_of_the_detections(bright):
    images = run((*CHAIN[:2], "aurora_pack"), swaths(bright),
                 aurora_pack={"thumb": 64, "draw": True})  # fmt: skip
    sizes = [(image.metadata.width, image.metadata.height) for image in images]
    count = images[0].items["aurora_n"]
    assert sizes == [(192, 192), (640, 480), *([(64, 64)] * count)]
    decoded = cv2.imdecode(np.frombuffer(images[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (64, 64, 3)
    assert images[-1].items["chip"] == count - 1


# -- the recipe of the paper


def test_the_published_chain_keeps_and_drops_by_its_count(bright):
    disc, heat = (run(names, swaths(bright)) for names in (("emus_disc",), CHAIN[:1]))
    chain = ("emus_disc", "aurora_heat", "aurora_mask", "aurora_gate", "aurora_pack")
    (kept,) = run(chain, swaths(bright), aurora_gate={"annotate": True, "block": 31})
    assert isinstance(kept.items["gate_objects"], int)
    assert kept.items["gate_keep"] == (kept.items["gate_objects"] >= 2)
    none = run(chain[:4], swaths(bright), aurora_gate={"min_objects": 10_000})
    assert none == []
    assert disc[0].items["fmt"] == heat[0].items["fmt"] == "D6"


def test_heat_maps_are_white_without_data():
    radiance = np.array([[np.nan, 0.1], [10, 1000]], np.float32)
    picture = heat_map(radiance, Scale())
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 1].tolist() == [84, 1, 68]
    assert picture[1, 1].tolist() == [37, 231, 253]
    assert (heat_map(np.full((2, 2), np.nan, np.float32), Scale()) == 255).all()


@pytest.mark.parametrize(
    ("name", "params", "code"),
    [
        ("aurora_heat", {"scale": "log"}, 1), ("aurora_heat", {"lo_r": 900.0}, 2),
        ("aurora_gate", {"obj": "red"}, 2), ("aurora_gate", {"block": 10}, 3),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named_errors(name, params, code):
    with pytest.raises(ModuleError) as caught:
        kit.run(name, [], **params)
    assert caught.value.code == code


def test_the_disc_is_found_without_geometry():
    # All phases and scan patterns; the 200 pictures of the protocol are in tools/aurora_limb.py.
    for seed in range(200_000, 200_008):
        picture = heat_map(np.ascontiguousarray(make_disc(scene(seed))[..., 0]), Scale())
        other, truth = moved(picture, seed)
        other = np.ascontiguousarray(
            other[..., ::-1]
        )  # RGB, as pictures are that come from elsewhere
        (image,) = kit.run("aurora_mask", [(other, kit.describe(other))], find_disc=True)
        x, y, radius = (image.items[f"mars_{key}"] for key in "xyr")
        found = Circle(x=x, y=y, radius=radius, confidence=1.0)
        assert box_overlap(found, truth) > 0.6, seed
        assert image.metadata.channels == 4
        alpha = image.pixels[..., 3]
        assert (alpha[230, 151], alpha[230, 149], alpha[61, 320]) == (255, 0, 255)


def test_a_disc_darker_than_what_is_around_it_is_found():
    rows, columns = np.mgrid[:480, :640]
    distance = np.hypot(columns - 350, rows - 230)
    corona = 150 - 0.2 * (distance - 180)
    grey = np.where(distance < 180, 60, corona) + np.random.default_rng(1).normal(0, 8, (480, 640))
    picture = grey.clip(0, 250).astype(np.uint8)
    (image,) = kit.run("aurora_mask", [(picture, kit.describe(picture))], find_disc=True)
    x, y, radius = (image.items[f"mars_{key}"] for key in "xyr")
    found = Circle(x=x, y=y, radius=radius, confidence=1.0)
    assert box_overlap(found, Circle(x=350, y=230, radius=180, confidence=1.0)) > 0.75


def test_plain_pictures_of_other_sizes_and_grey_ones_are_masked():
    grey = np.zeros((200, 300), np.uint8)
    cv2.circle(grey, (160, 90), 70, 200, -1)
    (image,) = kit.run("aurora_mask", [(grey, kit.describe(grey))], find_disc=True)
    assert image.pixels.shape == (480, 640, 4)
    assert image.items["mars_r"] == pytest.approx(70, rel=0.15)
    # Without geometry a picture is never dropped, whatever the count.
    (gate,) = kit.run("aurora_gate", [(image.pixels.copy(), image.metadata)], min_objects=99)
    assert gate.items["gate_keep"] is False
    assert gate.items["algo"] == "image-only"
    assert "aurora_state" not in gate.items


def test_a_picture_from_elsewhere_keeps_its_colours_through_mask_and_pack():
    picture = np.full((480, 640, 4), 255, np.uint8)
    cv2.circle(picture, (320, 230), 170, (200, 120, 10, 255), -1)
    picture[:40, :, 3] = 0
    for channels in (3, 4):
        plain = np.ascontiguousarray(picture[..., :channels])
        images = run(("aurora_mask", "aurora_gate", "aurora_pack"), [(plain, kit.describe(plain))],
                     aurora_mask={"find_disc": True})  # fmt: skip
        decoded = cv2.imdecode(np.frombuffer(images[0].data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded[230, 320].tolist() == [10, 120, 200, 255]
    unmasked = np.ascontiguousarray(picture[..., :3])
    (packed,) = run(("aurora_pack",), [(unmasked, kit.describe(unmasked))])
    decoded = cv2.imdecode(np.frombuffer(packed.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded[230, 320].tolist() == [10, 120, 200]


def test_a_disc_with_geometry_is_not_looked_for(bright):
    kept = run(("emus_disc", "aurora_heat", "aurora_mask"), swaths(bright),
               aurora_mask={"find_disc": True})  # fmt: skip
    plain = run(("emus_disc", "aurora_heat", "aurora_mask"), swaths(bright))
    np.testing.assert_array_equal(kept[0].pixels, plain[0].pixels)
    assert "algo" not in kept[0].items
