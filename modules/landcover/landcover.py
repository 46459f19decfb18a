"""Name what covers the ground in every picture, with MobileNetV2 (TFLite).

The network gives a score per class, together 1; the highest names the picture, unless it is below
`least`. It was trained on the Blue Marble mosaic, not on pictures of this camera:
docs/landcover.md says what that is worth. A picture of another size than the network's is resized.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail
from modules.common.tflite import Model, ModelError

MODELS = Path(__file__).resolve().parent / "models"
UNKNOWN = "unknown"
MANIFEST = Manifest(
    "landcover",
    "1.0",
    "name what covers the ground, with MobileNetV2",
    params=(
        Param("model", "string", "landcover.tflite", "file in models/, or an absolute path"),
        Param("delegate", "string", "", "library of an NPU, e.g. /usr/lib/libvx_delegate.so"),
        Param("least", "float", 0.5, "the class is `unknown` below this score", 0.0, 1.0),
        Param("mix", "bool", False, "add the scores of all classes, in percent"),
    ),
    adds=(
        ("class", "string", "water, forest, grass, crop, bare, ice or unknown"),
        ("score", "float", "score of the best class, 0..1; no probability"),
        ("mix", "string", "with `mix`: scores of at least 1 %, the best first"),
    ),
    errors={
        1: "image is encoded: place this module before the encoder",
        2: "three channels of 8 bits are needed",
        3: "the model cannot be loaded: missing, damaged, or no runtime",
        4: "the model is not what its side-car says",
    },
)


class Network:
    """A checked model with the buffer that its input is made in."""

    def __init__(self, model: Model) -> None:
        """Read the side-car. Raises ModelError if it does not fit the model."""
        self._model = model
        try:
            size = int(model.sidecar["input"]["size"])
            self._scale = float(model.sidecar["input"]["scale"])
            self._offset = float(model.sidecar["input"]["offset"])
            self.classes = tuple(map(str, model.sidecar["classes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"side-car: {type(error).__name__}: {error}") from error
        shapes = (model.input_shape, model.output_shape)
        if shapes != ((1, size, size, 3), (1, len(self.classes))):
            raise ModelError(f"{shapes}, side-car: {size} pixels, {len(self.classes)} classes")
        self.size = size
        self._input = np.zeros((1, size, size, 3), np.float32)

    def scores(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the score of every class for a uint8 RGB picture."""
        if pixels.shape[:2] != (self.size, self.size):
            pixels = cv2.resize(pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
        np.multiply(pixels, self._scale, out=self._input[0], dtype=np.float32)
        self._input += np.float32(self._offset)
        scores: npt.NDArray[np.float32] = self._model.run(self._input)[0]
        return scores


# Filled by `load` in the pipeline host, inherited by the children.
_NETWORKS: dict[tuple[str, str], Network] = {}


def load(params: Params) -> None:
    """Load the model once. Ends with 3 or 4."""
    _network(params)


def run(batch: Batch, params: Params) -> Batch:
    """Add `class` and `score` to every image."""
    cv2.setNumThreads(1)
    network = _network(params)
    counts: dict[str, int] = {}
    for image in batch:
        name = _classify(image, network, params)
        counts[name] = counts.get(name, 0) + 1
    batch.log(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return batch


def rehearse(params: Params) -> None:
    """Run the network on nothing, so that the first real picture finds it warm."""
    cv2.setNumThreads(1)
    network = _network(params)
    network.scores(np.zeros((network.size, network.size, 3), np.uint8))


def _network(params: Params) -> Network:
    key = params.get_string("model"), params.get_string("delegate")
    if key not in _NETWORKS:
        try:
            model = Model(MODELS / key[0], key[1])
        except ModelError as error:
            fail(3, str(error))
        try:
            _NETWORKS[key] = Network(model)
        except ModelError as error:
            fail(4, str(error))
    return _NETWORKS[key]


def _classify(image: Image, network: Network, params: Params) -> str:
    if image.is_encoded:
        fail(1, f"encoded as {image.items.get('enc')}")
    meta = image.metadata
    if meta.channels != 3 or meta.bits_pixel > 8:
        fail(2, f"{meta.channels} channels of {meta.bits_pixel} bits")
    scores = network.scores(image.pixels)
    best = int(scores.argmax())
    score = float(scores[best])
    name = network.classes[best] if score >= params.get_float("least") else UNKNOWN
    found: list[tuple[str, str | float]] = [("class", name), ("score", score)]
    if params.get_bool("mix"):
        found.append(("mix", _mix(scores, network.classes)))
    others = tuple(item for item in meta.items if item[0] not in ("class", "score", "mix"))
    image.update(items=(*others, *found))
    return name


def _mix(scores: npt.NDArray[np.float32], classes: tuple[str, ...]) -> str:
    percents = [
        (round(100 * float(score)), name) for score, name in zip(scores, classes, strict=True)
    ]
    # Equal scores in the order of the classes.
    percents.sort(key=lambda pair: -pair[0])
    return " ".join(f"{name}:{percent}" for percent, name in percents if percent)
