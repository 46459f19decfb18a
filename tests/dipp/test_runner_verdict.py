"""Verdicts, crash records, log tails and the check of results: pure judgement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.errors import Code, ContentError
from dipp.metadata import Metadata
from dipp.runner.frames import (
    ModuleDone,
    ModuleFailed,
    ModuleRaised,
)
from dipp.runner.tail import LogTail
from dipp.runner.validate import check_images
from dipp.runner.values import CRASH_RECORD_LIMIT_BYTES, CrashRecord, clip
from dipp.runner.verdict import Cut, Ending, judge
from dipp.workspace import ImageRef, SegmentRange

DONE = ModuleDone(batch_id=1, pipeline_id=1, images=())
RAISED = ModuleRaised(exception="ValueError", line=1, reason="")


@pytest.mark.parametrize(
    ("ending", "frames", "code"),
    [
        (Ending(), [DONE], Code.OK),
        (Ending(), [], Code.PIPE_EMPTY),
        (Ending(status=1), [], Code.EXIT_WITHOUT_CODE),
        (Ending(status=1), [RAISED], Code.EXIT_WITHOUT_CODE),
        (Ending(), [RAISED], Code.EXIT_WITHOUT_CODE),
        (Ending(status=1), [DONE], Code.EXIT_WITHOUT_CODE),
        (Ending(signal=11), [DONE], Code.SIGNAL),
        (Ending(status=1), [ModuleFailed(code=8, reason="")], 708),
        (Ending(status=1), [ModuleFailed(code=99, reason="")], 799),
        (Ending(status=1), [ModuleFailed(code=100, reason="")], 100),
        (Ending(signal=9), [ModuleFailed(code=8, reason="")], Code.SIGNAL),
        (Ending(status=1, native_code=8), [], 708),
        (Ending(status=1, native_code=513), [], 513),
        (Ending(status=0, native_code=8), [DONE], Code.OK),
        (Ending(), [DONE, DONE], Code.RESULT_INVALID),
        (Ending(), [None], Code.RESULT_INVALID),
        (Ending(), [None, DONE], Code.RESULT_INVALID),
        (Ending(cut=Cut.DEADLINE, signal=9), [DONE], Code.TIMEOUT),
        (Ending(cut=Cut.OPERATOR, signal=9), [], Code.OPERATOR_STOP),
    ],
)
def test_verdict(ending, frames, code):
    assert judge(ending, frames) == code


RECORD = CrashRecord(
    code=601,
    pipeline=1,
    module=2,
    name="demosaic",
    signal=0,
    exit_status=1,
    exception="ValueError",
    line=12,
    peak_rss_kb=100_000,
    cpu_ms=12,
    wall_ms=15,
    batch_id=1 << 60,
    module_hash=b"\x01" * 8,
    last_log="ValueError: no",
)
texts = st.text(max_size=200)


def test_crash_record_survives_a_parameter():
    data = RECORD.encode()
    assert CrashRecord.decode(data) == RECORD
    assert CrashRecord.decode(data.ljust(188, b"\0")) == RECORD


@given(
    code=st.integers(-1, 1 << 20),
    line=st.integers(-1, 1 << 40),
    rss=st.integers(0, 1 << 50),
    name=texts,
    exception=texts,
    last_log=texts,
)
def test_any_crash_record_fits(code, line, rss, name, exception, last_log):
    record = CrashRecord(
        code=code, line=line, peak_rss_kb=rss, name=name, exception=exception, last_log=last_log
    )
    data = record.encode()
    assert len(data) <= CRASH_RECORD_LIMIT_BYTES
    decoded = CrashRecord.decode(data)
    assert decoded.encode() == data
    assert decoded.last_log.isprintable()


def test_damaged_crash_records_are_refused_or_read():
    data = RECORD.encode()
    for end in range(len(data)):
        with pytest.raises(ContentError):
            CrashRecord.decode(data[:end])
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            CrashRecord.decode(bytes(flipped))
        except ContentError:
            continue


def test_clip_escapes_and_bounds():
    assert clip("a\x1b[2J\n", 100) == "a\\x1b[2J\\x0a"
    assert clip("é" * 10, 5) == "éé"


def test_tail_keeps_the_end_and_counts_all():
    tail = LogTail(10)
    for _ in range(3):
        tail.add(b"0123456789")
    tail.add(b"\nlast\n \n")
    assert tail.total_bytes == 38
    assert tail.text() == "89\nlast\n "
    assert tail.last_line() == "last"


def test_last_line_is_not_the_fault_handlers():
    tail = LogTail()
    tail.add(b"near the end\nFatal Python error: Aborted\n\nCurrent thread 0x1:\n")
    assert tail.last_line() == "near the end"


def test_a_fault_keeps_its_first_line_and_the_last_words_before_it():
    tail = LogTail(100)
    tail.add(b"near the end\nFatal Python ")
    tail.add(b"error: fault address 0x00\nFatal Python error: Segmentation fault\n")
    tail.add(b"  File x, line 3 in deeper\n" * 50)
    assert tail.last_line() == "near the end"
    assert tail.text().splitlines()[-1] == "Fatal Python error: fault address 0x00"
    assert len(tail.text()) < 150


def test_of_a_fault_only_the_innermost_frames_are_left():
    tail = LogTail()
    tail.add(b"hello\nFatal Python error: fault address 0x00\nFatal Python error: Bus error\n")
    frames = [f'  File "m.py", line {n} in run' for n in range(20)]
    tail.add("\n".join(frames).encode() + b"\nExtension modules: a, b\n")
    lines = tail.text().splitlines()
    assert [line for line in lines if "File" in line] == frames[:6]
    assert lines[0] == "hello"
    assert lines[-1] == "Fatal Python error: fault address 0x00"
    assert "Extension" not in tail.text()


META = Metadata(size=6, width=3, height=1, channels=1, bits_pixel=12)
SEGMENT = META.encode() + b"pixels"
END = len(META.encode())


def ref(meta_segment=0, offset=0, length=END, pixel_segment=0, pixel_offset=END, size=6):
    return ImageRef(
        meta=SegmentRange(segment=meta_segment, offset=offset, length=length),
        pixels=SegmentRange(segment=pixel_segment, offset=pixel_offset, length=size),
    )


def check(image, segment=SEGMENT, known=()):
    return check_images([image], [len(segment)], lambda p: segment[p.offset : p.end], known)


def test_good_image_gives_its_metadata():
    assert check(ref()) == (META,)


@pytest.mark.parametrize(
    "bad",
    [
        ref(meta_segment=1),
        ref(pixel_segment=1),
        ref(offset=1 << 40),
        ref(pixel_offset=END + 1),
        ref(size=7),
        ref(size=5),
        ref(length=END - 1),
        ref(length=1 << 20),
        ref(length=0),
    ],
)
def test_lies_about_ranges_are_603(bad):
    with pytest.raises(ContentError) as error:
        check(bad)
    assert error.value.code == Code.RESULT_INVALID


@pytest.mark.parametrize(
    "metadata",
    [
        META.replace(width=2**31 - 1),
        META.replace(height=100),
        META.replace(size=7),
        META.replace(items=(("a", 1), ("a", 1))),
    ],
)
def test_lies_in_metadata_are_603_unless_they_were_there_before(metadata):
    segment = metadata.encode() + b"pixels"
    image = ref(length=len(segment) - 6, pixel_offset=len(segment) - 6)
    with pytest.raises(ContentError) as error:
        check(image, segment)
    assert error.value.code == Code.RESULT_INVALID
    if metadata.size == 6:
        assert check(image, segment, [image]) == (metadata,)


def test_encoded_images_keep_their_dimensions():
    metadata = META.replace(width=1000, items=(("enc", "jxl"),))
    segment = metadata.encode() + b"pixels"
    image = ref(length=len(segment) - 6, pixel_offset=len(segment) - 6)
    assert check(image, segment) == (metadata,)


def test_segment_that_shrank_between_stat_and_read_is_603():
    with pytest.raises(ContentError, match="metadata has 3"):
        check_images([ref()], [len(SEGMENT)], lambda p: SEGMENT[:3], ())


def test_too_many_images():
    with pytest.raises(ContentError, match="at most"):
        check_images([ref()] * 4097, [len(SEGMENT)], lambda p: b"", ())


def test_records_are_values():
    assert replace(RECORD, code=600) != RECORD
