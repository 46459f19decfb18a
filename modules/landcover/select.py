"""Keep a share of the images of a batch: the clear ones, of the wanted classes, with high scores.

The order of merit: cloud cover within `cloud_max` before the others, then the classes in the order
of `prefer`, then the higher score, then the earlier image. It depends on the metadata only, so the
same batch gives the same choice. What is kept stays in its order. `cloud_frac` is from cloud_cover;
place that after `patches` to judge each patch of its own.
"""

from __future__ import annotations

import math

from dipp.sdk import Batch, Image, Manifest, Param, Params

MANIFEST = Manifest(
    "select",
    "1.0",
    "keep the best share of the images, by class, score and cloud cover",
    params=(
        Param("share", "float", 0.2, "share of the images to keep, rounded up", 0.0, 1.0),
        Param("prefer", "string", "", "classes, the most wanted first: forest,crop,grass"),
        Param("cloud_max", "float", 1.0, "images with more cloud go to the end", 0.0, 1.0),
    ),
    adds=(("rank", "int", "place in the order of merit, from 1"),),
)
# Parameters arrive as 32-bit floats: a fifth of 100 is 20 although 0.2 is a little more than that.
_ROUNDING = 1e-6

_Merit = tuple[bool, int, float, int]


def run(batch: Batch, params: Params) -> Batch:
    """Leave the best images in the batch."""
    images = batch.images
    wanted = [name.strip() for name in params.get_string("prefer").split(",")]
    limit = params.get_float("cloud_max")
    order = sorted(_merit(image, number, wanted, limit) for number, image in enumerate(images))
    count = math.ceil(params.get_float("share") * len(images) - _ROUNDING * len(images))
    ranks = {merit[-1]: rank for rank, merit in enumerate(order[:count], 1)}
    for number, rank in ranks.items():
        images[number].set_item("rank", rank)
    batch.images = [image for number, image in enumerate(images) if number in ranks]
    batch.log(f"{len(batch.images)} of {len(images)} images kept")
    return batch


def _merit(image: Image, number: int, wanted: list[str], cloud_max: float) -> _Merit:
    items = image.items
    name = items.get("class")
    place = wanted.index(name) if name in wanted else len(wanted)
    cloud = _number(items.get("cloud_frac"))
    return cloud > cloud_max, place, -_number(items.get("score")), number


def _number(value: object) -> float:
    """Return a figure of an item; what is missing or no figure counts as 0."""
    return float(value) if isinstance(value, float | int) and value is not True else 0.0
