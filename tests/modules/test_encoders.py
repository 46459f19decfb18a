"""Thumbnail, JPEG XL and PNG: sizes, error bounds, what they refuse."""

import cv2
import imagecodecs
import kit
import numpy as np
import pytest

from dipp.sdk import ModuleError
from sim.scenes import SCENES


def picture(height: int = 200, width: int = 300) -> np.ndarray:
    """Return a part of a real scene."""
    bgr = cv2.imread(str(SCENES[0].path))
    return np.ascontiguousarray(bgr[400 : 400 + height, 600 : 600 + width, ::-1])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        ((200, 300), 100, (67, 100)),
        ((300, 200), 100, (100, 67)),
        ((200, 300), 300, (200, 300)),
        ((200, 300), 4096, (200, 300)),
        ((8, 3000), 64, (1, 64)),
    ],
)
def test_thumbnail_keeps_the_aspect(size, max_size, expected):
    pixels = np.zeros((*size, 3), np.uint8)
    (image,) = kit.run("thumbnail", [(pixels, kit.describe(pixels))], max_size=max_size)
    assert image.pixels.shape[:2] == expected
    assert (image.items["full_height"], image.items["full_width"]) == size
    assert image.items["thumb"] is True


def test_thumbnail_averages_and_does_not_alias():
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    (image,) = kit.run("thumbnail", [(board, kit.describe(board))], max_size=64)
    assert np.abs(image.pixels.astype(int) - 127).max() <= 1


def test_thumbnail_of_a_real_picture_looks_like_it():
    full = picture(256, 256)
    (image,) = kit.run("thumbnail", [(full, kit.describe(full))], max_size=128)
    again = cv2.resize(image.pixels, (256, 256), interpolation=cv2.INTER_LINEAR)
    assert psnr(again, full) > 25


def test_thumbnail_can_go_ahead_of_the_full_picture():
    full = picture()
    images = kit.run("thumbnail", [(full, kit.describe(full))] * 2, max_size=64, keep=True)
    assert [image.pixels.shape[1] for image in images] == [64, 300, 64, 300]
    assert np.array_equal(images[1].pixels, full)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_thumbnail_keeps_the_kind_of_sample(kind):
    pixels = np.ones((64, 64), kind)
    (image,) = kit.run("thumbnail", [(pixels, kit.describe(pixels))], max_size=16)
    assert image.pixels.dtype == kind
    assert (image.pixels == 1).all()


@pytest.mark.parametrize(("distance", "floor_db"), [(0.3, 42), (1.0, 38), (3.0, 33)])
def test_jxl_error_is_bounded_by_the_distance(distance, floor_db):
    full = picture()
    (image,) = kit.run("jxl", [(full, kit.describe(full))], distance=distance)
    meta = image.metadata
    assert image.is_encoded
    assert (image.items["enc"], image.items["raw_size"]) == ("jxl", full.nbytes)
    assert (meta.width, meta.height, meta.channels, meta.size) == (300, 200, 3, len(image.data))
    decoded = imagecodecs.jpegxl_decode(bytes(image.data))
    assert psnr(decoded, full) > floor_db
    assert len(image.data) < full.nbytes / 2


def test_smaller_distance_means_more_bytes():
    full = picture()
    image = (full, kit.describe(full))
    sizes = [len(kit.run("jxl", [image], distance=d)[0].data) for d in (0.3, 1.0, 4.0)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", ["jxl", "png"])
@pytest.mark.parametrize(
    ("shape", "kind", "bits"),
    [
        ((20, 30), np.uint8, 8),
        ((20, 30), np.uint16, 16),
        ((20, 30), np.uint16, 12),
        ((20, 30, 3), np.uint8, 8),
        ((20, 30, 3), np.uint16, 16),
        ((20, 30, 4), np.uint8, 8),
    ],
)
def test_lossless_formats_keep_every_bit(name, shape, kind, bits):
    pixels = np.random.default_rng(3).integers(0, 1 << bits, shape).astype(kind)
    params = {"lossless": True} if name == "jxl" else {}
    (image,) = kit.run(name, [(pixels, kit.describe(pixels, bits))], **params)
    data = bytes(image.data)
    decoded = imagecodecs.jpegxl_decode(data) if name == "jxl" else imagecodecs.png_decode(data)
    assert np.array_equal(decoded.reshape(shape), pixels)
    assert image.items["enc"] == name


@pytest.mark.parametrize(
    ("name", "shape", "kind", "bits", "code"),
    [
        ("jxl", (16, 16), np.uint16, 12, 2),
        ("jxl", (16, 16), np.float32, 32, 3),
        ("jxl", (16, 16, 2), np.uint8, 8, 3),
        ("png", (16, 16), np.float32, 32, 2),
        ("png", (16, 16, 2), np.uint8, 8, 2),
    ],
)
def test_what_an_encoder_cannot_hold_has_a_code(name, shape, kind, bits, code):
    pixels = np.zeros(shape, kind)
    with pytest.raises(ModuleError) as caught:
        kit.run(name, [(pixels, kit.describe(pixels, bits))])
    assert caught.value.code == code


def test_a_thumbnail_of_twelve_bits_can_be_looked_at_as_bytes() -> None:
    frame = np.full((64, 96), 4095, np.uint16)
    frame[:, :48] = 1024
    (image,) = kit.run(
        "thumbnail", [(frame, kit.describe(frame, bits=12))], max_size=32, eight_bit=True
    )
    assert (image.pixels.dtype, image.metadata.bits_pixel) == (np.uint8, 8)
    assert (int(image.pixels[0, 0]), int(image.pixels[0, -1])) == (64, 255)
