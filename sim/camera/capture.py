"""The request language of the camera: capture strings, settings and error codes.

A capture string is `KEY=value;` pairs, for example `CAMERA_TYPE=VMB;NUM_IMAGES=10;EXPOSURE=55000;`.
Blanks around keys and values do not count, unknown keys are ignored, of repeated keys the last
counts. Unlike the flown parser OBID is read (defect D24). Source: dipp.md 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from sim.errors import ContentError

# One segment holds all images of a capture; 20 full frames are 200 MB, a tenth of the board's RAM.
MAX_IMAGES = 20
MAX_EXPOSURE_US = 1_000_000
MAX_GAIN_DB = 48.0
# An hour between two images of one batch is a mistake, and the camera would be busy all the while.
MAX_INTERVAL_US = 3_600_000_000
INT32_MAX = 2**31 - 1


class CameraError(IntEnum):
    """Values of `error_log`: number, meaning. Source: dipp.md 16."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> CameraError:
        """Make the enum member carry its row."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    OK = 0, "no error"
    PARSE = 100, "capture string is not KEY=value; pairs"
    CAMERA_TYPE = 101, "camera type is not VMB, IR, TEST or EMUS"
    ID_MISSING = 102, "camera id missing (never raised)"
    NUMBER = 103, "number of images, or another number, is not valid"
    EMPTY = 104, "capture string is empty"
    CAPTURE = 200, "capture failed"
    NO_CAMERAS = 201, "no camera is connected"
    NOT_FOUND = 202, "camera of that id is not connected"
    QUEUE = 300, "batch could not be announced: queue missing or full"
    SEGMENT = 301, "no shared memory segment could be made"
    INSERT = 302, "images could not be written to the segment"


class RequestError(ContentError):
    """A capture was refused or failed; `code` goes to `error_log`."""

    def __init__(self, code: CameraError, reason: str) -> None:
        super().__init__(f"{code.value} {code.meaning}: {reason}")
        self.code = code


class CameraType(Enum):
    """Kinds of cameras, by the name in the capture string."""

    VMB = "VMB"
    IR = "IR"
    TEST = "TEST"
    EMUS = "EMUS"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """What to take. `exposure_us` 0 is automatic, `obid` 0 means that the camera allocates one."""

    camera_id: str = ""
    camera_type: CameraType = CameraType.VMB
    num_images: int = 1
    exposure_us: int = 0
    gain_db: float = 0.0
    interval_us: int = 0
    pipeline_id: int = 1
    obid: int = 0


def parse_capture(text: str) -> CaptureRequest:
    """Read a capture string. Raises RequestError with code 100, 101, 103 or 104."""
    values: dict[str, object] = {}
    pairs = [pair.strip() for pair in text.split(";")]
    if not any(pairs):
        raise RequestError(CameraError.EMPTY, "nothing to do")
    for pair in filter(None, pairs):
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise RequestError(CameraError.PARSE, f"{pair!r} is not KEY=value")
        row = _KEYS.get(key.strip())
        if row is not None:
            field, read = row
            values[field] = read(value.strip())
    return CaptureRequest(**values)  # type: ignore[arg-type]


def format_capture(request: CaptureRequest) -> str:
    """Return the capture string that `parse_capture` reads back."""
    exponent_free = f"{request.gain_db:f}".rstrip("0").rstrip(".")
    return (
        f"CAMERA_TYPE={request.camera_type.value};CAMERA_ID={request.camera_id};"
        f"NUM_IMAGES={request.num_images};EXPOSURE={request.exposure_us};ISO={exponent_free};"
        f"INTERVAL={request.interval_us};PIPELINE_ID={request.pipeline_id};OBID={request.obid};"
    )


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        # isdigit would take digits of other scripts, int takes underscores.
        if not text.isascii() or not text.removeprefix("-").isdigit():
            raise RequestError(CameraError.NUMBER, f"{text!r} is not a whole number")
        # Nothing allowed has more than ten digits, and int takes quadratic time in a long one.
        number = int(text) if len(text) <= 11 else high + 1
        if not low <= number <= high:
            raise RequestError(CameraError.NUMBER, f"{text} is not {low}..{high}")
        return number

    return read


def _gain(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise RequestError(CameraError.NUMBER, f"ISO {text!r} is not a number") from None
    if not math.isfinite(value) or not 0 <= value <= MAX_GAIN_DB:
        raise RequestError(CameraError.NUMBER, f"ISO {text} is not 0..{MAX_GAIN_DB:g} dB")
    return value


def _camera_type(text: str) -> CameraType:
    try:
        return CameraType(text)
    except ValueError:
        raise RequestError(CameraError.CAMERA_TYPE, repr(text)) from None


def _name(text: str) -> str:
    if not text.isprintable():
        raise RequestError(CameraError.PARSE, f"camera id {text!r} is not printable")
    return text


_KEYS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "CAMERA_ID": ("camera_id", _name),
    "CAMERA_TYPE": ("camera_type", _camera_type),
    "NUM_IMAGES": ("num_images", _whole(1, MAX_IMAGES)),
    "EXPOSURE": ("exposure_us", _whole(0, MAX_EXPOSURE_US)),
    "ISO": ("gain_db", _gain),
    "INTERVAL": ("interval_us", _whole(0, MAX_INTERVAL_US)),
    "PIPELINE_ID": ("pipeline_id", _whole(-INT32_MAX - 1, INT32_MAX)),
    "OBID": ("obid", _whole(0, INT32_MAX)),
}
