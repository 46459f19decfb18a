"""How the regions of two detectors become one list. Source: aurora.md 3.7 and 7.

`snr+`: the regions of the physical detector decide; the network's outline replaces theirs where the
two overlap, and what only the network sees is listed but decides nothing. `or` and `and` join
regions whose overlap over union is at least 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from modules.aurora.detections import Detection, Scenery, measure, number_by_rank
from modules.aurora.planes import Array, Bools

RULES: Final = ("snr+", "snr", "cnn", "or", "and")
_SAME: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Cells (192, 192) of one detection and the figures of the detectors that saw it."""

    cells: Bools
    snr: float | None = None
    score: float | None = None
    is_diffuse: bool = False

    def join(self, other: Region, *, cells: Bools | None = None) -> Region:
        """Return the union with another region, or other cells, with the scores of both."""
        return Region(
            cells=self.cells | other.cells if cells is None else cells,
            snr=_larger(self.snr, other.snr),
            score=_larger(self.score, other.score),
            is_diffuse=self.is_diffuse or other.is_diffuse,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """The result: mask by number, detections in that order, and whether the image has aurora."""

    numbers: Array
    detections: Sequence[Detection]
    decides: bool


def fuse(
    physical: Sequence[Region], learned: Sequence[Region], rule: str, scenery: Scenery
) -> Joint:
    """Join the regions of the two detectors by a rule and measure what comes out."""
    if rule == "snr":
        regions = list(physical)
    elif rule == "cnn":
        regions = list(learned)
    elif rule == "snr+":
        regions = _outlined(physical, learned)
    else:
        regions = _merged(physical, learned)
        if rule == "and":
            regions = [r for r in regions if r.snr is not None and r.score is not None]
    found = {label: _measured(region, scenery) for label, region in enumerate(regions, 1)}
    numbers, detections = number_by_rank(
        [(region.cells, found[label]) for label, region in enumerate(regions, 1)],
        scenery.light.shape,
    )
    decides = any(region.snr is not None for region in regions) if rule == "snr+" else bool(regions)
    return Joint(numbers=numbers, detections=detections, decides=decides)


def _outlined(physical: Sequence[Region], learned: Sequence[Region]) -> list[Region]:
    """Give the regions of the physical detector the outlines of the network."""
    diffuse = [region for region in physical if region.is_diffuse]
    if diffuse:
        # It covers the night as a whole; what the network sees there is part of it.
        return diffuse
    replaced: set[int] = set()
    regions = []
    for outline in learned:
        region = outline
        for number, seen in enumerate(physical):
            if (seen.cells & outline.cells).any():
                region = region.join(seen, cells=outline.cells)
                replaced.add(number)
        regions.append(region)
    return [*(seen for i, seen in enumerate(physical) if i not in replaced), *regions]


def _merged(physical: Sequence[Region], learned: Sequence[Region]) -> list[Region]:
    regions = list(physical)
    for region in learned:
        same = [seen for seen in regions if overlap(seen.cells, region.cells) >= _SAME]
        for seen in same:
            region = region.join(seen)
        regions = [seen for seen in regions if not any(seen is each for each in same)]
        regions.append(region)
    return regions


def overlap(first: Bools, second: Bools) -> float:
    """Return the cells of both over the cells of either."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def _measured(region: Region, scenery: Scenery) -> Detection:
    if region.is_diffuse and scenery.total is not None:
        # It is its own background, so its brightness is that of the night as it is.
        scenery = replace(scenery, light=scenery.total)
    found = measure(region.cells, scenery)
    kind = "diffuse" if region.is_diffuse else found.kind
    return replace(found, kind=kind, snr=region.snr, score=region.score)


def _larger(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return second if first is None else first
    return max(first, second)
