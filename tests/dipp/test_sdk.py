"""What module authors see: views without copies, results by reference, named errors."""

from __future__ import annotations

import numpy as np
import pytest

from dipp.batch import encode_batch, split_blocks
from dipp.errors import Code
from dipp.metadata import Metadata
from dipp.sdk import REQUIRED, Batch, Image, Manifest, ModuleError, Param, Params, fail
from dipp.workspace import ImageRef, SegmentRange, Workspace

META = Metadata(
    height=2, width=3, channels=1, bits_pixel=12, obid=7, camera="rgb", items=(("gain", 2),)
)
PIXELS = np.arange(6, dtype=np.uint16).reshape(2, 3)


def make_batch(*images, arena_size=4096):
    data = encode_batch(images or [(META, PIXELS.tobytes())])
    count = len(images) or 1
    refs = [
        ImageRef(
            meta=SegmentRange(segment=0, offset=block.meta_offset, length=block.meta_size),
            pixels=SegmentRange(segment=0, offset=block.pixel_offset, length=block.pixel_size),
        )
        for block in split_blocks(data, count, len(data))
    ]
    space = Workspace.over([data], memoryview(bytearray(arena_size)))
    return Batch.from_refs(refs, space, pipeline_id=1, batch_id=5), space


def test_pixels_are_a_read_only_view_of_the_segment():
    batch, _ = make_batch()
    image = batch.images[0]
    assert np.array_equal(image.pixels, PIXELS)
    assert not image.pixels.flags.writeable
    assert np.shares_memory(image.pixels, np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, np.uint8), (1, np.uint8), (12, "<u2"), (16, "<u2"), (32, "<f4")]
)
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_bits_decide_the_type_and_channels_the_shape(bits, dtype, shape):
    channels = shape[2] if len(shape) == 3 else 1
    meta = META.replace(bits_pixel=bits, channels=channels)
    batch, _ = make_batch((meta, np.ones(shape, dtype).tobytes()))
    assert batch.images[0].pixels.shape == shape
    assert batch.images[0].pixels.dtype == np.dtype(dtype)


def test_unchanged_image_is_forwarded_by_reference():
    batch, space = make_batch()
    ref = batch.images[0].to_ref()
    assert ref.pixels.segment == ref.meta.segment == 0
    assert space.used_bytes == 0


def test_changed_metadata_leaves_the_pixels_where_they_are():
    batch, space = make_batch()
    batch.images[0].add_item("lat", 1.5)
    batch.images[0].update(camera="ir")
    ref = batch.images[0].to_ref()
    assert (ref.pixels.segment, ref.meta.segment) == (0, space.arena_index)
    decoded = Metadata.decode(space.view(ref.meta))
    assert (decoded.camera, decoded.item("lat"), decoded.item("gain")) == ("ir", 1.5, 2)


def test_edit_copies_once_and_leaves_the_input_alone():
    batch, space = make_batch()
    image = batch.images[0]
    original = bytes(image.data)
    image.edit()[0, 0] = 999
    image.edit()[1, 1] = 998
    assert image.pixels[0, 0] == 999
    assert image.pixels[1, 1] == 998
    assert image.to_ref().pixels.segment == space.arena_index
    assert bytes(space.view(SegmentRange(segment=0, offset=0, length=8)))[:4] != b""
    assert original == PIXELS.tobytes()


def test_allocated_array_becomes_a_result_without_copy():
    batch, space = make_batch()
    out = batch.allocate((4, 5, 3), np.uint8)
    used = space.used_bytes
    derived = batch.images[0].derive(out)
    out[:] = 7
    assert space.used_bytes == used
    assert (derived.metadata.height, derived.metadata.width) == (4, 5)
    assert (derived.metadata.channels, derived.metadata.bits_pixel) == (3, 8)
    assert derived.pixels.max() == 7
    assert derived.metadata.obid == 7


def test_contiguous_rows_of_the_input_are_forwarded_without_copy():
    batch, space = make_batch()
    half = batch.images[0].derive(batch.images[0].pixels[1:])
    assert space.used_bytes == 0
    assert half.metadata.size == 6
    assert half.metadata.bits_pixel == 12
    assert np.array_equal(half.pixels, PIXELS[1:])


def test_encoded_data_keeps_dimensions_and_names_the_format():
    batch, _ = make_batch()
    image = batch.images[0].derive(data=b"jxl!", encoding="jxl")
    assert image.is_encoded
    assert (image.metadata.size, image.metadata.width) == (4, 3)
    with pytest.raises(ModuleError) as error:
        _ = image.pixels
    assert error.value.code == Code.BATCH_INVALID
    assert not image.derive(PIXELS).is_encoded


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros(3, np.uint8), np.zeros((1,) * 4, "u1")])
def test_arrays_that_are_no_image_are_refused(bad):
    batch, _ = make_batch()
    with pytest.raises(TypeError, match="wanted uint8"):
        batch.images[0].derive(bad)


