"""Make one list of detections out of those of aurora_snr and aurora_cnn.

By default (`snr+`) the physical detector alone decides whether there is an aurora, because it keeps
its threshold on scenes unlike those the network was trained on; the network only gives the better
outline, and what it alone sees is listed without a signal-to-noise ratio.
"""

from __future__ import annotations

import numpy as np

from dipp.sdk import Batch, Image, Manifest, Param, Params, fail
from modules.aurora.detections import Summary, listed
from modules.aurora.exchange import (
    SUMMARY_ITEMS,
    Observation,
    attach,
    cells_of_night,
    disc_pixels,
    image_of_mask,
    observations,
    scenery_of,
)
from modules.aurora.fusion import RULES, Region, fuse
from modules.aurora.planes import CELLS, Bools

MANIFEST = Manifest(
    "aurora_fuse",
    "1.0",
    "join the detections of aurora_snr and aurora_cnn",
    params=(Param("rule", "string", "snr+", "snr+, snr, cnn, or, and"),),
    adds=SUMMARY_ITEMS,
    errors={
        1: "a disc, night or mask image has not the planes it should have",
        2: "rule is none of snr+, snr, cnn, or, and",
        3: "no mask to join: place aurora_snr or aurora_cnn before this module",
    },
)


def run(batch: Batch, params: Params) -> Batch:
    """Replace the masks of every observation by one, and its items by the joint list."""
    rule = params.get_string("rule")
    if rule not in RULES:
        fail(2, f"rule is {rule!r}")
    for observation in observations(batch):
        _join(batch, observation, rule)
    return batch


def _join(batch: Batch, observation: Observation, rule: str) -> None:
    image, night, masks = observation.disc, observation.night, observation.masks
    if night is None or not masks:
        fail(3, f"observation {image.items.get('obs')}")
    cells, _, excess = cells_of_night(night)
    first = masks.get("snr", next(iter(masks.values())))
    background = _figure(first, "bg_r")
    disc = disc_pixels(image)
    scenery = scenery_of(image, disc, cells, excess, np.isfinite(excess), background)
    joint = fuse(_regions(masks.get("snr")), _regions(masks.get("cnn")), rule, scenery)
    state = str(first.items.get("aurora_state", "none"))
    if state in ("aurora", "none") or (joint.decides and state == "no_night"):
        state = "aurora" if joint.decides else "none"
    summary = Summary(
        state=state,
        algorithm="+".join(str(mask.items.get("algo")) for mask in masks.values()),
        detections=joint.detections,
        background_r=background,
        noise_r=_figure(first, "noise_r"),
    )
    mask = image_of_mask(image, joint.numbers, "fuse")
    for each in (image, mask):
        attach(each, summary)
    old = list(masks.values())
    batch.replace(old[0], mask)
    for other in old[1:]:
        batch.replace(other)


def _figure(image: Image, key: str) -> float:
    value = image.items.get(key)
    return value if isinstance(value, float) else 0.0


def _regions(mask: Image | None) -> list[Region]:
    """Read the regions of a mask; number n is item `aurora_<n-1>`."""
    if mask is None:
        return []
    numbers = mask.pixels
    if numbers.shape != (CELLS, CELLS):
        fail(1, f"a mask is {numbers.shape}")
    known = listed(mask.items)
    regions = []
    for label in range(1, int(numbers.max()) + 1):
        cells: Bools = numbers == label
        if cells.any() and known:
            # Beyond the list only this is known: not stronger than the last one listed.
            detection = known[min(label, len(known)) - 1]
            regions.append(
                Region(
                    cells=cells,
                    snr=detection.snr,
                    score=detection.score,
                    is_diffuse=detection.kind == "diffuse",
                )
            )
    return regions
