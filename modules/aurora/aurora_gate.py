"""Keep or drop pictures by counting dark spots: the classifier as it was published.

Kept to reproduce the paper. On synthetic scenes it is hardly better than chance (aurora.md 7); the
detector of this product is aurora_snr. The paper gives neither block size nor C nor the method.
"""

from __future__ import annotations

import cv2
import numpy as np

from dipp.sdk import Batch, Manifest, Param, Params, fail
from modules.aurora.gate import GateSettings, count_objects
from modules.aurora.picture import IMAGE_ONLY

MANIFEST = Manifest(
    "aurora_gate",
    "1.0",
    "count objects by adaptive thresholding; drop pictures with too few",
    params=(
        Param("bg", "int", 0, "grey level behind transparent pixels", 0, 255),
        Param("method", "int", 0, "threshold over a block: 0 mean, 1 Gaussian", 0, 1),
        Param("block", "int", 11, "side of the block, odd", 3, 255),
        Param("c", "float", 2.0, "threshold below the mean of the block", -255.0, 255.0),
        Param("k", "int", 4, "side of the square that erodes objects", 1, 31),
        Param("amin", "int", 20, "least pixels of an object", 1),
        Param("min_objects", "int", 2, "drop pictures with fewer objects", 0),
        Param("obj", "string", "black", "colour of objects after thresholding: black or white"),
        Param(
            "annotate",
            "bool",
            False,
            "keep every picture; so are those without geometry",
        ),
    ),
    adds=(
        ("gate_objects", "int", "objects found"),
        ("gate_keep", "bool", "whether the classifier keeps the picture"),
    ),
    errors={
        1: "image is encoded: place this module before the encoder",
        2: "obj is neither black nor white",
        3: "block is even",
        4: "8 bits in 1, 3 or 4 channels are needed",
    },
)


def run(batch: Batch, params: Params) -> Batch:
    """Count objects in every picture; drop those with too few, unless told to annotate."""
    cv2.setNumThreads(1)
    settings = _settings(params)
    least, annotate = params.get_int("min_objects"), params.get_bool("annotate")
    for image in batch:
        if image.is_encoded:
            fail(1, f"encoded as {image.items.get('enc')}")
        pixels = image.pixels
        if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
            fail(4, f"{pixels.shape} of {pixels.dtype}")
        count = count_objects(pixels, settings)
        keep = count >= least
        # A picture without geometry is only described: where Mars lies in it is a guess.
        if not keep and not annotate and image.items.get("algo") != IMAGE_ONLY:
            name = image.items.get("obs", image.metadata.obid)
            batch.drop(image, f"observation {name}: {count} objects, {least} wanted")
            continue
        image.set_item("gate_objects", count)
        image.set_item("gate_keep", keep)
    return batch


def rehearse(params: Params) -> None:
    """Count in a tiny picture, so that the first real one finds everything warm."""
    cv2.setNumThreads(1)
    count_objects(np.zeros((32, 32, 4), np.uint8), _settings(params))


def _settings(params: Params) -> GateSettings:
    if params["obj"] not in ("black", "white"):
        fail(2, f"obj is {params['obj']!r}")
    block = params.get_int("block")
    if block % 2 == 0:
        fail(3, f"block is {block}")
    return GateSettings(
        background=params.get_int("bg"),
        is_gaussian=params.get_int("method") == 1,
        block=block,
        offset=params.get_float("c"),
        kernel=params.get_int("k"),
        least_area=params.get_int("amin"),
        is_black=params["obj"] == "black",
    )
