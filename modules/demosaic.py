"""Turn the raw mosaic of a colour camera into an RGB picture that looks right.

Steps: optional correction of vignetting, black level, white balance or percentile stretch, tone
curve, bilinear interpolation. `mode` names the order. `8bit` puts every word through one table per
colour (balance, stretch and curve at once) and interpolates bytes: four times faster. `16bit`
interpolates linear words and applies the curve afterwards: exact at edges. With gamma 1 the two
differ by rounding only. `deep` is `16bit` that keeps 16 bits per sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail

MANIFEST = Manifest(
    "demosaic",
    "1.0",
    "raw Bayer mosaic to RGB, with white balance or stretch and a tone curve",
    params=(
        Param("pattern", "string", "GR", "first two filters of the first row: GR, RG, BG or GB"),
        Param("mode", "string", "8bit", "8bit, 16bit or deep; see the module's text"),
        Param("stretch", "string", "percentile", "none, balance or percentile"),
        Param("low_percent", "float", 0.5, "percentile: share of samples below black", 0.0, 50.0),
        Param("high_percent", "float", 99.5, "percentile: share up to white", 50.0, 100.0),
        Param("gamma", "float", 1.4, "tone curve: out = in ** (1 / gamma)", 0.2, 5.0),
        Param("black", "int", 60, "word of a dark pixel; none and balance", 0, 65534),
        Param("white_red", "float", 1.61, "balance: gain of red", 0.1, 10.0),
        Param("white_blue", "float", 1.39, "balance: gain of blue", 0.1, 10.0),
        Param("focal_px", "float", 0.0, "undo cos^4 vignetting: focal length / pixel pitch", 0.0),
    ),
    adds=(
        ("bayer", "string", "pattern that was read"),
        ("clipped", "float", "share of sampled words at the upper end of the camera's range"),
    ),
    errors={
        1: "image is encoded",
        2: "image is not a mosaic: one channel of 9 to 16 bits is needed",
        3: "pattern is not GR, RG, BG or GB",
        4: "mode is not 8bit, 16bit or deep",
        5: "stretch is not none, balance or percentile",
        6: "width and height must be even and at least 4",
    },
)

# Colour (0 red, 1 green, 2 blue) of the 2 x 2 cell, row by row, and OpenCV's code for it.
_PATTERNS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "GR": ((1, 0, 2, 1), cv2.COLOR_BayerGRBG2RGB),
    "RG": ((0, 1, 1, 2), cv2.COLOR_BayerRGGB2RGB),
    "BG": ((2, 1, 1, 0), cv2.COLOR_BayerBGGR2RGB),
    "GB": ((1, 2, 0, 1), cv2.COLOR_BayerGBRG2RGB),
}
_MODES = ("8bit", "16bit", "deep")
_STRETCHES = ("none", "balance", "percentile")
_WORDS = 65536
# Every 8th cell in both directions: 80 000 samples per colour of a full frame.
_SAMPLE_STEP = 16
_STRIP_ROWS = 64

Array = npt.NDArray[Any]


def run(batch: Batch, params: Params) -> Batch:
    """Replace every mosaic by an RGB picture of the same size."""
    cv2.setNumThreads(1)
    _check(params)
    for image in batch:
        batch.replace(image, _demosaic(batch, image, params))
    return batch


def rehearse(params: Params) -> None:
    """Interpolate a tiny picture, so that the first real one finds OpenCV warm."""
    cv2.setNumThreads(1)
    for kind in (np.uint8, np.uint16):
        cv2.cvtColor(np.zeros((8, 8), kind), cv2.COLOR_BayerGRBG2RGB)


def _check(params: Params) -> None:
    if params["pattern"] not in _PATTERNS:
        fail(3, f"pattern {params['pattern']!r}")
    if params["mode"] not in _MODES:
        fail(4, f"mode {params['mode']!r}")
    if params["stretch"] not in _STRETCHES:
        fail(5, f"stretch {params['stretch']!r}")


def _demosaic(batch: Batch, image: Image, params: Params) -> Image:
    words = _words(image)
    pattern, mode = params.get_string("pattern"), params.get_string("mode")
    colours, code = _PATTERNS[pattern]
    top = (1 << image.metadata.bits_pixel) - 1
    if params.get_float("focal_px") > 0:
        words = _flatten(words, params.get_float("focal_px"), params.get_int("black"), top)
    lines = _lines(words, colours, params, top)
    gamma = params.get_float("gamma")
    height, width = words.shape
    if mode == "8bit":
        mosaic = _through_tables(words, colours, [_table(line, gamma, 255) for line in lines])
        result = batch.allocate((height, width, 3), np.uint8, zeroed=False)
        cv2.cvtColor(mosaic, code, dst=result)
    else:
        mosaic = _through_tables(words, colours, [_table(line, 1.0, 65535) for line in lines])
        linear = np.asarray(cv2.cvtColor(mosaic, code))
        end = 65535 if mode == "deep" else 255
        curve = _table((0.0, 65535.0), gamma, end)
        result = batch.allocate((height, width, 3), curve.dtype, zeroed=False)
        # In strips: a fancy index makes an index array eight times the size of its bytes.
        for rows in _strips(height):
            result[rows] = curve[linear[rows]]
    rgb = image.derive(result, bits_pixel=8 * result.itemsize)
    rgb.add_item("bayer", pattern)
    rgb.add_item("clipped", float((words[::_SAMPLE_STEP, ::_SAMPLE_STEP] >= top).mean()))
    return rgb


def _words(image: Image) -> Array:
    meta = image.metadata
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    if meta.channels != 1 or not 9 <= meta.bits_pixel <= 16:
        fail(2, f"{meta.channels} channels of {meta.bits_pixel} bits")
    if meta.width % 2 or meta.height % 2 or meta.width < 4 or meta.height < 4:
        fail(6, f"{meta.width} x {meta.height}")
    return image.pixels


def _lines(
    words: Array, colours: tuple[int, ...], params: Params, top: int
) -> list[tuple[float, float]]:
    """Return for red, green, blue the words that become black and white."""
    black = float(min(params.get_int("black"), top - 1))
    gains = (1.0, 1.0, 1.0)
    if params["stretch"] != "none":
        gains = (params.get_float("white_red"), 1.0, params.get_float("white_blue"))
    lines = [(black, black + (top - black) / gain) for gain in gains]
    if params["stretch"] != "percentile":
        return lines
    ends = params.get_float("low_percent"), params.get_float("high_percent")
    found = [_ends(np.concatenate(_samples(words, colours, colour)), ends) for colour in range(3)]
    # No colour may become white later than where green saturates, else saturated clouds, in which
    # all words are equal, would come out green.
    return [
        (min(low, white - 1), min(high, white))
        for (low, high), (_, white) in zip(found, lines, strict=True)
    ]


def _samples(words: Array, colours: tuple[int, ...], colour: int) -> list[Array]:
    return [
        words[place // 2 :: _SAMPLE_STEP, place % 2 :: _SAMPLE_STEP].reshape(-1)
        for place in range(4)
        if colours[place] == colour
    ]


def _ends(samples: Array, percents: tuple[float, float]) -> tuple[float, float]:
    low, high = np.percentile(samples, percents)
    # An even picture has no range to stretch; it becomes black instead of noise.
    return float(low), max(float(high), float(low) + 16.0)


def _table(line: tuple[float, float], gamma: float, end: int) -> Array:
    low, high = line
    share = np.clip((np.arange(_WORDS) - low) / (high - low), 0, 1)
    table: Array = np.rint(share ** (1 / gamma) * end)
    return table.astype(np.uint8 if end == 255 else np.uint16)


def _through_tables(words: Array, colours: tuple[int, ...], tables: list[Array]) -> Array:
    mosaic = np.empty(words.shape, tables[0].dtype)
    for place, colour in enumerate(colours):
        cells = np.s_[place // 2 :: 2, place % 2 :: 2]
        mosaic[cells] = tables[colour].take(words[cells])
    return mosaic


def _flatten(words: Array, focal_px: float, black: int, top: int) -> Array:
    """Return the mosaic with the fall of light towards the corners undone."""
    height, width = words.shape
    across = ((np.arange(width) - (width - 1) / 2) / focal_px) ** 2
    down = ((np.arange(height) - (height - 1) / 2) / focal_px) ** 2
    flat = np.empty_like(words)
    for rows in _strips(height):
        gain = ((1 + down[rows, None] + across) ** 2).astype(np.float32)
        light = (words[rows].astype(np.float32) - black) * gain + (black + 0.5)
        flat[rows] = np.clip(light, 0, top)
    return flat


def _strips(height: int) -> Iterator[slice]:
    return (slice(row, row + _STRIP_ROWS) for row in range(0, height, _STRIP_ROWS))
