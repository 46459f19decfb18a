"""Patches: where they lie, what they hold, and that they travel without needless copies."""

import kit
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.sdk import ModuleError


def colours(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def places(images) -> list[tuple[int, int]]:
    return [(image.items["py"], image.items["px"]) for image in images]


def test_full_frame_gives_99_patches_and_loses_equal_margins():
    frame = colours(2056, 2464)
    images = kit.run("patches", [(frame, kit.describe(frame))])
    rows, columns = range(20, 2036, 224), range(0, 2464, 224)
    assert places(images) == [(row, column) for row in rows for column in columns]
    for image, (row, column) in zip(images, places(images), strict=True):
        assert np.array_equal(image.pixels, frame[row : row + 224, column : column + 224])
        assert (image.metadata.width, image.metadata.height) == (224, 224)
        assert image.metadata.size == image.pixels.nbytes


def test_overlap_covers_the_last_rows_and_columns():
    frame = colours(100, 70)
    images = kit.run("patches", [(frame, kit.describe(frame))], size=32, overlap=True)
    assert places(images) == [(y, x) for y in (0, 32, 64, 68) for x in (0, 32, 38)]
    covered = np.zeros(frame.shape[:2], bool)
    for image, (row, column) in zip(images, places(images), strict=True):
        covered[row : row + 32, column : column + 32] = True
        assert np.array_equal(image.pixels, frame[row : row + 32, column : column + 32])
    assert covered.all()


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(16, 40),
    overlap=st.booleans(),
)
def test_patches_lie_inside_and_are_as_many_as_fit(height, width, size, overlap):
    frame = colours(height, width)
    images = kit.run("patches", [(frame, kit.describe(frame))], size=size, overlap=overlap)
    if min(height, width) < size:
        assert places(images) == [(0, 0)]
        assert np.array_equal(images[0].pixels, frame)
        return
    per_side = [n // size + (overlap and n % size > 0) for n in (height, width)]
    assert len(set(places(images))) == len(images) == per_side[0] * per_side[1]
    for image, (row, column) in zip(images, places(images), strict=True):
        part = frame[row : row + size, column : column + size]
        assert part.shape == (size, size, 3)
        assert np.array_equal(image.pixels, part)


def test_a_strip_as_wide_as_a_patch_travels_by_reference():
    strip = colours(100, 32)
    images = kit.run("patches", [(strip, kit.describe(strip))], size=32)
    assert places(images) == [(2, 0), (34, 0), (66, 0)]
    assert {image.to_ref().pixels.segment for image in images} == {0}


def test_patches_of_one_picture_are_copied_once_and_lie_side_by_side():
    frame = colours(64, 96)
    images = kit.run("patches", [(frame, kit.describe(frame))], size=32)
    refs = [image.to_ref().pixels for image in images]
    assert {ref.segment for ref in refs} == {1}
    starts = [ref.offset - refs[0].offset for ref in refs]
    assert starts == [number * 32 * 32 * 3 for number in range(6)]


@pytest.mark.parametrize(("kind", "bits"), [(np.uint16, 12), (np.float32, 32)])
def test_any_kind_of_sample_is_cut(kind, bits):
    frame = np.arange(40 * 50).reshape(40, 50).astype(kind)
    images = kit.run("patches", [(frame, kit.describe(frame, bits))], size=16)
    assert len(images) == 6
    assert images[0].metadata.bits_pixel == bits
    assert np.array_equal(images[0].pixels, frame[4:20, 1:17])


def test_items_are_kept_and_places_of_an_earlier_cut_replaced():
    frame = colours(48, 48)
    meta = kit.describe(frame, items=(("note", "kept"), ("px", 5), ("py", 6)))
    images = kit.run("patches", [(frame, meta)], size=48)
    assert images[0].items == {"note": "kept", "px": 0, "py": 0}
    assert (images[0].metadata.obid, images[0].metadata.camera) == (7, "rgb")


def test_no_image_gives_no_patch():
    assert kit.run("patches", []) == []


@pytest.mark.parametrize(
    ("items", "params", "code"),
    [
        ((("enc", "jxl"),), {}, 1),
        ((), {"size": 15}, 504),
        ((), {"size": 224.0}, 504),
        ((), {"overlap": 1}, 503),
    ],
)
def test_what_it_cannot_do_has_a_code(items, params, code):
    frame = colours(64, 64)
    with pytest.raises(ModuleError) as caught:
        kit.run("patches", [(frame, kit.describe(frame, items=items))], **params)
    assert caught.value.code == code


def test_more_patches_than_a_batch_holds_is_error_2():
    frame = np.zeros((2056, 2464), np.uint16)
    with pytest.raises(ModuleError) as caught:
        kit.run("patches", [(frame, kit.describe(frame, 12))], size=16)
    assert caught.value.code == 2


def test_metadata_that_lies_about_the_size_is_a_named_error():
    frame = colours(64, 64)
    with pytest.raises(ModuleError) as caught:
        kit.run("patches", [(frame, kit.describe(frame).replace(width=640))], size=16)
    assert caught.value.code == 305
