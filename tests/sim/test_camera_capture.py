"""The capture string: what is read, what is refused and with which code."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.camera.capture import (
    MAX_EXPOSURE_US,
    MAX_IMAGES,
    CameraError,
    CameraType,
    CaptureRequest,
    RequestError,
    format_capture,
    parse_capture,
)

EXAMPLE = (
    "CAMERA_TYPE=VMB;CAMERA_ID=1800 U-2040c;NUM_IMAGES=10;EXPOSURE=55000;ISO=0;INTERVAL=55000;"
)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        (
            EXAMPLE,
            CaptureRequest(
                camera_id="1800 U-2040c", num_images=10, exposure_us=55000, interval_us=55000
            ),
        ),
        ("CAMERA_ID=rgb", CaptureRequest(camera_id="rgb")),
        (" CAMERA_TYPE = IR ; ", CaptureRequest(camera_type=CameraType.IR)),
        ("CAMERA_TYPE=TEST;;OBID=77;", CaptureRequest(camera_type=CameraType.TEST, obid=77)),
        ("ISO=12.5;PIPELINE_ID=3", CaptureRequest(gain_db=12.5, pipeline_id=3)),
        ("NUM_IMAGES=2;NUM_IMAGES=3", CaptureRequest(num_images=3)),
        ("UNKNOWN=1;X=;", CaptureRequest()),
        ("PIPELINE_ID=-1", CaptureRequest(pipeline_id=-1)),
        ("CAMERA_ID=a=b", CaptureRequest(camera_id="a=b")),
    ],
)
def test_capture_strings_are_read(text, request_):
    assert parse_capture(text) == request_


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", CameraError.EMPTY),
        ("  ; ;", CameraError.EMPTY),
        ("NUM_IMAGES", CameraError.PARSE),
        ("NUM_IMAGES=1;=5", CameraError.PARSE),
        ("CAMERA_ID=a\nb", CameraError.PARSE),
        ("CAMERA_TYPE=vmb", CameraError.CAMERA_TYPE),
        ("CAMERA_TYPE=", CameraError.CAMERA_TYPE),
        ("NUM_IMAGES=0", CameraError.NUMBER),
        ("NUM_IMAGES=-1", CameraError.NUMBER),
        (f"NUM_IMAGES={MAX_IMAGES + 1}", CameraError.NUMBER),
        ("NUM_IMAGES=1e3", CameraError.NUMBER),
        ("NUM_IMAGES=1_0", CameraError.NUMBER),
        ("NUM_IMAGES=٣", CameraError.NUMBER),
        ("NUM_IMAGES=" + "9" * 200, CameraError.NUMBER),
        (f"EXPOSURE={MAX_EXPOSURE_US + 1}", CameraError.NUMBER),
        ("EXPOSURE=", CameraError.NUMBER),
        ("ISO=nan", CameraError.NUMBER),
        ("ISO=inf", CameraError.NUMBER),
        ("ISO=-0.1", CameraError.NUMBER),
        ("ISO=bright", CameraError.NUMBER),
        ("OBID=2147483648", CameraError.NUMBER),
    ],
)
def test_bad_strings_have_their_code(text, code):
    with pytest.raises(RequestError) as caught:
        parse_capture(text)
    assert caught.value.code is code
    assert str(int(code)) in str(caught.value)


@given(
    st.builds(
        CaptureRequest,
        camera_id=st.text("abcXYZ 019-=", max_size=20).map(str.strip),
        camera_type=st.sampled_from(CameraType),
        num_images=st.integers(1, MAX_IMAGES),
        exposure_us=st.integers(0, MAX_EXPOSURE_US),
        gain_db=st.integers(0, 480).map(lambda tenths: tenths / 10),
        interval_us=st.integers(0, 3_600_000_000),
        pipeline_id=st.integers(-(2**31), 2**31 - 1),
        obid=st.integers(0, 2**31 - 1),
    )
)
def test_formatted_request_reads_back(request_):
    assert parse_capture(format_capture(request_)) == request_


@given(st.text(max_size=80))
def test_any_text_is_a_request_or_a_named_error(text):
    with contextlib.suppress(RequestError):
        assert isinstance(parse_capture(text), CaptureRequest)
