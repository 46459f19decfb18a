"""`Image.copy` and `Image.edit`, which read a segment without mapping it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from dipp.batch import encode_batch, split_blocks
from dipp.errors import Code
from dipp.metadata import Metadata
from dipp.runner.executor import Completed, Limits
from dipp.runner.outcome import ref_of
from dipp.sdk import Batch, ModuleError
from dipp.testing import Harness, make_chain, no_leaks, segment
from dipp.workspace import ENCODING_ITEM, SeenImage, Workspace

KINDS = [(8, "u1"), (12, "<u2"), (16, "<u2"), (32, "<f4")]
SHAPES = [(5, 7), (5, 7, 3), (1, 1), (64, 33, 4)]


def make_image(bits, dtype, shape):
    """Return metadata and samples of which no two neighbours are the same."""
    channels = shape[2] if len(shape) == 3 else 1
    samples = (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)
    meta = Metadata(
        height=shape[0], width=shape[1], channels=channels, bits_pixel=bits, camera="test"
    )
    return meta, samples


def open_batch(data, *, scratch_bytes=1 << 16, reader=None):
    """Return a batch over a segment at hand, and its workspace."""
    space = Workspace(
        [data].__getitem__,
        1,
        memoryview(bytearray(1 << 16)),
        memoryview(bytearray(scratch_bytes)),
        reader,
    )
    # As a host says it: whoever gets it need not look at the segment for the metadata.
    refs = [ref_of(block) for block in split_blocks(data, 1, len(data))]
    seen = [SeenImage.of(ref, Metadata.decode(_part(data, ref.meta))) for ref in refs]
    return Batch(seen, space, 1, 1), space


def _part(data, place):
    return bytes(data)[place.offset : place.end]


@pytest.fixture
def image():
    meta, samples = make_image(12, "<u2", (5, 7))
    data = encode_batch([(meta, samples.tobytes())])
    return open_batch(data)[0].images[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "dtype"), KINDS)
def test_a_copy_is_the_image_and_is_its_owners(bits, dtype, shape):
    meta, samples = make_image(bits, dtype, shape)
    data = encode_batch([(meta, samples.tobytes())])
    batch, space = open_batch(data)
    image = batch.images[0]
    out = np.empty(shape, dtype)
    copies = [image.copy(), image.copy(out), image.copy()]
    assert copies[1] is out
    for copied in copies:
        assert (copied.dtype, copied.shape) == (np.dtype(dtype), shape)
        assert np.array_equal(copied, samples)
        assert not np.shares_memory(copied, image.pixels)
        copied[...] = 0
    assert not np.shares_memory(copies[0], copies[2])
    # What was done to them changed neither the image nor what will be its result.
    assert np.array_equal(image.pixels, samples)
    assert image.to_ref().pixels.segment == 0
    assert space.used_bytes == 0


@pytest.mark.parametrize(
    "out",
    [
        np.empty((5, 8), "<u2"),
        np.empty((7, 5), "<u2"),
        np.empty(35, "<u2"),
        np.empty((5, 7, 1), "<u2"),
        np.empty((5, 7), "u1"),
        np.empty((5, 7), "<i2"),
        np.empty((5, 7), ">u2"),
        np.empty((5, 7), "<f4"),
        np.empty((5, 14), "<u2")[:, ::2],
        np.empty((10, 7), "<u2")[::2],
        np.empty((7, 5), "<u2").T,
        np.asfortranarray(np.empty((5, 7), "<u2")),
    ],
    ids=lambda out: f"{out.dtype.str}-{out.shape}-{out.strides}",
)
def test_a_place_of_another_kind_is_refused_and_left_alone(image, out):
    out[...] = 9
    with pytest.raises(ValueError, match=r"out is .*, not uint16"):
        image.copy(out)
    assert (out == 9).all()
    assert image.copy().shape == (5, 7)


def test_without_scratch_memory_a_copy_is_private():
    meta, samples = make_image(16, "<u2", (5, 7))
    data = encode_batch([(meta, samples.tobytes())])
    batch, _ = open_batch(data, scratch_bytes=100)
    copies = [batch.images[0].copy() for _ in range(3)]
    copies[0][:] = 1
    assert np.array_equal(copies[1], samples)
    assert np.array_equal(copies[2], samples)


def test_a_copy_after_an_edit_is_of_what_was_edited(image):
    image.edit()[0, 0] = 4000
    copied = image.copy()
    assert copied[0, 0] == 4000
    copied[0, 0] = 1
    image.edit()[1, 1] = 3999
    assert (image.pixels[0, 0], image.copy()[1, 1]) == (4000, 3999)


@pytest.mark.parametrize("act", ["copy", "copy-out", "edit"])
@pytest.mark.parametrize("change", ["encoded", "size"])
def test_what_is_no_samples_is_305(act, change):
    meta, samples = make_image(12, "<u2", (5, 7))
    data = samples.tobytes()
    if change == "encoded":
        meta = meta.replace(items=((ENCODING_ITEM, "jxl"),))
    else:
        data = data[:-2]
    batch, space = open_batch(encode_batch([(meta, data)]))
    image = batch.images[0]
    with pytest.raises(ModuleError) as error:
        _ = image.edit() if act == "edit" else image.copy(samples if act == "copy-out" else None)
    assert error.value.code == Code.BATCH_INVALID
    assert space.used_bytes == 0


def test_a_reader_is_asked_once_per_copy_and_never_for_what_is_mapped():
    meta, samples = make_image(12, "<u2", (5, 7))
    data = encode_batch([(meta, samples.tobytes())])
    asked = []

    def read(place, target):
        asked.append(place)
        if is_short:
            # Some of it came, then the segment ended.
            target[:2] = b"\xff\xff"
            return False
        target[:] = data[place.offset : place.end]
        return True

    is_short = False
    batch, _ = open_batch(data, reader=read)
    image = batch.images[0]
    place = image.to_ref().pixels
    assert np.array_equal(image.copy(), samples)
    assert asked == [place]
    is_short = True
    # Then it is looked for the other way, and here found.
    assert np.array_equal(image.copy(), samples)
    assert asked == [place] * 2
    assert np.array_equal(image.pixels, image.copy())
    assert np.array_equal(image.edit(), samples)
    assert asked == [place] * 2


# -- the process tree


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def harness(scratch):
    with no_leaks(), Harness(Limits(workers=1, grace_s=0.5), str(scratch)) as running:
        yield running


@pytest.fixture
def module(tmp_path):
    def write(body, name="module", top=""):
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path = tmp_path / f"{name}.py"
        path.write_text(f"{IMPORTS}\n{top}\ndef run(batch, params):\n{lines}")
        return path

    return write


IMPORTS = "import os, time\nimport numpy as np"
NEGATE_A_COPY = """\
for image in list(batch):
    copied = image.copy()
    assert copied.flags.writeable
    copied[...] = 250 - copied
    out = np.empty(image.shape, image.dtype)
    assert np.array_equal(250 - image.copy(out), copied)
    image.edit()[...] = copied
