"""Demosaicing: colours in the right place, known quality, modes that agree."""

import kit
import numpy as np
import pytest

from dipp.sdk import ModuleError

CELLS = {
    "GR": ((1, 0), (2, 1)),
    "RG": ((0, 1), (1, 2)),
    "BG": ((2, 1), (1, 0)),
    "GB": ((1, 2), (0, 1)),
}
LINEAR = {"stretch": "none", "gamma": 1.0, "black": 0}


def smooth_picture(height: int = 96, width: int = 128) -> np.ndarray:
    """Return a 12-bit RGB picture without anything finer than a Bayer cell."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (9 + c)) * np.cos(y / (12 - c)) for c in range(3)]
    return np.dstack([2000 + 1500 * wave for wave in waves]).astype(np.uint16)


def mosaic_of(rgb: np.ndarray, pattern: str) -> np.ndarray:
    mosaic = np.empty(rgb.shape[:2], np.uint16)
    for row in (0, 1):
        for column in (0, 1):
            colour = CELLS[pattern][row][column]
            mosaic[row::2, column::2] = rgb[row::2, column::2, colour]
    return mosaic


def psnr(a: np.ndarray, b: np.ndarray, top: float) -> float:
    # Without the border, where a bilinear filter has no neighbours.
    difference = (a.astype(float) - b.astype(float))[2:-2, 2:-2]
    return float(10 * np.log10(top**2 / np.mean(difference**2)))


def demosaic(words: np.ndarray, **params) -> np.ndarray:
    (image,) = kit.run("demosaic", [(words, kit.describe(words, 12))], **params)
    assert image.metadata.channels == 3
    assert image.metadata.size == image.pixels.nbytes
    return image.pixels


@pytest.mark.parametrize("pattern", CELLS)
@pytest.mark.parametrize("mode", ["8bit", "16bit", "deep"])
def test_smooth_picture_is_recovered(pattern, mode):
    rgb = smooth_picture()
    result = demosaic(mosaic_of(rgb, pattern), pattern=pattern, mode=mode, **LINEAR)
    top = 65535 if mode == "deep" else 255
    assert result.dtype == (np.uint16 if mode == "deep" else np.uint8)
    assert psnr(result, rgb * (top / 4095), top) > 42


@pytest.mark.parametrize("wrong", [p for p in CELLS if p != "GR"])
def test_wrong_pattern_is_plainly_worse(wrong):
    rgb = smooth_picture()
    assert psnr(demosaic(mosaic_of(rgb, "GR"), pattern=wrong, **LINEAR), rgb / 16.06, 255) < 30


@pytest.mark.parametrize(("colour", "place"), [(0, (0, 1)), (1, (0, 0)), (1, (1, 1)), (2, (1, 0))])
def test_default_pattern_is_gr(colour, place):
    words = np.zeros((16, 16), np.uint16)
    words[place[0] :: 2, place[1] :: 2] = 4095
    means = demosaic(words, **LINEAR).reshape(-1, 3).mean(axis=0)
    assert means.argmax() == colour


def test_modes_differ_by_one_step_at_most_without_a_curve():
    words = mosaic_of(smooth_picture(), "GR")
    fast, exact = (demosaic(words, mode=mode, **LINEAR).astype(int) for mode in ("8bit", "16bit"))
    assert np.abs(fast - exact).max() <= 1


def test_white_balance_makes_a_grey_card_grey():
    light = np.array([0.62, 1.0, 0.72]) * 2000 + 60
    words = mosaic_of(np.broadcast_to(light, (32, 32, 3)).astype(np.uint16), "GR")
    raw = demosaic(words, stretch="none", gamma=1.0)[8, 8].astype(int)
    assert np.ptp(raw) > 30
    balanced = demosaic(words, stretch="balance", gamma=1.0)[8, 8].astype(int)
    assert np.ptp(balanced) <= 2
    assert balanced[1] == pytest.approx(2000 / 4035 * 255, abs=1)


def test_percentile_stretch_uses_the_whole_range_of_each_colour():
    rgb = np.clip(smooth_picture(256, 256) // 8 + np.array([300, 200, 100]), 0, 4095)
    result = demosaic(mosaic_of(rgb.astype(np.uint16), "GR"), gamma=1.0)
    for colour in range(3):
        plane = result[..., colour]
        assert np.percentile(plane, 1) < 12
        assert np.percentile(plane, 99) > 243


def test_saturated_clouds_come_out_white_not_green():
    light = np.array([0.62, 1.0, 0.72])
    rgb = np.broadcast_to(light * 800, (256, 256, 3)).copy()
    # A third of the picture is so bright that every word is at its end.
    rgb[:85] = 4095
    result = demosaic(mosaic_of(rgb.astype(np.uint16), "GR"))
    assert (result[20, 20] == 255).all()


def test_even_picture_is_not_blown_up_into_noise():
    words = np.full((64, 64), 1000, np.uint16)
    words[::7, ::5] += 2
    assert demosaic(words, gamma=1.0).max() < 60


def test_gamma_brightens_the_middle_and_keeps_the_ends():
    rgb = np.zeros((8, 4096, 3), np.uint16) + np.arange(4096, dtype=np.uint16)[:, None]
    plain = demosaic(mosaic_of(rgb, "GR"), stretch="none", black=0, gamma=1.0)
    curved = demosaic(mosaic_of(rgb, "GR"), stretch="none", black=0, gamma=2.0)
    assert curved[4, 1024, 1] == pytest.approx(127, abs=2)
    assert plain[4, 1024, 1] == pytest.approx(64, abs=2)
    assert (curved[4, 4], curved[4, -4])[1].min() >= 254


def test_vignetting_is_undone():
    focal = 60.0
    y, x = np.mgrid[0:64, 0:96]
    light = 1 / (1 + ((x - 47.5) ** 2 + (y - 31.5) ** 2) / focal**2) ** 2
    words = (60 + 2000 * light).astype(np.uint16)
    params = {"stretch": "none", "gamma": 1.0}
    fallen = demosaic(words, **params)[2:-2, 2:-2].astype(int)
    flat = demosaic(words, focal_px=focal, **params)[2:-2, 2:-2].astype(int)
    assert np.ptp(fallen) > 40
    assert np.ptp(flat) <= 1


def test_items_say_what_was_done():
    words = np.full((64, 64), 4095, np.uint16)
    (image,) = kit.run("demosaic", [(words, kit.describe(words, 12))], pattern="RG")
    assert image.items["bayer"] == "RG"
    assert image.items["clipped"] == 1.0


@pytest.mark.parametrize(
    ("shape", "bits", "params", "code"),
    [
        ((16, 16), 12, {"pattern": "XX"}, 3),
        ((16, 16), 12, {"mode": "fast"}, 4),
        ((16, 16), 12, {"stretch": "more"}, 5),
        ((15, 16), 12, {}, 6),
        ((2, 16), 12, {}, 6),
        ((16, 16, 3), 12, {}, 2),
        ((16, 16), 32, {}, 2),
        ((16, 16), 12, {"gamma": 0.0}, 505),
        ((16, 16), 12, {"low_percent": 60.0}, 505),
        ((16, 16), 12, {"black": True}, 504),
    ],
)
def test_what_it_cannot_do_has_a_code(shape, bits, params, code):
    kind = np.float32 if bits == 32 else np.uint16
    pixels = np.zeros(shape, kind)
    with pytest.raises(ModuleError) as caught:
        kit.run("demosaic", [(pixels, kit.describe(pixels, bits))], **params)
    assert caught.value.code == code


def test_words_beyond_their_bits_do_no_harm():
    words = np.full((16, 16), 65535, np.uint16)
    for mode in ("8bit", "16bit", "deep"):
        result = demosaic(words, mode=mode, focal_px=20.0, **LINEAR)
        assert (result == np.iinfo(result.dtype).max).all()