def test_full_arena_ends_with_100():
    batch, _ = make_batch(arena_size=64)
    with pytest.raises(ModuleError) as error:
        batch.allocate((65,), np.uint8)
    assert error.value.code == Code.MALLOC


def test_drop_and_replace_edit_the_list(capsys):
    batch, _ = make_batch((META, bytes(12)), (META, bytes(12)))
    first, second = batch.images
    for image in batch:
        if image is first:
            batch.drop(image, "too\ndark")
    assert batch.images == [second]
    assert batch.dropped == [(first, "too\ndark")]
    assert "too dark" in capsys.readouterr().err
    tiles = [second.derive(), second.derive()]
    batch.replace(second, *tiles)
    assert batch.images == tiles


@pytest.mark.parametrize(
    ("getter", "value", "code"),
    [
        ("item_bool", True, 507),
        ("item_int", 3, 508),
        ("item_float", 0.5, 509),
        ("item_string", "x", 510),
    ],
)
def test_items_by_type(getter, value, code):
    batch, _ = make_batch()
    image: Image = batch.images[0]
    with pytest.raises(ModuleError) as error:
        getattr(image, getter)("k")
    assert error.value.code == code
    image.add_item("k", value)
    assert getattr(image, getter)("k") == value
    with pytest.raises(ModuleError) as error:
        image.add_item("k", value)
    assert error.value.code == Code.METADATA_DUPLICATE
    image.set_item("k", 12345)
    assert image.items["k"] == 12345


def test_items_set_together_are_those_set_one_by_one():
    (together, *_), (one_by_one, *_) = make_batch()[0].images, make_batch()[0].images
    items = {"first": np.float32(0.1), "k": np.int64(3), "text": "x"}
    for image in (together, one_by_one):
        image.set_item("k", "old")
        image.set_item("last", True)
    together.set_items(items)
    for key, value in items.items():
        one_by_one.set_item(key, value)
    assert together.metadata.items == one_by_one.metadata.items
    assert together.metadata.items[-4:][0] == ("last", True)
    together.set_items({})
    assert together.metadata.items == one_by_one.metadata.items


@pytest.mark.parametrize("code", [0, 1, 99, 100, 700, 65535])
def test_fail_carries_the_code(code):
    with pytest.raises(ModuleError) as error:
        fail(code, "why")
    assert (error.value.code, error.value.reason) == (code, "why")


@pytest.mark.parametrize("code", [-1, 65536])
def test_fail_refuses_codes_that_no_status_can_hold(code):
    with pytest.raises(ValueError, match="not in"):
        fail(code)


@pytest.mark.parametrize(
    ("getter", "good", "wrong", "code"),
    [
        ("get_bool", True, 1, 503),
        ("get_int", 3, True, 504),
        ("get_float", 0.5, 1, 505),
        ("get_string", "a", 1.0, 506),
    ],
)
def test_params_without_manifest_behave_as_flown(getter, good, wrong, code):
    params = Params([("good", good), ("good", wrong), ("wrong", wrong)])
    assert getattr(params, getter)("good") == good
    assert getattr(params, getter)("missing", good) == good
    for key in ("wrong", "missing"):
        with pytest.raises(ModuleError) as error:
            getattr(params, getter)(key)
        assert error.value.code == code


MANIFEST = Manifest(
    "demo",
    "1.0",
    "for tests",
    params=(
        Param("mode", "string", "fast", "how"),
        Param("level", "int", 3, "how much", low=1, high=9),
        Param("scale", "float", REQUIRED, "factor"),
    ),
    errors={1: "never"},
)


def test_params_take_defaults_and_ranges_from_the_manifest():
    params = Params([("scale", 2.0)], MANIFEST)
    assert (params["mode"], params["level"], params["scale"]) == ("fast", 3, 2.0)
    assert params.problems() == []
    bad = Params([("level", 10), ("mode", 1)], MANIFEST)
    assert [code for code, _ in bad.problems()] == [506, 504, 505]


def test_manifest_lists_all_its_problems():
    assert MANIFEST.problems() == []
    broken = Manifest(
        "no/name",
        "1",
        "",
        params=(Param("a", "int", 1.5), Param("a", "blob")),  # type: ignore[arg-type]
        errors={100: "too large"},
        abi=2,
    )
    assert len(broken.problems()) == 7
