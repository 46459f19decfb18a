"""Figures of merit for detectors: rates with intervals, ROC, matching of regions. aurora.md 7."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from modules.aurora.fusion import overlap
from modules.aurora.planes import Array, Bools

Z95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share with its 95 % interval (Wilson)."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of nothing."""
        return self.hits / self.total if self.total else math.nan

    def interval(self) -> tuple[float, float]:
        """Return the lower and upper limit."""
        if not self.total:
            return math.nan, math.nan
        n, p = self.total, self.value
        middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
        return middle - half, middle + half

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] n={self.total}"

    def as_json(self) -> dict[str, float]:
        """Return value, interval and number."""
        low, high = self.interval()
        return {"value": self.value, "low": low, "high": high, "n": self.total}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of an image classifier."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, truth: Bools, said: Bools) -> Confusion:
        """Count."""
        return cls(
            tp=int((truth & said).sum()),
            fp=int((~truth & said).sum()),
            tn=int((~truth & ~said).sum()),
            fn=int((truth & ~said).sum()),
        )

    def rates(self) -> dict[str, Rate]:
        """Return precision, recall, specificity, accuracy, and F1 as a rate of 2 tp."""
        tp, fp, tn, fn = self.tp, self.fp, self.tn, self.fn
        return {
            "precision": Rate(hits=tp, total=tp + fp),
            "recall": Rate(hits=tp, total=tp + fn),
            "specificity": Rate(hits=tn, total=tn + fp),
            "accuracy": Rate(hits=tp + tn, total=tp + tn + fp + fn),
        }

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)


def f1_interval(truth: Bools, said: Bools, rounds: int = 400) -> tuple[float, float]:
    """Return the 95 % interval of F1 by resampling."""
    rng = np.random.default_rng(1)
    draws = rng.integers(0, len(truth), (rounds, len(truth)))
    values = [Confusion.of(truth[draw], said[draw]).f1 for draw in draws]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def roc_auc(truth: Bools, scores: Array) -> float:
    """Return the area under the ROC curve; ties count half."""
    positive, negative = scores[truth], scores[~truth]
    if not len(positive) or not len(negative):
        return math.nan
    greater = (positive[:, None] > negative[None, :]).mean()
    return float(greater + 0.5 * (positive[:, None] == negative[None, :]).mean())


def best_threshold(truth: Bools, scores: Array) -> float:
    """Return the threshold of the largest F1; said yes if the score is at least this."""
    candidates = np.unique(scores[scores > 0])
    if not len(candidates):
        return math.inf
    values = [Confusion.of(truth, scores >= each).f1 for each in candidates]
    return float(candidates[int(np.argmax(values))])


def threshold_for_specificity(truth: Bools, scores: Array, wanted: float) -> float:
    """Return the least threshold whose specificity is at least what is wanted."""
    negative = np.sort(scores[~truth])
    index = min(math.ceil(wanted * len(negative)), len(negative) - 1)
    return float(np.nextafter(negative[index], math.inf))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How predictions meet the true regions of one image."""

    pairs: tuple[tuple[int, int, float], ...]
    touched: frozenset[int]
    false: int


def match_regions(
    truths: Sequence[Bools], counted: Sequence[bool], predictions: Sequence[Bools], least: float
) -> Match:
    """Match one to one by the larger of mask and box overlap, best first.

    A prediction is false if it neither matches nor comes within two cells of any truth.
    """
    scores = [
        (max(overlap(true, said), _box_overlap(true, said)), i, j)
        for i, true in enumerate(truths)
        for j, said in enumerate(predictions)
    ]
    pairs: list[tuple[int, int, float]] = []
    for score, i, j in sorted(scores, reverse=True):
        if score < least:
            break
        if all(i != a and j != b for a, b, _ in pairs):
            pairs.append((i, j, score))
    kernel = np.ones((5, 5), np.uint8)
    near = [cv2.dilate(true.astype(np.uint8), kernel) > 0 for true in truths]
    touched = {i for i, area in enumerate(near) if any((area & said).any() for said in predictions)}
    matched = {j for _, j, _ in pairs}
    false = sum(
        j not in matched and not any((area & said).any() for area in near)
        for j, said in enumerate(predictions)
    )
    return Match(
        pairs=tuple(pair for pair in pairs if counted[pair[0]]),
        touched=frozenset(i for i in touched if counted[i]),
        false=false,
    )


def _box_overlap(first: Bools, second: Bools) -> float:
    (top, bottom, left, right), (other_top, other_bottom, other_left, other_right) = (
        _box(first),
        _box(second),
    )
    height = min(bottom, other_bottom) - max(top, other_top)
    width = min(right, other_right) - max(left, other_left)
    if height <= 0 or width <= 0:
        return 0.0
    both = height * width
    area = (bottom - top) * (right - left)
    other = (other_bottom - other_top) * (other_right - other_left)
    return both / (area + other - both)


def _box(region: Bools) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
