"""Scenes and views: what part of the ground a frame shows, and in which colours."""

import hashlib

import cv2
import numpy as np
import pytest

from sim.camera.sensor import BAYER_GR
from sim.camera.view import Pointing, Scene, View, turn_of
from sim.errors import ContentError
from sim.scenes import SCENES, SceneInfo


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Scene:
    """A made-up scene: red grows to the right, green grows downwards, blue is constant."""
    path = tmp_path_factory.mktemp("scene")
    y, x = np.mgrid[0:120, 0:160]
    red, green = x + 40, y + 60
    bgr = np.dstack([np.full_like(x, 128), green, red]).astype(np.uint8)
    cv2.imwrite(str(path / "painted.png"), bgr)

    class Painted(SceneInfo):
        @property
        def path(self):
            return path / "painted.png"

    return Scene(
        Painted(
            name="painted", title="", lat_deg=0.0, lon_deg=0.0, gsd_m=100.0, full_scale=1.0,
            coverage=0.5, has_clouds=False,
        )
    )  # fmt: skip


def coded(mosaic: np.ndarray) -> np.ndarray:
    """Undo the square-law coding: values as they were painted."""
    return np.sqrt(mosaic) * 255


def test_shipped_scenes_are_the_pictures_the_table_says():
    assert sum(scene.path.stat().st_size for scene in SCENES) < 4_000_000
    for info in SCENES:
        scene = Scene(info)
        assert min(scene.height, scene.width) > 500
        # A real picture: many different values in every colour, and colours that differ.
        for plane in scene.planes:
            assert len(np.unique(plane)) > 100
        assert not np.array_equal(scene.planes[0], scene.planes[2])
    hashes = {hashlib.sha256(info.path.read_bytes()).hexdigest() for info in SCENES}
    assert len(hashes) == len(SCENES) >= 2
    assert {info.has_clouds for info in SCENES} == {True, False}


def test_missing_scene_is_a_named_error():
    info = SceneInfo(
        name="nowhere", title="", lat_deg=0, lon_deg=0, gsd_m=1, full_scale=1, coverage=1,
        has_clouds=False,
    )  # fmt: skip
    with pytest.raises(ContentError, match="nowhere"):
        Scene(info)


def test_mosaic_shows_each_colour_behind_its_filter(painted):
    view = View(centre_x=80, centre_y=60, scale=0.5)
    mosaic = coded(painted.mosaic(view, 80, 60))
    assert mosaic.shape == (60, 80)
    # Sensor pixel (row, column) lies over scene pixel centre + (offset from the middle) * scale.
    x = 80 + (np.arange(80) - 39.5) * 0.5 - 0.5
    y = 60 + (np.arange(60) - 29.5) * 0.5 - 0.5
    for row in (0, 1):
        for column in (0, 1):
            wanted = [
                np.broadcast_to(x + 40, (60, 80)),
                np.broadcast_to(y[:, None] + 60, (60, 80)),
                np.full((60, 80), 128.0),
            ][BAYER_GR[row][column]]
            part = np.s_[row::2, column::2]
            assert np.abs(mosaic[part] - wanted[part]).max() < 0.8


def test_reduced_mosaic_is_a_subset_of_the_full_one(painted):
    view = View(centre_x=70, centre_y=50, scale=0.5, turn_deg=10)
    full, reduced = painted.mosaic(view, 80, 60), painted.mosaic(view, 80, 60, step=4)
    cells = full.reshape(30, 2, 40, 2)[::4, :, ::4].reshape(16, 20)
    assert np.allclose(reduced, cells, atol=0.01)


def test_turned_view_turns_the_picture(painted):
    level = painted.brightness(View(centre_x=80, centre_y=60, scale=0.5), 40, 40)
    turned = painted.brightness(View(centre_x=80, centre_y=60, scale=0.5, turn_deg=90), 40, 40)
    # Green grows downwards; flying east, up is east, and south is on the right.
    assert level[-1].mean() > level[0].mean()
    assert turned[:, -1].mean() > turned[:, 0].mean()


@pytest.mark.parametrize(
    ("course", "turn"), [(0, 0), (8, 8), (172, -8), (188, 8), (352, -8), (89, 89), (91, -89)]
)
def test_up_in_a_picture_is_never_south(course, turn):
    assert turn_of(course) == pytest.approx(turn)


@pytest.mark.parametrize("lat", [-80.0, -25.0, -0.1, 0.0, 0.02, 40.0, 80.0])
@pytest.mark.parametrize("lon", [-179.0, 0.03, 77.0])
def test_view_stays_inside_the_scene_wherever_the_satellite_is(painted, lat, lon):
    view = painted.view(Pointing(lat_deg=lat, lon_deg=lon, course_deg=12), 80, 60)
    reach = view.scale * np.hypot(80, 60) / 2
    assert reach * 0.5 < view.centre_x < painted.width - reach * 0.5
    assert reach * 0.5 < view.centre_y < painted.height - reach * 0.5


def test_motion_along_the_track_moves_the_view_by_the_ground_speed(painted):
    start = Pointing(lat_deg=0.0, lon_deg=0.0, course_deg=0.0, ground_speed_m_s=7000.0)
    before = painted.view(start, 80, 60)
    after = painted.view(start.after(0.1), 80, 60)
    # 700 m north are 7 pixels of 100 m upwards.
    assert before.centre_y - after.centre_y == pytest.approx(7.0, rel=0.01)
    assert before.centre_x == pytest.approx(after.centre_x)
