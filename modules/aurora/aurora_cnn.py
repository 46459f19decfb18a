"""Find aurora with a small segmentation network (TFLite).

Reads the night image that aurora_snr leaves in the batch, or makes one itself. Adds a mask to every
disc image; without aurora_snr before it, also the detections as items.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail
from modules.aurora.detections import Summary, measure, number_by_rank
from modules.aurora.exchange import (
    SUMMARY_ITEMS,
    Observation,
    attach,
    cells_of_night,
    disc_pixels,
    image_of_mask,
    image_of_night,
    observations,
    scenery_of,
)
from modules.aurora.outline import bright_cells, trim
from modules.aurora.planes import CELLS, ON_DISC_CELLS
from modules.aurora.snr import SnrSettings, crop_cells, detect
from modules.aurora.unet import OUTPUT_CELLS, network_input, segments, trusted
from modules.common.tflite import Model, ModelError

MODELS = Path(__file__).resolve().parent / "models"
MANIFEST = Manifest(
    "aurora_cnn",
    "1.1",
    "find aurora with a segmentation network",
    params=(
        Param("model", "string", "aurora_unet.tflite", "file in models/, or an absolute path"),
        Param("thr", "float", 0.0, "least score of a detection; 0: that of the side-car", 0.0),
        Param("edge_r", "float", 1.0, "R of the edge of an outline; 0: as wide as detected", 0.0),
        Param("threads", "int", 1, "threads of the interpreter; more hang after a fork", 1, 1),
        Param("delegate", "string", "", "library of an NPU, e.g. /usr/lib/libvx_delegate.so"),
    ),
    adds=SUMMARY_ITEMS,
    errors={
        1: "a disc or night image has not the planes it should have",
        2: "the model or its delegate cannot be loaded: missing, damaged, or no runtime",
        3: "the model has another shape than the side-car says",
    },
)
# Filled by `load` in the pipeline host, inherited by the children.
_MODELS: dict[tuple[str, str], Model] = {}


def load(params: Params) -> None:
    """Load the model once. Ends with 2 or 3."""
    _model(params)


def run(batch: Batch, params: Params) -> Batch:
    """Add a mask, and where there are none yet detections, to every disc image."""
    cv2.setNumThreads(1)
    model = _model(params)
    limit = params.get_float("thr") or float(model.sidecar.get("threshold", 1.0))
    for observation in observations(batch):
        _look(batch, observation, model, limit, params.get_float("edge_r"))
    return batch


def rehearse(params: Params) -> None:
    """Run the network on nothing, so that the first real image finds it warm."""
    model = _model(params)
    model.run(np.zeros(model.input_shape, np.float32))


def _model(params: Params) -> Model:
    name, delegate = params.get_string("model"), params.get_string("delegate")
    if (name, delegate) not in _MODELS:
        try:
            model = Model(MODELS / name, delegate)
        except ModelError as error:
            fail(2, str(error))
        channels = model.sidecar.get("channels")
        wanted = ((1, CELLS, CELLS, channels), (1, OUTPUT_CELLS, OUTPUT_CELLS, 1))
        if channels not in (3, 4) or (model.input_shape, model.output_shape) != wanted:
            fail(3, f"{model.input_shape} to {model.output_shape}, side-car: {channels} channels")
        _MODELS[name, delegate] = model
    return _MODELS[name, delegate]


def _look(
    batch: Batch, observation: Observation, model: Model, limit: float, edge_r: float
) -> None:
    image = observation.disc
    disc = disc_pixels(image)
    extra: list[Image] = []
    if observation.night is None:
        cells = crop_cells(disc)
        observation.night = image_of_night(image, cells, detect(cells, SnrSettings()))
        extra.append(observation.night)
    cells, snr, excess = cells_of_night(observation.night)
    tensor = network_input(cells, snr, model.input_shape[3])
    found = segments(model.run(tensor[None])[0, ..., 0], cells)
    inside = np.isfinite(excess)
    dark = trusted(cells)
    background = float(np.median(cells.radiance[dark])) if dark.any() else 0.0
    scenery = scenery_of(image, disc, cells, excess, inside, background)
    bright = bright_cells(scenery.light, cells.error, edge_r) if edge_r else inside
    regions = [
        (trim(found.labels == label, bright) if edge_r else found.labels == label, score)
        for label, score in found.scores.items()
        if score >= limit
    ]
    numbers, detections = number_by_rank(
        [(region, replace(measure(region, scenery), score=score)) for region, score in regions],
        cells.known.shape,
    )
    if not (cells.known & ON_DISC_CELLS).any():
        state = "bad_data"
    elif not dark.any():
        state = "no_night"
    else:
        state = "aurora" if detections else "none"
    summary = Summary(
        state=state,
        algorithm=f"cnn/{MANIFEST.version}/{model.sha256[:8]}",
        detections=detections,
        background_r=background,
    )
    mask = image_of_mask(image, numbers, "cnn")
    attach(mask, summary)
    if "aurora_state" not in image.items:
        attach(image, summary)
    last = list(observation.masks.values())[-1:] or ([] if extra else [observation.night])
    place = (last or [image])[0]
    batch.replace(place, place, *extra, mask)