"""
COPY_INTO_A_RESULT = """\
batch.images[:] = [
    image.derive(image.copy(batch.allocate(image.shape, image.dtype, zeroed=False)))
    for image in batch.images
]
for image in batch:
    image.edit()[...] += 1
"""


@pytest.mark.parametrize("is_alerted", [False, True])
@pytest.mark.parametrize("names", ["a", "ab", "aab", "bb"])
def test_copies_in_a_chain_are_right(harness, module, names, is_alerted):
    bodies = {"a": NEGATE_A_COPY, "b": COPY_INTO_A_RESULT}
    chain = make_chain(*(module(bodies[each], f"{each}{i}") for i, each in enumerate(names)))
    # More than one page, and no whole number of them.
    made = [make_image(*kind, (67, 61, 3)) for kind in KINDS]
    images = [(meta, samples.tobytes()) for meta, samples in made]
    data = encode_batch(images)
    with segment(data) as fd:
        for _ in range(2):
            if is_alerted:
                harness.run(chain, images).close()
                harness.prepare()
                harness.executor.alert(chain.pipeline_id, fd)
            job = harness.job(chain, fd, data, len(images))
            outcome = harness.loop.run_until(harness.executor.submit(job), 20)
            assert isinstance(outcome, Completed), outcome
            for (meta, samples), (found, pixels) in zip(made, outcome.images, strict=True):
                expected = samples.copy()
                for each in names:
                    expected = 250 - expected if each == "a" else expected + 1
                assert found.bits_pixel == meta.bits_pixel or "b" in names
                assert bytes(pixels) == expected.astype(samples.dtype).tobytes()
            assert os.pread(fd, len(data), 0) == data
            outcome.close()
            del pixels
    harness.settle()


WAIT = """\
    open('waiting', 'w').close()
    while not os.path.exists(os.path.join(os.path.dirname(__file__), 'go')):
        time.sleep(0.002)
