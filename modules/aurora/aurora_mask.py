"""Make everything outside the disc of Mars transparent.

With `find_disc` the disc is looked for in pictures without geometry, which are then shifted and
scaled so that it lies where it does in heat maps. Heat maps of the chain have Mars in a known place
and are never searched. Pictures from elsewhere are RGB, as everywhere in DIPP; from here on they
are BGR, as heat maps are.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail
from modules.aurora.limb import Circle, find_disc
from modules.aurora.picture import ALPHA_FORMAT, HEAT_FORMAT, IMAGE_ONLY
from modules.aurora.planes import DISC_HEIGHT, DISC_WIDTH

Pixels = npt.NDArray[np.uint8]
MANIFEST = Manifest(
    "aurora_mask",
    "1.0",
    "heat map or plain picture to BGRA, transparent outside the disc",
    params=(
        Param("cx", "int", 320, "column of the centre of the disc", 0, 4095),
        Param("cy", "int", 230, "row of the centre of the disc", 0, 4095),
        Param("radius", "int", 170, "radius of the disc in pixels", 8, 4095),
        Param("find_disc", "bool", False, "without geometry, look for the disc and move it"),
    ),
    adds=(
        ("fmt", "string", "A4"),
        ("algo", "string", "image-only, for a picture without geometry"),
        ("mars_x", "float", "column of the centre of the disc that was found"),
        ("mars_y", "float", "row of the centre of the disc that was found"),
        ("mars_r", "float", "radius of the disc that was found"),
        ("mars_conf", "float", "how well it fits, 0..1"),
    ),
    errors={
        1: "image is encoded: place this module before the encoder",
        2: "8 bits in 1, 3 or 4 channels are needed",
    },
)


def run(batch: Batch, params: Params) -> Batch:
    """Replace every picture by one with an alpha channel, 640 x 480 if the disc was looked for."""
    cv2.setNumThreads(1)
    wanted = Circle(
        x=params.get_int("cx"),
        y=params.get_int("cy"),
        radius=params.get_int("radius"),
        confidence=1.0,
    )
    for image in batch:
        batch.replace(image, _mask(image, wanted, params.get_bool("find_disc")))
    return batch


def rehearse(params: Params) -> None:
    """Look for a disc in an even picture, so that the first real one finds the tables made."""
    cv2.setNumThreads(1)
    if params.get_bool("find_disc"):
        find_disc(np.zeros((DISC_HEIGHT, DISC_WIDTH, 3), np.uint8))


def _mask(image: Image, wanted: Circle, look: bool) -> Image:
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    pixels = image.pixels
    if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        fail(2, f"{pixels.shape} of {pixels.dtype}")
    is_plain = image.items.get("fmt") != HEAT_FORMAT
    colour = _from_elsewhere(pixels) if is_plain else pixels
    found = None
    if look and is_plain:
        # Discs are looked for in pictures of one size.
        scale = min(DISC_WIDTH / colour.shape[1], DISC_HEIGHT / colour.shape[0])
        fitted = _move(colour, scale, 0.0, 0.0)
        found = find_disc(fitted)
        factor = wanted.radius / found.radius
        colour = _move(fitted, factor, wanted.x - factor * found.x, wanted.y - factor * found.y)
    planes = (*cv2.split(colour), _alpha(colour.shape[:2], wanted))
    result = image.derive(np.asarray(cv2.merge(planes), np.uint8))
    result.set_item("fmt", ALPHA_FORMAT)
    if is_plain:
        result.set_item("algo", IMAGE_ONLY)
    if found is not None:
        # In pixels of the picture that came in.
        for key, value in (("x", found.x), ("y", found.y), ("r", found.radius)):
            result.set_item(f"mars_{key}", value / scale)
        result.set_item("mars_conf", found.confidence)
    return result


def _from_elsewhere(pixels: Pixels) -> Pixels:
    """Return grey, RGB or RGBA as BGR; what is transparent is white, which means no data."""
    if pixels.ndim == 2:
        return np.dstack((pixels,) * 3)
    colour = np.ascontiguousarray(pixels[..., 2::-1])
    if pixels.shape[2] == 4:
        colour[pixels[..., 3] == 0] = 255
    return colour


def _move(colour: Pixels, scale: float, x: float, y: float) -> Pixels:
    matrix = np.array([[scale, 0, x], [0, scale, y]], np.float64)
    size = (DISC_WIDTH, DISC_HEIGHT)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    white = (255, 255, 255)
    return np.asarray(cv2.warpAffine(colour, matrix, size, flags=how, borderValue=white), np.uint8)


def _alpha(shape: tuple[int, ...], circle: Circle) -> Pixels:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = np.hypot(columns - circle.x, rows - circle.y) <= circle.radius
    return np.where(inside, 255, 0).astype(np.uint8)
