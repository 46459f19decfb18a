"""What the second pipeline found on Mars, gathered from what the ground received."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dipp.errors import ContentError
from dipp.metadata import Metadata
from dipp.pictures import load_metadata
from dipp.policy.raw import BATCH_ITEM
from sim.payload.record import BatchFate, Finding

AURORA_PIPELINE = 2
_CAMERA = "EMUS"
_MASK = "M1"
_PAGE_WIDTH = 520
# Swaths are shown side by side in a square, and of the disc image the square in its middle.
_SWATHS_SIZE = (480, 480)
_SWATHS_GAP = 24
_PAPER = 255
# Planes of a swath, each float32.
_SAMPLE_BYTES = 9 * 4
_ZOOM = 4


def is_of_mars(metadata: Metadata) -> bool:
    """Say if a downlinked image is a product of the second pipeline."""
    return metadata.camera == _CAMERA


def load_findings(fates: Sequence[BatchFate], folder: Path, previews: Path) -> list[Finding]:
    """Return every observation of Mars, also one that was not delivered. Raises ContentError."""
    products: dict[int, list[tuple[Metadata, Path]]] = {}
    for path in sorted(folder.glob("*.json")):
        metadata = load_metadata(path)
        # A thumbnail of a batch in quarantine is no product.
        if is_of_mars(metadata) and metadata.item(BATCH_ITEM) is None:
            products.setdefault(metadata.obid, []).append((metadata, path.with_suffix(".png")))
    return [
        _finding(fate, products.get(fate.obid, []), previews)
        for fate in fates
        if fate.pipeline_id == AURORA_PIPELINE
    ]


def _finding(fate: BatchFate, products: Sequence[tuple[Metadata, Path]], previews: Path) -> Finding:
    pictures = [
        cv2.imread(str(previews / f"{fate.obid}_{index}.png")) for index in range(fate.images)
    ]
    swaths = [np.asarray(each, np.uint8) for each in pictures if each is not None]
    raw = sum(picture.shape[0] * picture.shape[1] for picture in swaths) // _ZOOM**2
    finding = {"obid": fate.obid, "swaths": _side_by_side(swaths), "raw_bytes": raw * _SAMPLE_BYTES}
    masks = [metadata for metadata, _ in products if metadata.item("fmt") == _MASK]
    views = [pair for pair in products if pair[0].item("fmt") != _MASK]
    if not masks or not views:
        return Finding(**finding, images=len(products))  # type: ignore[arg-type]
    mask, (view, path) = masks[0], views[0]
    return Finding(
        **finding,  # type: ignore[arg-type]
        view=for_page(path, is_square=True),
        images=len(products),
        mask_bytes=mask.size + len(mask.encode()),
        view_bytes=view.size,
        state=str(mask.item("aurora_state")),
        started=str(mask.item("obs")),
        detections=tuple(_detections(mask)),
    )


def _detections(mask: Metadata) -> list[dict[str, object]]:
    texts = [value for key, value in mask.items if key.startswith("aurora_") and key[7:].isdigit()]
    try:
        found = [json.loads(str(text)) for text in texts]
    except ValueError as error:
        raise ContentError(f"a detection of observation {mask.obid}: {error}") from error
    return [each for each in found if isinstance(each, dict)]


def _side_by_side(swaths: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """Return one PNG of several swaths, empty if there are none."""
    if not swaths:
        return b""
    width, height = _SWATHS_SIZE
    canvas = np.full((height, width, 3), _PAPER, np.uint8)
    across = sum(swath.shape[1] for swath in swaths) + _SWATHS_GAP * (len(swaths) + 1)
    scale = min(width / across, height / (max(s.shape[0] for s in swaths) + 2 * _SWATHS_GAP))
    left = (width - across * scale) / 2
    for swath in swaths:
        left += _SWATHS_GAP * scale
        size = (int(swath.shape[1] * scale), int(swath.shape[0] * scale))
        small = cv2.resize(swath, size, interpolation=cv2.INTER_AREA)
        top = (height - size[1]) // 2
        canvas[top : top + size[1], int(left) : int(left) + size[0]] = small
        left += swath.shape[1] * scale
    return bytes(cv2.imencode(".png", canvas)[1])


def for_page(path: Path, *, is_square: bool = False) -> bytes:
    """Return a picture, or its middle, as a JPEG of the size of the page. Raises ContentError."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ContentError(f"{path} is not a picture")
    if is_square:
        margin = max(0, picture.shape[1] - picture.shape[0]) // 2
        picture = picture[:, margin : picture.shape[1] - margin]
    height, width = picture.shape[:2]
    scale = min(1.0, _PAGE_WIDTH / width)
    size = (round(width * scale), round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 88])[1])
