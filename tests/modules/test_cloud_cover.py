"""Cloud cover on real scenes through the camera, and on composed pictures."""

import functools

import kit
import numpy as np
import pytest

from dipp.sdk import ModuleError
from sim.camera.sensor import Sensor
from sim.camera.view import Pointing, Scene
from sim.scenes import SCENES

BY_NAME = {info.name: info for info in SCENES}


@functools.cache
def sensor() -> Sensor:
    return Sensor(serial=1)


@functools.cache
def frame(name: str, exposure_us: int) -> np.ndarray:
    """Return a full raw frame of a scene; the same part of it every time."""
    scene, figures = Scene(BY_NAME[name]), sensor().figures
    pointing = Pointing(lat_deg=scene.info.lat_deg, lon_deg=scene.info.lon_deg, course_deg=8)
    view = scene.view(pointing, figures.width, figures.height)
    mosaic = scene.mosaic(view, figures.width, figures.height)
    return sensor().expose(mosaic, exposure_us=exposure_us, seed=1)


def raw_cover(name: str, exposure_us: int = 55_000, **params) -> float:
    words = frame(name, exposure_us)
    meta = kit.describe(words, 12, items=(("exposure_us", exposure_us), ("gain_db", 0.0)))
    (image,) = kit.run("cloud_cover", [(words, meta)], **params)
    return image.items["cloud_frac"]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        # No cloud in this picture; a town and bright fields must not count.
        ("itaipu", 0.0, 0.01),
        # Cumulus: 13 to 21 % by hand-set thresholds on the original.
        ("andros", 0.10, 0.25),
        # Altocumulus: the scene's own band says at least 15 %, by eye about half.
        ("gulf_clouds", 0.25, 0.60),
    ],
)
def test_known_scenes_are_judged_as_they_are(name, low, high):
    assert low <= raw_cover(name) <= high


def test_verdict_does_not_depend_on_the_exposure():
    covers = [raw_cover("gulf_clouds", exposure) for exposure in (20_000, 55_000)]
    assert covers[0] == pytest.approx(covers[1], abs=0.02)


def test_overexposed_frame_is_still_cloudy():
    assert raw_cover("gulf_clouds", 150_000) > 0.25
    assert raw_cover("itaipu", 150_000) < 0.02


def test_cloudy_pictures_are_dropped_above_the_limit_and_say_why(capfd):
    batch = [
        (frame("itaipu", 55_000), kit.describe(frame("itaipu", 55_000), 12, obid=1)),
        (frame("gulf_clouds", 55_000), kit.describe(frame("gulf_clouds", 55_000), 12, obid=2)),
    ]
    images = kit.run("cloud_cover", batch, drop_above=0.2)
    assert [image.metadata.obid for image in images] == [1]
    assert "cloud cover" in capfd.readouterr().err


def composed(share: float, colour=(200, 205, 210), ground=(30, 60, 25)) -> np.ndarray:
    """Return a made-up RGB picture: smooth cloud on the left, ground on the right."""
    rng = np.random.default_rng(2)
    picture = np.empty((240, 320, 3), np.float64)
    edge = round(320 * share)
    picture[:, :edge], picture[:, edge:] = colour, ground
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_composed_cloud_has_the_share_it_was_given(share):
    rgb = composed(share)
    (image,) = kit.run("cloud_cover", [(rgb, kit.describe(rgb))], brightness=0.5)
    assert image.items["cloud_frac"] == pytest.approx(share, abs=0.03)


def test_bright_sand_and_rough_town_are_no_cloud():
    sand = composed(0.5, colour=(230, 190, 110))
    (image,) = kit.run("cloud_cover", [(sand, kit.describe(sand))], brightness=0.5)
    assert image.items["cloud_frac"] < 0.02
    rng = np.random.default_rng(4)
    roofs = rng.choice([60, 220], size=(30, 40), p=[0.5, 0.5]).astype(np.uint8)
    town = np.repeat(np.dstack([np.kron(roofs, np.ones((8, 8), np.uint8))] * 3), 1, axis=0)
    (image,) = kit.run("cloud_cover", [(town, kit.describe(town))], brightness=0.5, texture=0.25)
    assert image.items["cloud_frac"] < 0.1


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_samples_that_are_no_light_give_finite_figures(rubbish):
    picture = np.full((64, 64, 3), 0.1, np.float32)
    picture[:32] = rubbish
    (image,) = kit.run("cloud_cover", [(picture, kit.describe(picture))])
    assert 0.0 <= image.items["cloud_frac"] <= 1.0
    assert 0.0 <= image.items["brightness"] <= 1.0


def test_running_it_twice_replaces_the_item():
    rgb = composed(0.5)
    meta = kit.describe(rgb, items=(("cloud_frac", 0.9),))
    (image,) = kit.run("cloud_cover", [(rgb, meta)], brightness=0.5)
    assert image.items["cloud_frac"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("shape", "bits", "params", "code"),
    [
        ((64, 64), 12, {"pattern": "??"}, 2),
        ((16, 64), 12, {}, 3),
        ((64, 64, 2), 8, {}, 4),
        ((64, 64), 12, {"drop_above": 2.0}, 505),
    ],
)
def test_what_it_cannot_judge_has_a_code(shape, bits, params, code):
    pixels = np.zeros(shape, np.uint16 if bits == 12 else np.uint8)
    with pytest.raises(ModuleError) as caught:
        kit.run("cloud_cover", [(pixels, kit.describe(pixels, bits))], **params)
    assert caught.value.code == code