"""
# What a module does before and after its input is shortened, and what may come of that. A mapping
# ends in a signal; a child that was alerted has one.
SHORTENED = [
    ("copies", "pass", "image.copy()", {Code.BATCH_INVALID}),
    ("edits", "pass", "image.edit()", {Code.BATCH_INVALID}),
    ("looks", "pass", "image.pixels.sum()", {Code.BATCH_INVALID}),
    ("has-copied", "image.copy()", "image.copy()", {Code.BATCH_INVALID}),
    ("has-looked", "image.pixels.sum()", "image.copy()", {Code.SIGNAL}),
    ("has-looked-and-edits", "image.pixels.sum()", "image.edit()", {Code.SIGNAL}),
]


@pytest.mark.parametrize("is_alerted", [False, True])
@pytest.mark.parametrize("left", ["nothing", "half"])
@pytest.mark.parametrize(
    ("before", "after", "codes"), [r[1:] for r in SHORTENED], ids=[r[0] for r in SHORTENED]
)
def test_a_shortened_input_is_a_named_failure(
    harness, module, scratch, tmp_path, before, after, codes, left, is_alerted
):
    meta, samples = make_image(16, "<u2", (256, 256))
    data = encode_batch([(meta, samples.tobytes())])
    body = f"image = batch.images[0]\n{before}\nwait()\n{after}"
    chain = make_chain(module(body, top=f"def wait():\n{WAIT}"), timeout_s=20)
    fd = os.memfd_create("test-input", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        if is_alerted:
            (tmp_path / "go").touch()
            harness.run_images(chain, [(meta, samples.tobytes())])
            (tmp_path / "go").unlink()
            harness.prepare()
            harness.executor.alert(chain.pipeline_id, fd)
        promise = harness.executor.submit(harness.job(chain, fd, data, 1))
        # As the forge sees it: scratch may be a file system of its own.
        seen = Path(f"/proc/{harness.forge_pid}/root{scratch}")
        while not list(seen.glob("*/*/*/waiting")) and not promise.done:
            harness.loop.tick(0.01)
        os.ftruncate(fd, 0 if left == "nothing" else len(data) // 2)
        (tmp_path / "go").touch()
        outcome = harness.loop.run_until(promise, 20)
    finally:
        os.close(fd)
    assert outcome.code in (codes | {Code.SIGNAL} if is_alerted else codes), outcome
    assert outcome.module_index == 1
    if outcome.code == Code.SIGNAL:
        assert outcome.crash.signal == signal.SIGBUS
    # The executor goes on, with a chain that has nobody waiting any more.
    ((_, pixels),) = harness.run_images(chain, [(meta, samples.tobytes())])
    assert pixels == samples.tobytes()
    harness.settle()
