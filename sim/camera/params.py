"""The parameter table of the camera node: the flown three, and ours with ids left free.

Source: dipp.md 16. A parameter array has at most 254 elements on the wire, so the capture string
holds 253 bytes here instead of the flown 512; a push could not carry more anyway.
"""

from __future__ import annotations

from csp.param.table import ParamSpec, ParamTable
from csp.param.types import Mask, ParamType
from sim.camera.capture import CameraType, CaptureRequest

AREA = "config"
AREA_SIZE = 5000  # as flown
# Flown `error_log` lies inside the capture string (D24); ours are behind it.
_SETTINGS_AT = 0x200

# By wire value of `camera_type`.
CAMERA_TYPES: tuple[CameraType, ...] = tuple(CameraType)


def _setting(
    number: int, name: str, kind: ParamType, offset: int, default: int | float | str, help: str,
    unit: str = "", size: int = 1,
) -> ParamSpec:  # fmt: skip
    return ParamSpec(
        id=number, name=name, type=kind, array_size=size, mask=Mask.CONF, unit=unit, help=help,
        area=AREA, address=_SETTINGS_AT + offset, default=default,
    )  # fmt: skip


def _telemetry(
    number: int, name: str, kind: ParamType, help: str, unit: str = "", extra: Mask = Mask.NONE
) -> ParamSpec:
    mask = Mask.READONLY | Mask.TELEM | extra
    return ParamSpec(id=number, name=name, type=kind, mask=mask, unit=unit, help=help)


SPECS: tuple[ParamSpec, ...] = (
    ParamSpec(
        id=1, name="capture_param", type=ParamType.STRING, array_size=254, mask=Mask.REMOTE,
        help="Capture string KEY=value;... Writing it starts a capture",
    ),
    ParamSpec(
        id=2, name="error_log", type=ParamType.U16, mask=Mask.READONLY,
        help="Result of the last capture: 0 ok, 1xx request, 200 capture, 3xx hand-over",
    ),
    ParamSpec(
        id=10, name="capture_image", type=ParamType.U8, mask=Mask.CONF,
        help="Write 1 to start a capture with the settings below",
    ),
    _setting(11, "camera_type", ParamType.U8, 0, 0, "0 VMB colour, 1 IR, 2 TEST, 3 EMUS swaths"),
    _setting(12, "camera_id", ParamType.STRING, 1, "", "Model, as CAMERA_ID", size=32),
    _setting(13, "num_images", ParamType.U8, 36, 1, "Images per capture"),
    _setting(14, "exposure", ParamType.U32, 40, 0, "0 = automatic", unit="us"),
    _setting(15, "iso", ParamType.FLOAT, 44, 0.0, "Gain, 0..48", unit="dB"),
    _setting(16, "interval", ParamType.U32, 48, 0, "Between two images", unit="us"),
    _setting(17, "pipeline_id", ParamType.U8, 52, 1, "DIPP pipeline that gets the batch"),
    _setting(18, "scene", ParamType.U8, 53, 0, "Picture looked at: 1.. fixed, 0 in turn by obid"),
    _setting(19, "illumination", ParamType.FLOAT, 56, 1.0, "Light on the ground, 1 = as recorded"),
    ParamSpec(
        id=31, name="serial0", type=ParamType.I32, mask=Mask.HWREG, help="Of the camera controller"
    ),
    _telemetry(40, "busy", ParamType.U8, "1 while a capture runs"),
    _telemetry(41, "images_total", ParamType.U32, "Images taken since boot"),
    _telemetry(42, "batches_sent", ParamType.U32, "Batches announced to DIPP since boot"),
    _telemetry(43, "captures_failed", ParamType.U32, "Refused or failed", extra=Mask.ERRCNT),
    _telemetry(44, "queue_full", ParamType.U32, "Times the queue was full", extra=Mask.ERRCNT),
    _telemetry(45, "last_obid", ParamType.U32, "Observation id of the last capture"),
    _telemetry(46, "last_exposure", ParamType.U32, "Exposure that was used", unit="us"),
    _telemetry(47, "last_bytes", ParamType.U32, "Size of the last batch", unit="B"),
    _telemetry(48, "frame_time", ParamType.U32, "Time the last image took to make", unit="us"),
    ParamSpec(
        id=49, name="next_obid", type=ParamType.U32, mask=Mask.READONLY | Mask.TELEM, area=AREA,
        address=_SETTINGS_AT + 60, default=1, help="Observation id of the next capture",
    ),
)  # fmt: skip


def make_table(serial: int) -> ParamTable:
    """Return the table of one camera."""
    table = ParamTable(SPECS)
    table["serial0"].set(serial)
    return table


def configured_request(table: ParamTable) -> CaptureRequest:
    """Return the capture that the settings describe, unchecked."""
    number = int(table["camera_type"].get())
    return CaptureRequest(
        camera_id=str(table["camera_id"].get()),
        camera_type=CAMERA_TYPES[number] if number < len(CAMERA_TYPES) else CameraType.VMB,
        num_images=int(table["num_images"].get()),
        exposure_us=int(table["exposure"].get()),
        gain_db=float(table["iso"].get()),
        interval_us=int(table["interval"].get()),
        pipeline_id=int(table["pipeline_id"].get()),
    )
